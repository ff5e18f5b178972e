"""fineweb.py: shards of a corpus, made once, and what cannot be tokenized."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from backports import zstd

import fineweb
from common.model.masking import Masking
from common.model.reference import write_record
from common.shards.reader import ShardReader
from common.text import tokenization
from common.text.corpus import SourceDocument
from common.text.tokenization import load_tokenizer
from tests.conftest import error_of


def test_a_second_run_of_tokenizing_reuses_and_a_stopped_one_goes_on(run, spm_folder, corpus):
    flags = f"--tokenizer {spm_folder} --domain_column kind --out_dir data/mine --shard_size 500".split()
    flags += ["--input", str(corpus)]
    shards = {path.name: path.read_bytes() for path in sorted((run / "data/mine").iterdir())}
    fineweb.main(flags)
    for name in ["fineweb_summary.json", *list(shards)[-4:]]:
        (run / "data/mine" / name).unlink()
    fineweb.main(flags)
    assert {path.name: path.read_bytes() for path in (run / "data/mine").iterdir()} == shards


def test_a_validation_shard_is_set_aside_first(run, spm_folder, corpus):
    flags = "--out_dir data/val --val_tokens 300 --shard_size 500 --max_docs 60".split()
    fineweb.main(["--tokenizer", spm_folder, "--input", str(corpus), *flags])
    names = sorted(path.name for path in (run / "data/val").glob("*.bin"))
    assert names[:2] == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"]
    assert names[-1] == "fineweb_val_000000.bin"
    assert len(ShardReader().open(run / "data/val/fineweb_val_000000.bin").tokens) <= 300
    assert sum(len(ShardReader().open(run / "data/val" / name).spans) for name in names) == 60


def test_the_hint_asks_for_the_reference_unless_the_usual_one_is_of_this_model(
    tmp_path, spm_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("A text.")

    def hint() -> str:
        fineweb.main(f"--tokenizer {spm_folder} --input a.txt".split())
        return capsys.readouterr().out.splitlines()[-1]

    before, asked = f"next: python attention_influence_scoring.py --base_model {spm_folder}", " --reference_model ITS"
    assert hint().startswith(f"{before}{asked}")
    Path("reference-model").mkdir()
    write_record(Path("reference-model"), "another model", Masking("uniform", []))
    assert hint().startswith(f"{before}{asked}")
    write_record(Path("reference-model"), str(spm_folder), Masking("uniform", []))
    assert hint().startswith(f"{before} --data")


def test_a_vocabulary_over_65536_makes_uint32_shards(run, spm_folder, corpus, monkeypatch):
    tokenizer = load_tokenizer(spm_folder)
    tokenizer.vocab_size = 70_000
    tokenizer.encode_batch = lambda texts: [[69_999, 5] for _ in texts]
    monkeypatch.setattr(tokenization, "load_tokenizer", lambda *_: tokenizer)
    fineweb.main(["--input", str(corpus), "--out_dir", "data/wide"])
    shard = ShardReader().open(run / "data/wide/fineweb_train_000001.bin")
    assert shard.tokens.dtype == np.uint32
    assert shard.tokens[:4].tolist() == [69_999, 5, 2, 69_999]


def test_a_sample_of_other_text_is_another_run(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = f"--tokenizer {spm_folder} --out_dir new --version sample"
    monkeypatch.setattr("common.text.fineweb.sample_documents", lambda: [SourceDocument("The old text.", "a")])
    fineweb.main(command.split())
    monkeypatch.setattr("common.text.fineweb.sample_documents", lambda: [SourceDocument("The new text.", "a")])
    assert "the work of another run (sample" in error_of(fineweb, command, capsys)


@pytest.mark.parametrize(("suffix", "compress"), [(".zst", zstd.compress), (".gz", gzip.compress)])
@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_a_compressed_file_that_is_cut_short_is_refused(
    tmp_path, spm_folder, monkeypatch, capsys, name, suffix, compress
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": "".join(map(chr, rng.integers(97, 123, 300)))}).encode() + b"\n" for _ in range(2000)]
    whole = compress(b"".join(lines))
    Path(name + suffix).write_bytes(whole[: len(whole) * 2 // 3])
    command = f"--tokenizer {spm_folder} --out_dir new --on_bad_row skip --input {name}{suffix}"
    assert f"{name}{suffix}: cannot be read to its end" in error_of(fineweb, command, capsys)
    Path(name + suffix).write_bytes(whole + compress(b"".join(lines)))  # in two frames; nothing was finished before
    fineweb.main(command.split())
    assert f"{4000 if 'jsonl' in name else 1:,} documents" in capsys.readouterr().out


def test_bad_rows_are_skipped_and_counted_on_request(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = [json.dumps({"text": f"The quick fox number {i}.", "kind": "a"}).encode() for i in range(5)]
    bad = [
        b'{"text": "\xff"}',
        b'{"text": null, "kind": "a"}',
        b'{"body": "x", "kind": "a"}',
        b"[1]",
        b"{",
        b'{"text": "no kind"}',
        b'{"text": "\\ud800", "kind": "a"}',
    ]
    lines = [line for pair in zip(bad, [*good, b"", b""], strict=True) for line in pair]
    Path("text.jsonl").write_bytes(b"\n".join(lines))
    command = f"--tokenizer {spm_folder} --input text.jsonl --domain_column kind --out_dir new"
    line = error_of(fineweb, command, capsys)
    assert "text.jsonl:1" in line and "--on_bad_row skip" in line
    fineweb.main([*command.split(), "--on_bad_row", "skip"])
    out = capsys.readouterr().out
    assert "5 documents" in out
    assert "skipped 7 rows that cannot be used, the first: text.jsonl:1" in out
    line = error_of(fineweb, command.replace("kind", "topic").replace("new", "other") + " --on_bad_row skip", capsys)
    assert "text.jsonl:1: no column 'topic' (--domain_column) in it, only body, kind, text" in line
    Path("text.jsonl").write_bytes(b"\n".join(bad))
    line = error_of(fineweb, command.replace("new", "other") + " --on_bad_row skip", capsys)
    assert "text.jsonl: no documents in it; 7 rows skipped, the first: text.jsonl:1" in line


def test_strings_in_parquet_that_are_not_utf_8_are_bad_rows(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw = pa.array([b"The first text.", b"\xff\xfe", b"The third text."], pa.binary())
    strings = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pa.parquet.write_table(pa.table({"text": strings}), "text.parquet")
    command = f"--tokenizer {spm_folder} --input text.parquet --out_dir new"
    assert "text.parquet:row 2" in error_of(fineweb, command, capsys)
    fineweb.main([*command.split(), "--on_bad_row", "skip"])
    assert "2 documents" in capsys.readouterr().out
    tokenizer, shard = load_tokenizer(spm_folder), ShardReader().open(Path("new/fineweb_train_000001.bin"))
    assert [tokenizer.decode(shard.tokens[a : b - 1].tolist()) for a, b in shard.spans] == [
        "The first text.",
        "The third text.",
    ]
