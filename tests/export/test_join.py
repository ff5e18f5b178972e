"""Scores beside the files of a corpus: the same rows in the same order, and what Dolma's own mixer makes of them."""

import gzip
import importlib.machinery
import importlib.metadata
import importlib.util
import json
from functools import cache
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

import join_scores
from common.table.schema import TABLE_SCHEMA
from tests.conftest import SENTENCES, error_of
from tests.export.conftest import write_lines

ROWS = [{"text": f"{text} Ä漢😀", "id": number} for number, text in enumerate(SENTENCES * 2)]
DECOMPRESS = {".gz": gzip.decompress, ".zst": zstd.decompress}
JOIN = "--scores some.parquet --out_dir out"


def some_scores(keep=lambda row: row % 3):
    """A table with the scores of some documents, in another order; and all scores by file and row."""
    table = pq.read_table("scores.parquet")
    rows = np.flatnonzero([keep(row) for row in table["row"].to_pylist()])
    table = table.take(np.random.default_rng(0).permutation(rows))
    pq.write_table(table, "some.parquet")
    keys = zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True)
    return dict(zip(keys, table.select(TABLE_SCHEMA.names[:6]).to_pylist(), strict=True))


def save_parquet(path):
    pq.write_table(pa.Table.from_pylist([{**row, "id": f"id {row['id']}"} for row in ROWS]), path, row_group_size=5)


def save_array(path):
    path.write_text(json.dumps(ROWS))


def save_arrow(path):
    with pa.ipc.new_stream(path, (table := pa.Table.from_pylist(ROWS)).schema) as writer:
        writer.write_table(table, max_chunksize=7)


SAVE = {
    "a/x.parquet": save_parquet,
    "dump=B/x.parquet": save_parquet,
    "a/x.jsonl": lambda path: write_lines(path, ROWS),
    "b/x.jsonl.gz": lambda path: write_lines(path, ROWS),
    "b/x.jsonl.zst": lambda path: write_lines(path, ROWS),
    "x.json": save_array,
    "y.arrow": save_arrow,
}


def test_each_file_has_one_with_its_rows_in_its_order(tmp_path, selected):
    for name, save in SAVE.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "corpus" / name)
    selected()
    scores = some_scores()
    join_scores.main(JOIN.split())
    names = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.parquet")}
    assert names == {name if name.endswith(".parquet") else f"{name}.parquet" for name in SAVE}
    for name in SAVE:
        found = pq.ParquetFile(f"out/{name.removesuffix('.parquet')}.parquet").read()
        ids = [row["id"] for row in ROWS]
        assert found["id"].to_pylist() == ([f"id {each}" for each in ids] if "x.parquet" in name else ids)
        assert found.column_names == ["id", *TABLE_SCHEMA.names]
        wanted = [
            scores.get((f"corpus/{name}", row), dict.fromkeys(TABLE_SCHEMA.names[:6])) for row in range(len(ROWS))
        ]
        assert found.select(TABLE_SCHEMA.names[:6]).to_pylist() == wanted
    record = json.loads(Path("out/.join.json").read_text())
    assert (record["files"], record["rows"], record["documents"]) == (7, 7 * 32, len(scores))


def test_duckdb_pandas_polars_and_datasets_read_the_scores(tmp_path, selected):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected()
    scores = some_scores()
    join_scores.main(JOIN.split())
    [path] = map(str, Path("out").rglob("*.parquet"))
    wanted = [scores.get(("corpus/x.jsonl", row), {}).get("AI_Score") for row in range(len(ROWS))]
    assert [score for (score,) in duckdb.sql(f"SELECT AI_Score FROM '{path}'").fetchall()] == wanted
    assert polars.read_parquet(path)["AI_Score"].to_list() == wanted
    np.testing.assert_array_equal(pd.read_parquet(path)["AI_Score"], np.array(wanted, float))
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
    assert found["AI_Score"][:] == wanted


def test_a_file_without_ids_gets_those_of_the_index(tmp_path, selected):
    write_lines(tmp_path / "corpus/x.jsonl", [{"text": row["text"]} for row in ROWS])
    selected()
    some_scores()
    join_scores.main(JOIN.split())
    found = pq.read_table("out/x.jsonl.parquet")["id"].to_pylist()
    assert found[:4] == [None, "corpus/x.jsonl:2", "corpus/x.jsonl:3", None]


def test_changed_rows_get_nulls_and_are_named(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected()
    some_scores()
    changed = [row | {"text": "other"} if row["id"] in (3, 4) else row for row in ROWS[:30]]
    write_lines(tmp_path / "corpus/x.jsonl", changed)
    with pytest.raises(SystemExit) as stopped:
        join_scores.main(JOIN.split())
    assert stopped.value.code == 3
    scores = pq.read_table("out/x.jsonl.parquet")["AI_Score"].to_pylist()
    assert len(scores) == 30 and [row for row, score in enumerate(scores) if score is None] == sorted(
        {4, *range(0, 30, 3)}
    )
    said = capsys.readouterr().err
    assert "corpus/x.jsonl: row 4, counted from 0, has another text now" in said
    assert "corpus/x.jsonl: row 31, counted from 0, is not there any more" in said
    assert "2 of 21 documents have changed" in said


def test_of_a_row_that_is_scored_twice_the_first_counts_with_a_warning(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected()
    table = pq.read_table("scores.parquet")
    place = table.column_names.index("row")
    pq.write_table(
        table.set_column(place, "row", pa.array([0, 0, *range(2, 32)])).drop_columns("text_hash"), "some.parquet"
    )
    join_scores.main(JOIN.split())
    assert "corpus/x.jsonl: 1 of its rows are in the table more than once" in capsys.readouterr().err
    first = min(table["doc_id"].to_pylist()[:2])
    assert pq.read_table("out/x.jsonl.parquet")["doc_id"].to_pylist()[:2] == [first, None]


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/a/x.jsonl", ROWS)
    (tmp_path / "corpus/b").mkdir()
    save_parquet(tmp_path / "corpus/b/x.parquet")
    selected()
    some_scores()
    assert "corpus/b/x.parquet: not JSONL, which Dolma takes" in error_of(join_scores, f"{JOIN} --format dolma", capsys)
    whole = Path("corpus/b/x.parquet").read_bytes()
    Path("corpus/b/x.parquet").write_bytes(whole[:-9])
    assert "corpus/b/x.parquet: not a readable parquet file" in error_of(join_scores, JOIN, capsys)
    Path("corpus/b/x.parquet").write_bytes(whole)
    Path("corpus/a/x.jsonl").unlink()
    assert "corpus/a/x.jsonl: no such file" in error_of(join_scores, JOIN, capsys)
    assert "corpus: another program made this folder" in error_of(join_scores, f"{JOIN[:-3]}corpus", capsys)
    assert not Path("out").exists() and not list(tmp_path.glob(".out.[!l]*"))


@cache
def mixer():
    """Dolma's mixer alone; the package around it needs much that is not here."""
    [file] = [file for file in importlib.metadata.files("dolma") if file.suffix == ".so"]
    loader = importlib.machinery.ExtensionFileLoader("dolma", str(file.locate()))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("dolma", loader))
    loader.exec_module(module)
    return module.mixer_entrypoint


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_dolmas_mixer_takes_the_attributes(tmp_path, selected, suffix):
    documents = {"s/x": ROWS[:20], "t/x": [{**row, "id": f"t{row['id']}"} for row in ROWS]}
    for name, rows in documents.items():
        write_lines(tmp_path / f"corpus/documents/{name}.jsonl{suffix}", rows)
    selected("--input corpus/documents")
    scores = some_scores()
    join_scores.main(f"{JOIN[:-3]}corpus/attributes/attention_influence --format dolma".split())
    stream = {
        "name": "mixed",
        "documents": [f"{tmp_path}/corpus/documents/*/*{suffix}"],
        "attributes": ["attention_influence"],
        "filter": {
            "include": ["$.attributes[?(@.attention_influence__AI_Score[0][2] >= 0.5)]"],
            "exclude": [],
            "syntax": "jsonpath",
        },
        "output": {"path": f"{tmp_path}/mixed", "max_size_in_bytes": 10**9},
        "compression": {"input": None, "output": None},
    }
    folders = {"input": str(tmp_path / "in"), "output": str(tmp_path / "outs")}
    mixer()(json.dumps({"streams": [stream], "work_dir": folders, "processes": 1, "shuffle": False}))
    outputs = [path for path in Path("mixed").rglob("*.*") if path.is_file()]
    lines = [line for path in outputs for line in DECOMPRESS[suffix](path.read_bytes()).splitlines()]
    found = {row["id"]: row for row in map(json.loads, lines)}
    best = {
        documents[file.split("documents/")[1].split(".")[0]][row]["id"]: score
        for (file, row), score in scores.items()
        if score["AI_Score"] >= 0.5
    }
    assert found.keys() == best.keys() and found
    for id_, score in best.items():
        spans = found[id_]["attributes"]["attention_influence__AI_Score"]
        assert spans == [[0, len(found[id_]["text"]), pytest.approx(score["AI_Score"], rel=1e-15)]]


def test_the_join_of_another_table_is_kept_unless_asked(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected()
    some_scores()
    join_scores.main(["--scores", "scores.parquet", "--out_dir", "out"])
    assert "out: holds the scores of scores.parquet as parquet; give another" in error_of(join_scores, JOIN, capsys)
    assert pq.read_table("out/x.jsonl.parquet")["AI_Score"].null_count == 0
    join_scores.main([*JOIN.split(), "--overwrite"])
    assert pq.read_table("out/x.jsonl.parquet")["AI_Score"].null_count > 0


def test_a_file_whose_columns_have_other_names_is_named(tmp_path, selected, capsys):
    (tmp_path / "corpus").mkdir()
    save_parquet(tmp_path / "corpus/x.parquet")
    selected()
    some_scores()
    pq.write_table(pq.read_table("corpus/x.parquet").rename_columns(["body", "ident"]), "corpus/x.parquet")
    assert "corpus/x.parquet: no column 'text', only body, ident" in error_of(join_scores, JOIN, capsys)


def test_attributes_are_compressed_as_the_names_of_the_documents_say(tmp_path, selected):
    for name in ("a.jsonl.zstd", "b.JSONL.GZ"):
        write_lines(tmp_path / f"corpus/{name}", ROWS)
        whole = (tmp_path / f"corpus/{name}").read_bytes()
        (tmp_path / f"corpus/{name}").write_bytes(zstd.compress(whole) if "zstd" in name else gzip.compress(whole))
    selected()
    some_scores()
    join_scores.main([*JOIN.split(), "--format", "dolma"])
    for name, decompress in (("a.jsonl.zstd", zstd.decompress), ("b.JSONL.GZ", gzip.decompress)):
        assert len(decompress(Path(f"out/{name}").read_bytes()).splitlines()) == len(ROWS)
