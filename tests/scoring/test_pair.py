"""The check of a model before it scores: against the plain model, and which classes are refused from step 2 on."""

import re
from pathlib import Path

import pytest

import compute_retrieval_heads
import make_reference_model
from common.errors import InputError
from common.model.masking import Masking
from common.scoring.loss import PairScorer
from common.scoring.pair import PairOptions, load_pair, require_scorable
from tests.conftest import SENTENCES, error_of, save_pair, tiny_model, write_jsonl

MIXTURE = {"num_local_experts": 4, "output_router_logits": True}


def test_a_router_s_own_loss_does_not_count(tmp_path, bpe_folder):
    model = tiny_model("Mixtral", **MIXTURE)
    ids = model.dummy_inputs["input_ids"]
    assert model(ids, labels=ids).loss - model(ids, labels=ids, output_router_logits=False).loss > 1e-3
    save_pair(tmp_path, bpe_folder, [(1, 3)], model)
    pair = load_pair(PairOptions(f"{tmp_path}/model", f"{tmp_path}/reference-model", seq_len=64))
    assert pair.masked_heads == [(1, 3)]


REFUSED = {
    "OPT": ({"ffn_dim": 96, "word_embed_proj_dim": 64, "head_dim": ...}, "its output head cannot run on its own"),
    "Llama4Text": ({"num_local_experts": 2, "intermediate_size_mlp": 96}, "it cannot be scored"),
    "CodeGen": (
        {"n_embd": 64, "n_layer": 4, "n_head": 8, "rotary_dim": 4, "head_dim": ...},
        "heads cannot be (watched and )?masked",
    ),
    "Bloom": ({}, "ALiBi biases"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_cannot_be_scored_is_refused_from_step_2_on(name, tmp_path, bpe, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings, reason = REFUSED[name]
    model = tiny_model(name, **settings)
    model.save_pretrained("model")
    bpe.save(Path("model"))
    write_jsonl("probes.jsonl", [{"id": 0, "prompt": f"{SENTENCES[0]} The quick", "answer": " brown fox"}])
    Path("heads.txt").write_text("1,1\n")
    lines = {
        error_of(compute_retrieval_heads, "--model model --probes probes.jsonl --out new.txt", capsys),
        error_of(make_reference_model, "--base_model model --retrieval_heads heads.txt --out new", capsys),
    }
    with pytest.raises(InputError) as refused:
        require_scorable(model)
    assert lines == {f"error: {refused.value}"}
    assert re.search(reason, str(refused.value))
    assert not Path("new.txt").exists() and not Path("new").exists()


@pytest.mark.parametrize("name", ["OPT", "Llama4Text"])
def test_the_reason_is_that_of_scoring(name):
    model = tiny_model(name, **REFUSED[name][0])
    with pytest.raises(InputError) as refused:
        require_scorable(model)
    with pytest.raises(Exception) as scoring:
        PairScorer(model, masked=Masking("zero", [(1, 1)])).score([model.dummy_inputs["input_ids"][0].numpy()])
    assert str(scoring.value) in str(refused.value)
