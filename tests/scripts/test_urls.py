"""Shards, parts, scores and the selection in an object store: a local S3 server, and fsspec's memory."""

import io
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

import attention_influence_scoring
import fineweb
import rank_scores
import validate_docs
from common.errors import InputError
from common.files import as_path
from common.shards.format import HEADER_BYTES
from common.table.parts import Parts
from tests.conftest import error_of, save_pair, write_jsonl


@pytest.fixture(scope="module")
def models(tmp_path_factory, bpe_folder):
    folder = tmp_path_factory.mktemp("models")
    save_pair(folder, bpe_folder, [(2, 3)])
    texts = [f"The quick brown fox number {n} jumps over the lazy dog." * (1 + n % 5) for n in range(60)]
    write_jsonl(folder / "text.jsonl", ({"text": text, "id": text[:9]} for text in texts))
    return folder


def steps(out: str, text: str) -> None:
    """Tokenize, score and rank, all under `out`."""
    fineweb.main(f"--tokenizer model --input {text} --out_dir {out}/shards --shard_size 1000".split())
    scoring = f"--base_model model --seq_len 64 --data {out}/shards/fineweb_train_*.bin --out {out}/scores.tsv"
    attention_influence_scoring.main(scoring.split())
    rank_scores.main(f"--scores {out}/scores.parquet --out {out}/top.tsv".split())


def test_the_whole_run_gives_the_same_in_a_store_and_on_a_disk(store, models, monkeypatch, capsys):
    monkeypatch.chdir(models)
    steps("disk", "text.jsonl")
    as_path(f"{store}/text.jsonl").write_bytes(Path("text.jsonl").read_bytes())
    steps(store, f"{store}/*.jsonl")
    names = sorted(path.name for path in as_path(f"{store}/shards").iterdir())
    assert len(names) > 6
    for name in names:
        there, here = as_path(f"{store}/shards/{name}").read_bytes(), Path("disk/shards", name).read_bytes()
        if name.endswith(".parquet"):
            there, here = (pq.read_table(io.BytesIO(data)).drop_columns("file") for data in (there, here))
        if name != "dataset.json":  # which names its source, as the index does; a shard's header has the index's hash
            begin = HEADER_BYTES if name.endswith(".bin") else 0
            assert (there[begin:] if begin else there) == (here[begin:] if begin else here), name
    for name in ("scores.tsv", "top.tsv"):
        found = as_path(f"{store}/{name}").read_text().replace(f"{store}/text.jsonl", "text.jsonl")
        assert found.replace(store, "disk") == Path("disk", name).read_text()
    capsys.readouterr()
    steps(store, f"{store}/*.jsonl")
    assert f"reusing {store}/shards/" in capsys.readouterr().out
    doc_id = as_path(f"{store}/top.tsv").read_text().splitlines()[1].split("\t")[0]
    looking = f"--doc_id {doc_id} --base_model model --seq_len 64"
    validate_docs.main([*looking.split(), "--data_dir", f"{store}/shards"])
    assert f"=== {doc_id}" in capsys.readouterr().out
    with pytest.raises(InputError, match="leads outside"):
        validate_docs.main(looking.split())


def test_a_stopped_run_goes_on_from_its_parts_in_a_store(store, models, monkeypatch):
    monkeypatch.chdir(models)
    steps("disk", "text.jsonl")
    steps(f"{store}/again", "text.jsonl")
    parts = sorted(as_path(f"{store}/again/scores.parts").glob("*.parquet"))
    assert len(parts) > 2
    parts[1].unlink()
    as_path(f"{store}/again/scores.tsv").unlink()
    added, add = [], Parts.add
    monkeypatch.setattr(Parts, "add", lambda self, *piece: (added.append(piece), add(self, *piece)))
    steps(f"{store}/again", "text.jsonl")
    assert 0 < sum(last - first for _, first, last, *_ in added) < 60
    assert (
        as_path(f"{store}/again/scores.tsv").read_text().replace(f"{store}/again", "disk")
        == Path("disk/scores.tsv").read_text()
    )


def test_what_is_wrong_with_a_url_is_one_line(s3, models, monkeypatch, capsys):
    monkeypatch.chdir(models)
    scoring = "--base_model model --seq_len 64 --data"
    assert "nothing/*.bin: no such file" in error_of(
        attention_influence_scoring, f"{scoring} {s3}/nothing/*.bin", capsys
    )
    assert "cannot be reached" in error_of(attention_influence_scoring, f"{scoring} nowhere://b/*.bin", capsys)
    assert "s3://none/top.parquet: cannot be written" in error_of(
        rank_scores, f"--scores {models}/disk/scores.tsv --out s3://none/top.tsv", capsys
    )
    as_path(f"{s3}/bad/x.bin").write_bytes(b"short")
    assert "x.bin: 5 bytes is shorter" in error_of(attention_influence_scoring, f"{scoring} {s3}/bad/x.bin", capsys)


def test_an_object_store_that_cannot_be_reached_is_one_line(s3, models, monkeypatch, capsys):
    monkeypatch.chdir(models)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    type(fsspec.filesystem("s3")).clear_instance_cache()
    try:
        line = error_of(rank_scores, f"--scores {s3}/scores.tsv --out top.tsv", capsys)
    finally:
        type(fsspec.filesystem("s3")).clear_instance_cache()
    assert line.startswith("error: the object store failed (EndpointConnectionError")
