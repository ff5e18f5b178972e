"""attention_influence_scoring.py: bad input."""

import numpy as np
import pytest

import attention_influence_scoring
import fineweb
from tests.conftest import tiny_model
from tests.scripts.conftest import SHARD, small_model, spoil, write_llm_c_shard


def flipped(data, place):
    """The bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def header_field(index, value):
    return lambda data: data[: 4 * index] + np.array([value], dtype="<i4").tobytes() + data[4 * index + 4 :]


SCORE = [attention_influence_scoring, *"--base_model BASE --data data/mine/*.bin --seq_len 64 --out new.tsv".split()]


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "an eot_id that never occurs": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 399 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[5, 6], [7, 8]], 2),
        ["theirs.bin", "399"],
    ),
    "a shard that is not .bin": (
        [*SCORE[:-4], *"--data theirs.tok --eot_id 2 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.tok", [[5, 6], [7, 8]], 2),
        ["theirs.tok", ".bin"],
    ),
    "nothing to score": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 2 --seq_len 64 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[], [7], []], 2),
        ["new.tsv", "two or more tokens"],
    ),
    "no shards": ([*SCORE[:-4], *"--data data/none*.bin --out new.tsv".split()], None, ["data/none*.bin"]),
    "wrong magic": (SCORE, lambda d: spoil(d / SHARD, header_field(0, 7)), [SHARD, "magic"]),
    "wrong version": (SCORE, lambda d: spoil(d / SHARD, header_field(1, 2)), [SHARD, "version"]),
    "wrong count": (SCORE, lambda d: spoil(d / SHARD, header_field(2, 5)), [SHARD, "5 tokens"]),
    "cut short": (SCORE, lambda d: spoil(d / SHARD, lambda b: b[:-3]), [SHARD]),
    "only a header's half": (SCORE, lambda d: spoil(d / SHARD, lambda b: b[:500]), [SHARD, "500 bytes"]),
    "oversized": (SCORE, lambda d: spoil(d / SHARD, lambda b: b + b"\0\0"), [SHARD, "promises"]),
    "big-endian": (
        SCORE,
        lambda d: spoil(d / SHARD, lambda b: np.frombuffer(b[:1024], "<i4").astype(">i4").tobytes() + b[1024:]),
        [SHARD, "not a token shard"],
    ),
    "negative count": (SCORE, lambda d: spoil(d / SHARD, header_field(2, -5)), [SHARD, "-5 tokens"]),
    "absurd count": (SCORE, lambda d: spoil(d / SHARD, header_field(2, 2**31 - 1)), [SHARD, "2147483647 tokens"]),
    "an empty shard file": (SCORE, lambda d: (d / SHARD).write_bytes(b""), [SHARD, "0 bytes"]),
    "a flipped bit among the tokens": (
        SCORE,
        lambda d: spoil(d / SHARD, lambda b: b[:1100] + bytes([b[1100] ^ 1]) + b[1101:]),
        [SHARD, "checksum"],
    ),
    "a flipped bit among the tokens of a sample": (
        [*SCORE, "--sample", "1%"],
        lambda d: spoil(d / SHARD, lambda b: flipped(b, 1100)),
        [SHARD, "checksum"],
    ),
    "an estimate of tokens beyond the vocabulary": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 2 --seq_len 64 --out new.tsv --estimate".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[5, 6, 7], [65535, 8, 9]], 2),
        ["theirs:4-8", "65535", "offset 1"],
    ),
    "an estimate of nothing to score": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 2 --seq_len 64 --out new.tsv --estimate".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[], [7], []], 2),
        ["new.tsv", "two or more tokens"],
    ),
    "an estimate next to scores of another run": (
        [*SCORE[:-2], *"--seq_len 32 --out data/ai_scores.tsv --estimate".split()],
        None,
        ["data/ai_scores.parts", "seq_len was 64, is 32", "--overwrite"],
    ),
    "a share that is smaller than what is scored": (
        [*SCORE[:-2], *"--sample 1% --out data/ai_scores.tsv".split()],
        None,
        ["--sample 0.01", "data/ai_scores.parts", "larger share, 1,"],
    ),
    "a flipped bit in the index": (
        SCORE,
        lambda d: spoil((d / SHARD).with_suffix(".index.parquet"), lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]),
        ["fineweb_train_000001.index.parquet", "checksum"],
    ),
    "token beyond the vocabulary": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 2 --seq_len 64 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[5, 6, 7], [65535, 8, 9]], 2),
        ["theirs.bin", "65535", "offset 5"],
    ),
    "a shard's name that would break a row": (
        [*SCORE[:-4], *"--data odd*.bin --out new.tsv --eot_id 2".split()],
        lambda d: write_llm_c_shard(d / "odd\tname.bin", [[5, 6], [7, 8]], 2),
        ["rename"],
    ),
    "no index and no eot_id": (
        SCORE,
        lambda d: (d / SHARD).with_suffix(".index.parquet").unlink(),
        [SHARD, "--eot_id"],
    ),
    "index of another shard": (
        SCORE,
        lambda d: spoil(
            (d / SHARD).with_suffix(".index.parquet"),
            lambda b: (d / "data/mine/fineweb_train_000002.index.parquet").read_bytes(),
        ),
        ["fineweb_train_000001.index.parquet"],
    ),
    "shards of another tokenizer": (
        [*SCORE[:-4], *"--data other/*.bin --out new.tsv".split()],
        lambda d: fineweb.main(f"--tokenizer {d}/bpe --input {d}/one.txt --out_dir other".split()),
        ["other/fineweb_train_000001.bin", "fineweb.py --tokenizer"],
    ),
    "seq_len beyond the context": ([*SCORE, "--seq_len", "2000"], None, ["--seq_len: 2000 tokens", "1024"]),
    "reference of other weights": (
        SCORE,
        lambda d: tiny_model("Llama", bos_token_id=1, intermediate_size=32).save_pretrained(d / "reference-model"),
        ["reference-model", "make_reference_model.py"],
    ),
    "reference equal to the base": ([*SCORE, "--reference_model", "BASE"], None, ["identical"]),
    "a reference for another base": (
        [*SCORE, "--reference_model", "small"],
        lambda d: small_model(d, vocab_size=400, hidden_size=32, head_dim=4),
        ["small is no masked copy", "hidden_size"],
    ),
    "no reference": ([*SCORE, "--reference_model", "gone"], None, ["gone"]),
    "scores of another run": (
        [*SCORE[:-2], *"--seq_len 32 --out data/ai_scores.tsv".split()],
        None,
        ["data/ai_scores.parts", "seq_len was 64, is 32", "--overwrite"],
    ),
    "scores to .csv": ([*SCORE, "--out", "new.csv"], None, ["new.csv"]),
    "scoring again with a damaged shard, over finished scores": (
        [*SCORE[:-2], *"--overwrite --out data/ai_scores.tsv".split()],
        lambda d: spoil(d / SHARD, lambda b: flipped(b, 1100)),
        [SHARD, "checksum"],
    ),
    "a record of the run that is not JSON": (
        [*SCORE[:-2], *"--out data/ai_scores.tsv".split()],
        lambda d: (d / "data/ai_scores.parts/run.json").write_text("{"),
        ["data/ai_scores.parts/run.json", "not JSON"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
