"""attention_influence_scoring.py: numbers that go wrong quietly are said and counted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import attention_influence_scoring
import compute_retrieval_heads
import fineweb
import make_reference_model
import rank_scores
from common.table.tables import read_scores
from common.text.tokenization import load_tokenizer
from tests.conftest import error_of, save_pair, tiny_model, write_jsonl


@pytest.fixture
def half(tmp_path, bpe_folder, monkeypatch):
    """A model in which one token overflows float16, its reference, and a corpus with and without that token."""
    monkeypatch.chdir(tmp_path)
    model = tiny_model("Llama")
    tokenizer = load_tokenizer(bpe_folder)
    [bad] = tokenizer.encode("~")
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = 65_000
        model.model.layers[0].mlp.down_proj.weight.mul_(100)
    save_pair(tmp_path, bpe_folder, [(2, 3)], model)
    texts = ["The quick brown fox.", "One ~ and", "Two ~", "The lazy dog."]
    write_jsonl("corpus.jsonl", ({"text": text} for text in texts))
    fineweb.main("--tokenizer model --input corpus.jsonl --out_dir shards".split())


def test_losses_that_are_not_finite_are_said_once_counted_and_never_ranked(half, capsys):
    capsys.readouterr()
    command = "--base_model model --data shards/*.bin --seq_len 64 --out s.tsv --dtype float16"
    attention_influence_scoring.main(command.split())
    out, err = capsys.readouterr()
    assert err.count("its loss is not finite") == 1
    assert "2 of 4 documents have a loss that is not finite" in out
    for name in ("s.tsv", "s.parquet"):
        table = read_scores(Path(name))
        assert np.isfinite(table["AI_Score"]).tolist() == [True, False, False, True]
        rank_scores.main(f"--scores {name} --top_pct 100 --out top.tsv".split())
        assert len(pd.read_csv("top.tsv", sep="\t")) == 2
        assert "2 rows have no finite AI_Score and were not ranked" in capsys.readouterr().out
    assert "nan" in Path("s.tsv").read_text()


def test_weights_that_are_not_finite_are_refused(half, capsys):
    model = transformers.AutoModelForCausalLM.from_pretrained("model")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained("model")
    line = error_of(compute_retrieval_heads, "--model model --probes none --out h.txt", capsys)
    assert "none" in line
    line = error_of(make_reference_model, "--base_model model --retrieval_heads heads.txt --out new", capsys)
    assert "layers.1.mlp.up_proj.weight" in line and "not finite" in line


@pytest.mark.parametrize(("other", "says"), [("same", "every score is 0"), ("zero", "predicts nothing")])
def test_a_reference_whose_scores_mean_nothing_gets_a_warning(half, capsys, other, says):
    model = transformers.AutoModelForCausalLM.from_pretrained("model")
    if other == "zero":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    model.save_pretrained("other")
    command = "--base_model model --reference_model other --data shards/*.bin --seq_len 64 --out s.tsv"
    attention_influence_scoring.main([*command.split(), "--allow_unrelated_reference"])
    assert says in capsys.readouterr().out


def test_a_damaged_part_is_found_and_named(half, capsys):
    command = "--base_model model --data shards/*.bin --seq_len 64 --out s.tsv"
    attention_influence_scoring.main(command.split())
    [part] = Path("s.parts").glob("*.parquet")
    data = bytearray(part.read_bytes())
    before = Path("s.tsv").read_bytes()
    place = data.index(b"shards/fineweb")
    data[place] ^= 1
    part.write_bytes(data)
    assert str(part) in error_of(attention_influence_scoring, command, capsys)
    assert Path("s.tsv").read_bytes() == before
    part.unlink()
    attention_influence_scoring.main(command.split())
    assert Path("s.tsv").read_bytes() == before


def test_scores_do_not_depend_on_the_batch_size(half):
    tables = []
    for size in ("1", "7", "auto"):
        command = f"--base_model model --data shards/*.bin --seq_len 64 --out {size}.tsv --tokens_per_batch {size}"
        attention_influence_scoring.main(command.split())
        tables.append(pd.read_csv(f"{size}.tsv", sep="\t"))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], atol=1e-5, rtol=0)
