"""The token that ends documents: what ended texts in pretraining, which for a chat model is not the end of a turn."""

import pytest
import tiktoken
import transformers
from tokenizers import AddedToken

from common.errors import InputError
from common.text.tokenization import load_tokenizer
from tests.conftest import byte_level_bpe


def saved(folder, eos: str | None, special: list[str], ordinary: list[str] = ()) -> str:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(300))
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ordinary])
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("eos", "special", "ordinary", "separator"),
    [
        ("<|im_end|>", ["<|im_start|>", "<|im_end|>"], [], "<|endoftext|>"),  # SmolLM2, Qwen; the BPE has it
        ("<|endoftext|>", ["<|im_end|>"], [], "<|endoftext|>"),
        ("</s>", ["<s>", "</s>"], [], "</s>"),  # its own end of text is known, so it counts
        ("<eos>", ["<eos>", "<end_of_turn>"], ["</s>"], "<eos>"),  # Gemma, where </s> is HTML
        ("<my_end>", ["<my_end>"], [], "<|endoftext|>"),
        (None, [], [], "<|endoftext|>"),
    ],
)
def test_documents_end_as_texts_did_in_pretraining(tmp_path, eos, special, ordinary, separator):
    tokenizer = load_tokenizer(saved(tmp_path, eos, special, ordinary))
    assert tokenizer.decode([tokenizer.separator_id]) == separator


@pytest.mark.parametrize(
    ("end", "turn", "vocabulary"),
    [
        ("<|end_of_text|>", "<|eot_id|>", ["<|begin_of_text|>"]),  # Llama 3
        ("<eos>", "<end_of_turn>", []),
        ("</s>", "<|im_end|>", ["<s>"]),
    ],
)
def test_a_chat_model_s_end_of_a_turn_is_no_separator(tmp_path, end, turn, vocabulary):
    tokenizer = byte_level_bpe(300)
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    plain.add_special_tokens({"additional_special_tokens": [*vocabulary, end, turn]})
    plain.eos_token = turn
    plain.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<|endoftext|>", "<other>"))
    assert load_tokenizer(str(tmp_path)).separator_id == plain.convert_tokens_to_ids(end)


def test_a_turn_s_end_is_the_separator_if_there_is_nothing_better(tmp_path):
    name = saved(tmp_path, "<|im_end|>", ["<|im_end|>"])
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<|endoftext|>", "<other>"))
    assert load_tokenizer(name).separator_id == 300


def test_another_separator_can_be_named(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, "<|im_end|>", ["<|im_end|>"], ["<ordinary>"]))
    tokenizer.use_separator("<|im_end|>")
    assert tokenizer.separator_id == 300
    for wrong in ("<ordinary>", "a", "<absent>", ""):
        with pytest.raises(InputError, match=r"--separator.*no special token.*<\|endoftext\|>, <\|im_end\|>"):
            tokenizer.use_separator(wrong)


def test_the_saved_end_of_text_is_the_separator_if_asked_for(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path / "chat", "<|im_end|>", ["<|im_end|>"]))
    tokenizer.save(tmp_path / "same")
    tokenizer.end_with_separator()
    tokenizer.save(tmp_path / "base")
    ends = [transformers.AutoTokenizer.from_pretrained(tmp_path / name).eos_token for name in ("same", "base")]
    assert ends == ["<|im_end|>", "<|endoftext|>"]


def test_special_ids_above_all_others_do_not_come_from_text(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(saved(tmp_path, "<|im_end|>", ["<|im_end|>", "[PAD]"]))
    assert (tokenizer.highest_text_id, tokenizer.vocab_size) == (299, 302)
    assert max(tokenizer.encode("a [PAD] <|im_end|>")) <= 299
    with_ordinary = load_tokenizer(saved(tmp_path / "more", "<|im_end|>", ["<|im_end|>"], ["<ordinary>"]))
    assert with_ordinary.highest_text_id == max(with_ordinary.encode("a <ordinary>")) == 301
    ranks = {bytes([i]): i for i in range(256)}
    encoding = tiktoken.Encoding("tiny", pat_str=".", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256})
    monkeypatch.setattr(tiktoken, "get_encoding", {"tiny": encoding}.__getitem__)
    tokenizer = load_tokenizer("tiktoken:tiny")
    assert (tokenizer.highest_text_id, tokenizer.vocab_size, tokenizer.special_ids()) == (
        255,
        257,
        {"<|endoftext|>": 256},
    )
