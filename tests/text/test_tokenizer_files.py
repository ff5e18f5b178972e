"""A tokenizer cuts text as its own files say, whatever class transformers takes it for, also after it was saved."""

import json
from pathlib import Path

import pytest
import sentencepiece
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common.errors import InputError
from common.text.tokenization import load_tokenizer
from tests.conftest import SENTENCES, byte_level_bpe, tiny_model

TEXTS = [
    "In 2023 the harbour counts 1999 letters.\n    return x=1",
    " one space before",
    "   three spaces before",
    "\n  a line break and two spaces",
    "",
    " ",
]
MARK = "▁"


def metaspace() -> Tokenizer:
    """SentencePiece-like: words with a mark in place of the space before them, and bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()],
    )
    special = ["<unk>", "<s>", "<|endoftext|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def folder_of(folder: Path, tokenizer: Tokenizer, model_type: str, tokenizer_class: str) -> str:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    names = {"tokenizer_class": tokenizer_class, "eos_token": "<|endoftext|>", "bos_token": "<s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class"),
    [
        ("qwen2", "PreTrainedTokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
        ("qwen3", "Qwen2Tokenizer"),
        ("llama", "LlamaTokenizer"),
        ("gpt2", "GPT2Tokenizer"),
        ("gemma3_text", "GemmaTokenizer"),
        ("mistral", "LlamaTokenizerFast"),
        ("llama", "PreTrainedTokenizerFast"),
    ],
)
def test_the_tokenizer_is_that_of_tokenizer_json(tmp_path, model_type, tokenizer_class):
    name = folder_of(tmp_path, metaspace(), model_type, tokenizer_class)
    file, tokenizer = Tokenizer.from_file(f"{name}/tokenizer.json"), load_tokenizer(name)
    for text in TEXTS:
        assert tokenizer.encode(text) == file.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode_with_offsets(text)[0] == tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def byte_level(digits: str, normalizer) -> Tokenizer:
    tokenizer = byte_level_bpe(400)
    pattern = Regex(rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+|\s+")
    parts = [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class"),
    [
        ("llama", "GPT2Tokenizer"),
        ("gpt2", "GPT2Tokenizer"),
        ("gpt_neox", "GPTNeoXTokenizer"),
        ("qwen2", "Qwen2Tokenizer"),
    ],
)
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
def test_numbers_and_composed_characters_are_cut_as_the_file_says(tmp_path, model_type, tokenizer_class, normalizer):
    name = folder_of(tmp_path, byte_level(r"\p{N}{1,3}", normalizer), model_type, tokenizer_class)
    file, tokenizer = Tokenizer.from_file(f"{name}/tokenizer.json"), load_tokenizer(name)
    for text in ("In 2023 and 20231", "cafe\u0301", "I'LL", "DON'T   x", *TEXTS):
        assert tokenizer.encode(text) == file.encode(text, add_special_tokens=False).ids


def test_a_chat_of_sentencepiece_s_own_file_is_cut_as_transformers_does(spm, spm_folder):
    plain, text = transformers.AutoTokenizer.from_pretrained(spm_folder), "<s>Hello</s> A<s> B"
    assert spm.encode_with_offsets(text, special=True)[0] == plain(text, add_special_tokens=False)["input_ids"]


def test_transformers_itself_overrules_the_file(tmp_path):
    """Otherwise the test above shows nothing."""
    name = folder_of(tmp_path, metaspace(), "qwen2", "PreTrainedTokenizerFast")
    ids = transformers.AutoTokenizer.from_pretrained(name)(TEXTS[0])["input_ids"]
    assert ids != Tokenizer.from_file(f"{name}/tokenizer.json").encode(TEXTS[0]).ids


def test_llama_s_older_files_keep_the_space_before_a_text(tmp_path):
    """Llama 2's tokenizer.json: a normalizer puts the mark before every text."""
    tokenizer = metaspace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.pre_tokenizer = None
    loaded = load_tokenizer(folder_of(tmp_path, tokenizer, "llama", "LlamaTokenizer"))
    assert loaded.encode(" one") == tokenizer.encode(" one", add_special_tokens=False).ids
    assert loaded.encode(" one") != loaded.encode("one")


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_s_own_file_keeps_the_space_before_a_text(spm, spm_folder, text):
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{spm_folder}/tokenizer.model")
    assert spm.encode(text) == processor.encode(text)
    assert spm.decode(spm.encode(text)) == text


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_model_s_folder_cuts_text_as_its_shards(tmp_path, spm, kind, capsys):
    for number, tokenizer in enumerate(
        [spm, load_tokenizer(folder_of(tmp_path, metaspace(), "qwen2", "Qwen2Tokenizer"))]
    ):
        folder = tmp_path / str(number)
        tiny_model("Llama").save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        tokenizer.save(folder)
        again, plain = load_tokenizer(str(folder)), transformers.AutoTokenizer.from_pretrained(folder)
        warned = "AutoTokenizer" in capsys.readouterr().err
        assert again.fingerprint == tokenizer.fingerprint
        assert all(again.encode(text) == tokenizer.encode(text) for text in TEXTS)
        same = all(plain(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text) for text in TEXTS)
        assert same != warned
        assert same or kind == "qwen2"  # transformers knows only one tokenizer for this type


def test_a_file_that_transformers_cannot_follow_is_refused(tmp_path, monkeypatch):
    name = folder_of(tmp_path, metaspace(), "qwen2", "PreTrainedTokenizerFast")
    wrong = transformers.AutoTokenizer.from_pretrained(name)
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "from_pretrained", lambda *_, **__: wrong)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_tokenizer(name)
