"""fineweb.py: bad input."""

import gzip

import pytest

import fineweb


def reserved_block(data):
    """A gzip file whose first block is of the type that no block may have."""
    return data[:10] + bytes([data[10] | 0b110]) + data[11:]


TOKENIZE = [fineweb, *"--tokenizer BASE --out_dir new --input".split()]


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "half a surrogate pair": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"text": "\\ud83d"}\n'),
        ["bad.jsonl:2", "surrogate"],
    ),
    "shards of another maker in --out_dir": (
        [fineweb, *"--tokenizer BASE --out_dir theirs --input CORPUS".split()],
        lambda d: ((d / "theirs").mkdir(), (d / "theirs/fineweb_train_000001.bin").write_bytes(b"precious")),
        ["theirs/fineweb_train_000001.bin", "made by another program"],
    ),
    "no such input": ([*TOKENIZE, "nothing/*.jsonl"], None, ["nothing/*.jsonl"]),
    "unknown text column": ([*TOKENIZE, "CORPUS", "--text_column", "body"], None, ["text.jsonl:1", "'body'"]),
    "unknown id column": ([*TOKENIZE, "CORPUS", "--id_column", "key"], None, ["text.jsonl:1", "'key'"]),
    "unknown domain column": ([*TOKENIZE, "CORPUS", "--domain_column", "topic"], None, ["text.jsonl:1", "'topic'"]),
    "broken line": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"text"\n'),
        ["bad.jsonl:2"],
    ),
    "invalid UTF-8": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n'),
        ["bad.jsonl:2", "utf-8", "--on_bad_row skip"],
    ),
    "a null for text": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"text": null}\n'),
        ["bad.jsonl:2", "NoneType", "--on_bad_row skip"],
    ),
    "a row without the column": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n'),
        ["bad.jsonl:2", "'text'", "--on_bad_row skip"],
    ),
    "a parquet corpus cut short": (
        [*TOKENIZE, "bad.parquet"],
        lambda d: (d / "bad.parquet").write_bytes((d / "data/ai_scores.parquet").read_bytes()[:-100]),
        ["bad.parquet"],
    ),
    "text that is not UTF-8": (
        [*TOKENIZE, "bad.txt"],
        lambda d: (d / "bad.txt").write_bytes(b"caf\xe9"),
        ["bad.txt", "byte 3"],
    ),
    "empty corpus": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text(""),
        ["bad.jsonl", "no documents"],
    ),
    "shards of another run": (
        [fineweb, *"--tokenizer BASE --out_dir data/mine --shard_size 600 --input CORPUS".split()],
        None,
        ["data/mine", "shard_size", "--overwrite"],
    ),
    "shard_size 0": ([*TOKENIZE, "CORPUS", "--shard_size", "0"], None, ["--shard_size"]),
    "no such tiktoken": (
        [*TOKENIZE[:1], *"--tokenizer tiktoken:no --out_dir new --input CORPUS".split()],
        None,
        ["no"],
    ),
    "a damaged gz": (
        [*TOKENIZE, "bad.jsonl.gz"],
        lambda d: (d / "bad.jsonl.gz").write_bytes(reserved_block(gzip.compress(b'{"text": "abc def"}\n' * 500))),
        ["bad.jsonl.gz", "copy it again"],
    ),
    "a new text without the column, over finished shards": (
        [fineweb, *"--tokenizer BASE --out_dir data/mine --overwrite --text_column body --input CORPUS".split()],
        None,
        ["text.jsonl:1", "'body'"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
