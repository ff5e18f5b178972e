"""Checkpoints: a masked one is an ordinary one, and what a stranger's may not do."""

import copy
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import make_reference_model
from common.errors import InputError
from common.model.checkpoints import (
    Runtime,
    load_model,
    model_digest,
    require_context,
    require_tokenizer,
    save_checkpoint,
    vocabulary,
)
from common.model.masking import find_masked_heads, mask_heads
from common.text.tokenization import Vocabulary, load_tokenizer
from tests.conftest import error_of, tiny_model
from tests.model.conftest import KINDS, logits, masked_copy

CPU = Runtime("cpu")
HEADS = [(3, 0), (1, 6), (1, 3), (3, 7)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_checkpoint_is_an_ordinary_one(tmp_path, spm, spm_folder, kind):
    reference = load_model(spm_folder, CPU)
    base = copy.deepcopy(reference)
    assert torch.equal(logits(base), logits(tiny_model("Llama")))
    mask_heads(reference, HEADS, kind)
    save_checkpoint(reference, spm, tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(plain), logits(masked_copy(base, HEADS, kind)))
    assert plain.config.num_key_value_heads == 2
    text = "The quick brown fox"
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == [1, *spm.encode(text)]
    found = find_masked_heads(base, load_model(str(tmp_path), CPU))
    assert found == (kind, sorted(HEADS))
    assert model_digest(load_model(str(tmp_path), CPU)) == model_digest(reference) != model_digest(base)


def test_generation_settings_are_saved_as_they_were_published(tmp_path, spm, spm_folder):
    shutil.copytree(spm_folder, tmp_path / "base")
    published = {"temperature": 0.9, "top_p": 0.6, "max_length": 4096, "eos_token_id": 2}  # and no do_sample: Llama 2
    (tmp_path / "base/generation_config.json").write_text(json.dumps(published))
    save_checkpoint(load_model(f"{tmp_path}/base", CPU), spm, tmp_path / "copy")
    saved = json.loads((tmp_path / "copy/generation_config.json").read_text())
    assert saved == {**published, "transformers_version": transformers.__version__}


class Evil:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def plant(folder, kind):
    """A checkpoint whose weights run code when they are unpickled; returns the file that does."""
    model = tiny_model("Llama")
    model.config.save_pretrained(folder)
    target = folder / "pytorch_model.bin"
    match kind:
        case "zip":
            torch.save({**model.state_dict(), "evil": Evil()}, target)
        case "legacy":
            torch.save({"evil": Evil()}, target, _use_new_zipfile_serialization=False)
        case "bare":
            target.write_bytes(pickle.dumps({"lm_head.weight": Evil()}))
        case "safetensors":
            target = folder / "model.safetensors"
            target.write_bytes(pickle.dumps(Evil()))
    return target


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "safetensors"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, bpe_folder, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bpe_folder, "model")
    target = plant(tmp_path / "model", kind)
    Path("heads.txt").write_text("1,1\n")
    line = error_of(make_reference_model, "--base_model model --retrieval_heads heads.txt --out new", capsys)
    assert line.startswith("error: model: ")
    assert not Path("pwned").exists()
    if kind == "bare":  # and it would have worked
        pickle.loads(target.read_bytes())
    elif kind != "safetensors":
        torch.load(target, weights_only=False)
    assert Path("pwned").exists() or kind == "safetensors"


def test_a_checkpoint_s_own_code_runs_only_with_the_flag(tmp_path, bpe_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    shutil.copytree(bpe_folder, "model")
    tiny_model("Llama").save_pretrained("model")
    config = json.loads(Path("model/config.json").read_text())
    config.update(model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"})
    Path("model/config.json").write_text(json.dumps(config))
    Path("model/evil.py").write_text(
        "import os\nos.system('touch pwned')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class EvilConfig(LlamaConfig):\n    model_type = 'evil'\n"
        "class Evil(LlamaForCausalLM):\n    config_class = EvilConfig\n"
    )
    Path("heads.txt").write_text("1,1\n")
    command = "--base_model model --retrieval_heads heads.txt --out new"
    line = error_of(make_reference_model, command, capsys)
    assert "trust_remote_code" in line
    assert not Path("pwned").exists()
    make_reference_model.main([*command.split(), "--trust_remote_code"])
    assert Path("pwned").exists()


@pytest.mark.parametrize("length", [1, 1023, 1024])
def test_a_text_within_the_context_is_accepted(length):
    require_context(tiny_model("Llama"), length, "probe 3", "use {}")


def test_a_text_longer_than_the_context_is_refused_with_the_owner_and_the_fix(spm_folder):
    with pytest.raises(InputError) as raised:
        require_context(load_model(spm_folder, CPU), 1025, "probe 3", "make it with --max_tokens {}")
    expected = f"probe 3: 1025 tokens, but the context of {spm_folder} holds 1024; make it with --max_tokens 1024"
    assert str(raised.value) == expected
    with pytest.raises(InputError, match="the context of the model holds 1024; lower it"):
        require_context(tiny_model("Llama"), 1025, "--seq_len", "lower it")


def test_a_config_without_a_context_accepts_any_length():
    model = tiny_model("Bloom", n_layer=4, n_head=8, max_position_embeddings=...)
    assert not hasattr(model.config, "max_position_embeddings")
    require_context(model, 10**9, "--seq_len", "lower it")


def test_the_vocabulary_is_the_rows_of_the_embedding(spm_folder):
    assert vocabulary(load_model(spm_folder, CPU)) == Vocabulary(400, spm_folder)
    assert vocabulary(tiny_model("Llama", vocab_size=512)) == Vocabulary(512, "the model")
    resized = tiny_model("Llama")
    resized.resize_token_embeddings(416)
    assert vocabulary(resized).size == 416


def test_special_tokens_that_no_text_gives_need_no_embedding(bpe, bpe_folder, tmp_path):
    larger = load_tokenizer(bpe_folder)
    larger.hf.add_special_tokens({"additional_special_tokens": ["[PAD]", "<image>"]})
    larger.save(tmp_path)
    larger = load_tokenizer(str(tmp_path))
    assert (larger.vocab_size, larger.fingerprint) == (402, bpe.fingerprint)
    require_tokenizer(tiny_model("Llama"), larger)
    larger.use_separator("[PAD]")
    with pytest.raises(InputError, match="token id 400"):
        require_tokenizer(tiny_model("Llama"), larger)


def test_a_tokenizer_with_ids_that_the_model_lacks_is_refused_with_both_names(spm, spm_folder, bytes_folder, tmp_path):
    small, model = load_tokenizer(bytes_folder), load_model(spm_folder, CPU)
    require_tokenizer(model, spm)  # 400 of 400
    require_tokenizer(model, small)
    require_tokenizer(tiny_model("Llama", vocab_size=512), spm)
    with pytest.raises(InputError) as raised:
        require_tokenizer(tiny_model("Llama", vocab_size=399), spm)
    assert str(raised.value).startswith(f"{spm_folder}: the highest id that this tokenizer gives: token id 399 ")
    assert "of the model, 399 tokens" in str(raised.value)
    tiny_model("Llama", vocab_size=256).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"^{bytes_folder}: .*token id 256 .* of {tmp_path}, 256 tokens"):
        require_tokenizer(load_model(str(tmp_path), CPU), small)
