"""Text to token ids and back, with every kind of tokenizer; and what is no tokenizer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from common.errors import InputError
from common.text.tokenization import NUM_THREADS, Vocabulary, load_tokenizer, use_threads
from tests.conftest import ROOT, SENTENCES, byte_level_bpe, save_bpe

TEXTS = [
    "",
    "a",
    "The quick brown fox jumps.",
    "two  spaces,   three, a\ttab and a trailing blank ",
    "\n\nlines\n\n\n  indented\r\n\tend\n",
    "naïve café, Größe, Привет, 你好,世界, مرحبا, שלום",
    "🙂👩‍🚀 e\u0301 \u00a0\u200b\ufeff \x00\x07",
    "Hello , world . It 's n't cleaned up !",
    *SENTENCES[:3],
]
SPELLED = ["<|endoftext|>", "</s>", "<s>", "a <|endoftext|> b", "a</s>\n<s>b", "<unk> <0x0A> <pad>"]


@pytest.mark.parametrize("text", TEXTS + SPELLED)
def test_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", SPELLED)
def test_a_special_token_s_spelling_stays_text(tokenizer, text):
    special = {i for i, token in tokenizer.hf.added_tokens_decoder.items() if token.special}
    assert {tokenizer.separator_id, tokenizer.hf.bos_token_id} <= special
    for ids in (tokenizer.encode(text), *tokenizer.encode_batch(["x", text])):
        assert ids
        assert not special & set(ids)


def test_a_special_token_decodes_to_its_name(tokenizer):
    ids = [*tokenizer.encode("a"), tokenizer.separator_id]
    assert tokenizer.decode(ids) == "a" + tokenizer.hf.eos_token


@pytest.mark.parametrize("text", TEXTS + SPELLED)
def test_ids_are_sentencepiece_s_own(spm, spm_folder, text):
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{spm_folder}/tokenizer.model")
    if "\x00" not in text:
        assert spm.encode(text) == processor.encode(text)


def test_nothing_is_added_around_a_text(tokenizer):
    assert tokenizer.encode("") == []
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert ids == tokenizer.encode(text)
        assert tokenizer.hf.bos_token_id not in ids


def test_a_bos_is_what_the_tokenizer_itself_adds(bpe, bos_bpe, spm):
    assert bpe.bos_id is None
    assert bos_bpe.bos_id == 0
    assert spm.bos_id == 1
    assert (bpe.separator_id, bos_bpe.separator_id, spm.separator_id) == (0, 0, 2)


def test_an_end_token_added_to_every_text_is_no_bos(tmp_path):
    tokenizer = byte_level_bpe(300)
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", tokenizer.token_to_id("<end>"))]
    )
    loaded = load_tokenizer(save_bpe(tmp_path, tokenizer))
    assert loaded.hf("")["input_ids"] == [300]
    assert loaded.bos_id is None


def test_a_tokenizer_without_an_end_has_no_separator(tmp_path):
    transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(300)).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<|endoftext|>", "<other>"))
    assert load_tokenizer(str(tmp_path)).separator_id is None


def test_the_fingerprint_outlives_saving(tokenizer, tmp_path):
    tokenizer.hf.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).fingerprint == tokenizer.fingerprint


def test_the_fingerprint_differs_between_vocabularies(bpe, bos_bpe, spm, bytes_folder, tmp_path):
    other = load_tokenizer(save_bpe(tmp_path, byte_level_bpe(320)))
    alone = load_tokenizer(bytes_folder)
    assert len({tokenizer.fingerprint for tokenizer in (bpe, spm, alone, other)}) == 4
    # a BOS changes no document's tokens
    assert bos_bpe.fingerprint == bpe.fingerprint


@pytest.mark.parametrize("text", [*SENTENCES, "  if x:\n\treturn  1 # </s>", "a"])
def test_pieces_make_up_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) in (text, " " + text)  # SentencePiece puts a space before every text


def test_offsets_are_the_characters_that_a_token_covers(tokenizer):
    text = "a fox, naïve: 你好 </s>\n\tthe end"
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    for piece, (start, end) in zip(tokenizer.pieces(ids), offsets, strict=True):
        assert "\ufffd" in piece or piece.strip(" ") == text[start:end].strip(" ")
    assert text[offsets[-1][0] : offsets[-1][1]].endswith("d")
    characters = {place for start, end in offsets for place in range(start, end)}
    assert {place for place, character in enumerate(text) if character != " "} <= characters


def test_every_id_is_below_the_vocabulary_size(tmp_path):
    vocabulary = {letter: 3 * i for i, letter in enumerate("abc")}
    with_gaps = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    with_gaps.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=with_gaps, eos_token="a").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert max(tokenizer.encode("abc")) == 6
    assert tokenizer.vocab_size == 7


def test_tiktoken_encodes_spelled_specials_as_text(monkeypatch):
    bytes_alone = {bytes([i]): i for i in range(256)}
    end = {"<|endoftext|>": 256}
    encoding = tiktoken.Encoding("tiny", pat_str=r".|\n", mergeable_ranks=bytes_alone, special_tokens=end)
    monkeypatch.setattr(tiktoken, "get_encoding", {"tiny": encoding}.__getitem__)
    tokenizer = load_tokenizer("tiktoken:tiny")
    assert tokenizer.encode("<|endoftext|>ä") == list("<|endoftext|>ä".encode())
    assert tokenizer.encode_batch(["a", "", "bc"]) == [[97], [], [98, 99]]
    assert tokenizer.decode([60, 256, 10]) == "<<|endoftext|>\n"
    assert (tokenizer.vocab_size, tokenizer.separator_id, tokenizer.bos_id) == (257, 256, None)
    assert tokenizer.pieces([97, 98]) == ["a", "b"]
    assert tokenizer.encode_with_offsets("ab\n") == ([97, 98, 10], [(0, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0", " \n"])
def test_tiktoken_takes_long_white_space(monkeypatch, space):
    """o200k's pattern, which alone overflows its stack."""
    pattern = "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    )
    ranks = {bytes([i]): i for i in range(256)} | {b"  ": 256}
    encoding = tiktoken.Encoding("tiny", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 257})
    monkeypatch.setattr(tiktoken, "get_encoding", {"tiny": encoding}.__getitem__)
    tokenizer, texts = load_tokenizer("tiktoken:tiny"), ["a b", "", "a" + space * 1_200_000 + "b", "c"]
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    short = "a" + space * 40_000 + "b"
    assert tokenizer.encode(short) == encoding.encode_ordinary(short)


@pytest.mark.parametrize("name", ["tiktoken:no-such-encoding", "/no/such/folder"])
def test_what_is_no_tokenizer_is_refused_by_name(name):
    with pytest.raises(InputError, match=name):
        load_tokenizer(name)


def test_a_damaged_tokenizer_is_refused_by_name(bpe, tmp_path):
    bpe.hf.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_s_own_code_does_not_run(tmp_path, bpe_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bpe_folder, "model")
    config = json.loads(Path("model/tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    Path("model/tokenizer_config.json").write_text(json.dumps(config))
    Path("model/evil.py").write_text("import os\nos.system('touch pwned')\n")
    try:
        load_tokenizer("model")
    except InputError as error:
        assert "trust_remote_code" in str(error)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("highest_id", [0, 398, 399])
def test_a_vocabulary_has_the_ids_below_its_size(highest_id):
    Vocabulary(400, "a model").require(highest_id, "x.bin: offset 3")


@pytest.mark.parametrize("highest_id", [400, 401, 2**31])
def test_an_id_beyond_the_vocabulary_is_refused_with_its_place_and_the_owner(highest_id):
    with pytest.raises(InputError) as raised:
        Vocabulary(400, "a model").require(highest_id, "x.bin: offset 3")
    assert str(raised.value).startswith(f"x.bin: offset 3: token id {highest_id} ")
    assert "of a model, 400 tokens" in str(raised.value)


def test_a_tokenizer_s_vocabulary_is_its_own(tokenizer):
    assert tokenizer.vocabulary == Vocabulary(tokenizer.vocab_size, tokenizer.name)


@pytest.mark.parametrize(
    ("num_threads", "before", "text"),
    [(3, None, "3"), (1, "7", "1"), (None, None, str(os.cpu_count())), (None, "7", str(os.cpu_count()))],
)
def test_the_number_of_threads_is_set_in_the_environment(monkeypatch, num_threads, before, text):
    monkeypatch.setenv(NUM_THREADS, before or "")
    if before is None:
        monkeypatch.delenv(NUM_THREADS)
    use_threads(num_threads)
    assert os.environ[NUM_THREADS] == text


THREADS = """
import os, sys
from common.text.tokenization import load_tokenizer, use_threads
use_threads(int(sys.argv[2]))
load_tokenizer(sys.argv[1]).encode_batch(["The quick brown fox"] * 1000)
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_a_batch_is_encoded_by_that_many_threads(bpe_folder):
    one, three = (
        int(subprocess.check_output([sys.executable, "-c", THREADS, bpe_folder, number], cwd=ROOT)) for number in "13"
    )
    assert three - one == 2


def test_tiktoken_encodes_with_that_many_threads(monkeypatch):
    asked = []

    class Encoding:
        n_vocab, eot_token, special_tokens_set = 257, 256, set()

        def encode_ordinary_batch(self, texts, num_threads):
            asked.append(num_threads)
            return [[1]] * len(texts)

    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: Encoding())
    tokenizer = load_tokenizer("tiktoken:tiny")
    monkeypatch.setenv(NUM_THREADS, "5")
    tokenizer.encode_batch(["a"])
    monkeypatch.delenv(NUM_THREADS)
    tokenizer.encode_batch(["a"])
    assert asked == [5, os.cpu_count()]


@pytest.mark.parametrize("threads", [None, "2"])
def test_loading_a_tokenizer_leaves_the_environment_as_it_is(bpe_folder, spm_folder, monkeypatch, threads):
    monkeypatch.setenv(NUM_THREADS, threads or "")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if threads is None:
        monkeypatch.delenv(NUM_THREADS)
    before = dict(os.environ)
    for folder in (bpe_folder, spm_folder):
        load_tokenizer(folder).encode_batch(SENTENCES)
    with pytest.raises(InputError):
        load_tokenizer("/no/such/folder")
    assert dict(os.environ) == before
