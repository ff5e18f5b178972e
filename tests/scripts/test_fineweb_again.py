"""fineweb.py again on inputs that have changed: what is tokenized stays, if the texts are the same."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiktoken

import fineweb
from common.files import file_digest
from common.shards.reader import ShardReader
from common.text.tokenization import load_tokenizer
from tests.conftest import SENTENCES, error_of

SHARDS = "new/fineweb_train_*.bin"


def texts() -> list[str]:
    found = []
    for path in sorted(Path().glob(SHARDS)):
        shard = ShardReader().open(path)
        tokenizer = load_tokenizer(shard.info.tokenizer)
        found += [tokenizer.decode(shard.document(row).token_ids[:-1].tolist()) for row in range(len(shard.spans))]
    return found


def write(name: str, *rows: str) -> None:
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))


@pytest.fixture
def tokenize(tmp_path, bpe_folder, monkeypatch):
    """Tokenizes *.jsonl; the files b and d are tokenized already."""
    monkeypatch.chdir(tmp_path)
    write("b.jsonl", *SENTENCES[:2])
    write("d.jsonl", *SENTENCES[2:4])

    def run(*flags: str) -> None:
        fineweb.main([*f"--tokenizer {bpe_folder} --out_dir new --input *.jsonl".split(), *flags])

    run.flags = f"--tokenizer {bpe_folder} --out_dir new --input *.jsonl"
    run()
    return run


def shard_bytes() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().glob(SHARDS)}


def test_new_files_are_tokenized_after_what_is_there(tokenize, capsys):
    before = shard_bytes()
    write("a.jsonl", SENTENCES[4])
    write("c.jsonl", SENTENCES[5])
    tokenize()
    assert "wrote new/: 6 documents" in capsys.readouterr().out
    assert texts() == SENTENCES[:6]
    assert before.items() <= shard_bytes().items()
    tokenize()
    assert "reusing new/: 6 documents" in capsys.readouterr().out


def test_a_file_that_was_only_touched_is_the_same(tokenize, capsys):
    before = shard_bytes()
    os.utime("b.jsonl", (1, 1))
    tokenize()
    assert shard_bytes() == before
    capsys.readouterr()
    tokenize()
    assert "reusing new/: 4 documents" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["x", [1], [[]], ["ab"], [[{}]]])
def test_a_damaged_record_of_the_sources_is_refused(tokenize, value, capsys):
    path = Path("new/dataset.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": value}))
    assert "new holds the work of another run" in error_of(fineweb, tokenize.flags, capsys)


def test_documents_may_be_added_to_the_last_file(tokenize):
    write("d.jsonl", *SENTENCES[2:5])
    tokenize()
    assert texts() == SENTENCES[:5]


@pytest.mark.parametrize(
    "change",
    [
        lambda: write("b.jsonl", SENTENCES[0], SENTENCES[1][::-1]),  # of the same size
        lambda: write("b.jsonl", *SENTENCES[:2], SENTENCES[6]),
        lambda: write("d.jsonl", SENTENCES[2]),
    ],
)
def test_a_changed_document_is_another_run_and_nothing_is_lost(tokenize, change, capsys):
    before = {path: path.read_bytes() for path in Path("new").iterdir()}
    change()
    write("e.jsonl", SENTENCES[7])
    line = error_of(fineweb, tokenize.flags, capsys)
    assert "new holds the work of another run" in line and "has changed since" in line and "--overwrite" in line
    assert {path: path.read_bytes() for path in Path("new").iterdir() if path in before} == before
    tokenize("--overwrite")
    assert SENTENCES[7] in texts()


def test_a_changed_domain_is_another_run(tmp_path, bpe_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = f"--tokenizer {bpe_folder} --out_dir new --domain_column site --input x.jsonl"
    for site in ("old", "new"):
        rows = [{"text": text, "site": site, "id": str(number)} for number, text in enumerate(SENTENCES[:3])]
        Path("x.jsonl").write_text("\n".join(map(json.dumps, rows)))
        if site == "old":
            fineweb.main(flags.split())
    assert "document 0 has changed since" in error_of(fineweb, flags, capsys)


def test_a_file_that_is_gone_is_another_run_in_a_short_line(tokenize, capsys):
    for number in range(40):
        write(f"x{number}.jsonl", SENTENCES[number % 7])
    tokenize()
    Path("x7.jsonl").unlink()
    Path("x30.jsonl").unlink()
    line = error_of(fineweb, tokenize.flags, capsys)
    assert "the work of another run (2 of its source differ, ['x30.jsonl', " in line
    assert len(line) < 300


def test_older_shards_without_hashes_go_on_only_with_files_that_are_the_same(tokenize, capsys):
    [path] = Path().glob("new/*.index.parquet")
    shard = ShardReader().open(path.with_name("fineweb_train_000001.bin"))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["text_hash"]), path)
    remade = path.with_name("fineweb_train_000001.bin")
    data = bytearray(remade.read_bytes())
    data[11 * 4 : 19 * 4] = file_digest(path)
    remade.write_bytes(data)
    assert len(ShardReader().open(remade).spans) == len(shard.spans)
    tokenize()
    assert "reusing" in capsys.readouterr().out
    os.utime("b.jsonl", (1, 1))
    assert "has changed since" in error_of(fineweb, tokenize.flags, capsys)


def test_a_document_that_the_tokenizer_cannot_encode_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ranks = {bytes([byte]): byte for byte in range(256) if byte != ord("~")}
    encoding = tiktoken.Encoding("tiny", pat_str=".", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256})
    monkeypatch.setattr(tiktoken, "get_encoding", {"tiny": encoding}.__getitem__)
    write("x.jsonl", "a a", "a", "a~b", "a")
    line = error_of(fineweb, "--tokenizer tiktoken:tiny --out_dir new --input x.jsonl", capsys)
    assert "document x.jsonl:3: tiktoken:tiny cannot encode it" in line


def test_kept_values_of_several_types_are_the_same_again(tokenize):
    values = [n if n % 2 else n / 4 for n in range(1100)]
    values[1090] = "n/a"
    rows = [{"text": SENTENCES[n % 5], "score": value, "meta": {"a": n}} for n, value in enumerate(values)]
    Path("e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = f"--tokenizer {tokenize.flags.split()[1]} --out_dir kept --keep_columns score,meta --input e.jsonl".split()
    fineweb.main(flags)
    write("f.jsonl", SENTENCES[0])
    Path("f.jsonl").write_text(json.dumps({"text": SENTENCES[0], "score": 1, "meta": None}))
    fineweb.main([*flags, "f.jsonl"])
    table = pq.read_table("kept/fineweb_train_000001.index.parquet")
    assert table["score"].to_pylist() == [str(value) for value in values]
    assert table["meta"].to_pylist()[:2] == [{"a": 0}, {"a": 1}]
