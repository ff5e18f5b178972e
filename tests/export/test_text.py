"""The selection as text: what comes out is what the corpus has, and the scores of its documents."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import datasets
import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import export_selection
from common.table.schema import TABLE_SCHEMA
from common.text.rows import rows_of
from tests.conftest import ROOT, SENTENCES, error_of
from tests.export.conftest import write_lines

TEXTS = [f"{number}. {SENTENCES[number % 16]} Ä漢" for number in range(60)]
TABLE = pa.table(
    {
        "domain": pa.array(["web", "book"] * 30).dictionary_encode(),
        "text": pa.array(TEXTS, pa.large_string()),
        "n": pa.array(range(60), pa.int16()),
        "when": pa.array([datetime(2024, 1, 1, 0, 0, 0, number) for number in range(60)], pa.timestamp("us", "UTC")),
        "price": pa.array([Decimal(number) / 4 for number in range(60)], pa.decimal128(10, 2)),
        "meta": [{"tags": ["a"] * (number % 3), "lang": None if number % 2 else "de"} for number in range(60)],
        "raw": [bytes([number, 255]) for number in range(60)],
    }
)
ROWS = [
    {"text": text, "id": number, "big": 2**70 + number, "domain": "x", "meta": {"n": [number, None]} | {"é": "漢"}}
    for number, text in enumerate(TEXTS)
]


def export(*flags, out="out"):
    """Export `top.parquet`; the files that it wrote."""
    export_selection.main(["--selection", "top.parquet", "--out_dir", out, *flags])
    return sorted(Path(out).glob("part-*"))


def lines_of(paths):
    return [json.loads(row.value) for path in paths for row in rows_of(path, "text", None, set())]


def save_parquet(folder):
    pq.write_table(TABLE, folder / "x.parquet", row_group_size=7)


def save_hive(folder):
    for number, dump in enumerate(("A", "B")):
        (folder / f"dump={dump}").mkdir()
        pq.write_table(TABLE.slice(30 * number, 30), folder / f"dump={dump}/x.parquet", row_group_size=11)


def save_to_disk(folder):
    datasets.Dataset(TABLE).save_to_disk(folder / "saved", num_shards=2)
    return pa.concat_tables(pa.ipc.open_stream(path).read_all() for path in sorted(folder.glob("saved/*.arrow")))


def save_feather(folder):
    pa.feather.write_feather(TABLE, folder / "x.feather", chunksize=9)


@pytest.mark.parametrize("save", [save_parquet, save_hive, save_to_disk, save_feather])
def test_tables_come_out_with_the_columns_types_and_values_that_they_have(tmp_path, selected, save):
    folder = tmp_path / "corpus"
    folder.mkdir()
    source = save(folder) or TABLE
    numbers = selected()
    paths = export("--format", "parquet", "--rows_per_file", "8")
    assert [pq.read_metadata(path).num_rows for path in paths] == [8, 8, 4]
    assert [path.name for path in paths] == [f"part-0000{number}.parquet" for number in range(3)]
    found = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    names = ["source_domain", *TABLE.column_names[1:]]
    wanted = source.take(numbers).rename_columns(names)
    assert found.select(names).schema.equals(wanted.schema, check_metadata=False)
    assert found.select(names).to_pylist() == wanted.to_pylist()
    hive = ["dump"] if save is save_hive else []
    assert found.column_names == [*names, *hive, *TABLE_SCHEMA.names]
    if hive:
        assert found["dump"].to_pylist() == ["A" if number < 30 else "B" for number in numbers]
    scores = pq.read_table("scores.parquet").take(numbers)
    for name in ("doc_id", "domain", "AI_Score", "num_tokens"):
        assert found[name].to_pylist() == scores[name].to_pylist()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines_come_out_with_their_values(tmp_path, selected, suffix):
    write_lines(tmp_path / f"corpus/x.jsonl{suffix}", ROWS)
    numbers = selected()
    paths = export("--format", f"jsonl{suffix}", "--rows_per_file", "7")
    assert [len(lines_of([path])) for path in paths] == [7, 7, 6]
    scores = pq.read_table("scores.parquet").take(numbers).to_pylist()
    for row, number, score in zip(lines_of(paths), numbers, scores, strict=True):
        own = {f"source_{name}" if name == "domain" else name: value for name, value in ROWS[number].items()}
        assert {name: row[name] for name in own} == own
        assert list(row) == [*own, *TABLE_SCHEMA.names]
        assert {name: row[name] for name in ("doc_id", "domain", "AI_Score")} == {
            name: score[name] for name in ("doc_id", "domain", "AI_Score")
        }


def test_json_becomes_parquet_and_parquet_json(tmp_path, selected):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.json").write_text(json.dumps([{**row, "big": 2**40} for row in ROWS[:30]]))
    pq.write_table(TABLE.slice(30), tmp_path / "corpus/b.parquet")
    numbers = selected()
    [path] = export("--format", "parquet")
    found = pq.ParquetFile(path).read()
    assert found["text"].to_pylist() == [TEXTS[number] for number in numbers]
    assert found["big"].type == pa.int64() and found["price"].type == pa.decimal128(10, 2)
    assert found["meta"].to_pylist()[0] == {"n": [1, None], "é": "漢", "tags": None, "lang": None}
    assert found.column_names[-len(TABLE_SCHEMA) :] == TABLE_SCHEMA.names
    rows = lines_of(export("--format", "jsonl", out="lines"))
    last = TABLE.slice(numbers[-1], 1).to_pylist()[0]
    assert rows[0]["meta"] == ROWS[1]["meta"]
    assert rows[-1]["meta"] == last["meta"]
    assert [rows[-1][name] for name in ("when", "price", "raw")] == [last["when"].isoformat(), "14.50", "Ov8="]


def test_values_that_json_does_not_have_and_half_a_character_come_out_as_valid_json(tmp_path, selected):
    write_lines(tmp_path / "corpus/x.jsonl", [{"text": text, "n": float("nan"), "c": [1e400]} for text in TEXTS])
    path = tmp_path / "corpus/x.jsonl"
    path.write_text(path.read_text().replace('"c"', r'"half": "\ud83d", "c"'))
    numbers = selected()
    [path] = export("--format", "jsonl")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_bytes().splitlines()]
    assert [(row["n"], row["c"], row["half"]) for row in rows] == [(None, [None], "\ud83d")] * len(numbers)
    [path] = export("--format", "parquet", out="table")
    assert pq.read_table(path)["half"].to_pylist() == [r"\ud83d"] * len(numbers)


@pytest.mark.parametrize("suffix", ["jsonl", "feather"])
def test_objects_without_a_key_and_a_column_without_a_name_are_kept(tmp_path, selected, suffix):
    rows = [{"text": text, "": 1, "meta": {}, "tags": [{"a": {}}]} for text in TEXTS]
    (tmp_path / "corpus").mkdir()
    if suffix == "jsonl":
        write_lines(tmp_path / "corpus/x.jsonl", rows)
    else:
        pa.feather.write_feather(pa.Table.from_pylist(rows), tmp_path / "corpus/x.feather")
    numbers = selected("--input corpus --keep_columns meta")
    [path] = export("--format", "parquet")
    found = pq.read_table(path).select(["", "meta", "tags"])
    assert [column.to_pylist() for column in found.columns] == [
        [value] * len(numbers) for value in (1, "{}", '[{"a": {}}]')
    ]


def test_columns_of_ours_get_a_prefix_until_the_name_is_free(tmp_path, selected):
    rows = [{"text": text, "AI_Score": 7, "source_AI_Score": 8} for text in TEXTS]
    write_lines(tmp_path / "corpus/x.jsonl", rows)
    selected()
    for row in lines_of(export("--format", "jsonl")):
        assert (row["source_source_AI_Score"], row["source_AI_Score"]) == (7, 8) and row["AI_Score"] < 1


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_duckdb_pandas_polars_and_datasets_read_what_is_written(tmp_path, selected, kind, monkeypatch):
    (tmp_path / "corpus").mkdir()
    save_parquet(tmp_path / "corpus")
    wanted = [TEXTS[number] for number in selected()]
    paths = list(map(str, export("--format", kind, "--rows_per_file", "9")))
    read = "read_parquet" if kind == "parquet" else "read_json"
    assert [text for (text,) in duckdb.sql(f"SELECT text FROM {read}({paths})").fetchall()] == wanted
    tables = [pd.read_parquet(path) if kind == "parquet" else pd.read_json(path, lines=True) for path in paths]
    assert pd.concat(tables)["text"].tolist() == wanted
    read = polars.read_parquet if kind == "parquet" else polars.read_ndjson
    assert polars.concat([read(path) for path in paths])["text"].to_list() == wanted
    builder = "parquet" if kind == "parquet" else "json"
    if kind == "parquet":
        assert (
            pd.read_parquet("out")["text"].tolist() == polars.read_parquet("out/*.parquet")["text"].to_list() == wanted
        )
    assert datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))["text"][:] == wanted
    found = datasets.load_dataset(builder, data_files=paths, split="train", cache_dir=str(tmp_path / "cache"))
    assert found["text"][:] == wanted
    assert found["AI_Score"][:] == duckdb.sql("SELECT AI_Score FROM 'scores.parquet'").df()["AI_Score"][1::3].tolist()


def test_what_has_changed_is_left_out_named_and_counted_every_time(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/a.jsonl", ROWS)
    write_lines(tmp_path / "corpus/b.jsonl", ROWS[:30])
    numbers = selected()
    rows = [dict(row) for row in ROWS]
    rows[4]["text"] += "!"
    write_lines(tmp_path / "corpus/a.jsonl", rows)
    broken = (tmp_path / "corpus/a.jsonl").read_text().splitlines()
    broken[7] = "no JSON"
    (tmp_path / "corpus/a.jsonl").write_text("\n".join(broken))
    write_lines(tmp_path / "corpus/b.jsonl", ROWS[:20])
    left = [number for number in numbers if number not in (4, 7) and number < 80]
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            export("--format", "parquet", "--rows_per_file", "7")
        assert stopped.value.code == 3
        found = pa.concat_tables(map(pq.read_table, sorted(Path("out").glob("part-*"))))
        assert found["id"].to_pylist() == [number % 60 for number in left]
        said = capsys.readouterr()
        assert "corpus/a.jsonl: row 4, counted from 0, has another text now" in said.err
        assert "corpus/a.jsonl: row 7, counted from 0, has another text now" in said.err
        assert "corpus/b.jsonl: row 22, counted from 0, is not there any more" in said.err
        assert f"5 of {len(numbers)} documents have changed since they were scored and are left out" in said.err
        assert f"wrote {len(left)} documents to out/part-*" in said.out


def test_a_corpus_that_was_moved_is_found_and_a_missing_file_is_named(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/a/x.jsonl", ROWS)
    selected()
    (tmp_path / "new").mkdir()
    (tmp_path / "corpus").rename(tmp_path / "new/corpus")
    line = error_of(export_selection, "--selection top.parquet --out_dir out --format parquet", capsys)
    assert "corpus/a/x.jsonl: no such file" in line and "20 documents" in line and "--moved" in line
    assert not Path("out").exists()
    [path] = export("--format", "parquet", "--moved", "corpus/", f"{tmp_path}/new/corpus")
    assert pq.read_table(path)["id"].to_pylist() == list(range(1, 60, 3))


def test_a_killed_export_goes_on_and_ends_like_one_that_was_not(tmp_path, selected):
    write_lines(tmp_path / "corpus/x.jsonl.gz", [{**row, "id": n} for n in range(60) for row in ROWS])
    save_parquet(tmp_path / "corpus")
    selected(keep=lambda number: number % 2)
    wanted = {path.name: path.read_bytes() for path in export("--format", "jsonl.gz", "--rows_per_file", "40")}
    flags = "--selection top.parquet --format jsonl.gz --rows_per_file 40 --out_dir killed".split()
    process = subprocess.Popen([sys.executable, ROOT / "export_selection.py", *flags], stderr=subprocess.DEVNULL)
    while not Path("killed/.parts.json").exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in Path("killed").glob("part-*")}
    finished = json.loads(Path("killed/.parts.json").read_text())
    assert 0 < len(finished) < len(wanted)
    paths = export("--format", "jsonl.gz", "--rows_per_file", "40", out="killed")
    assert {path.name: path.read_bytes() for path in paths} == wanted
    assert all(Path(f"killed/{name}").stat().st_mtime_ns == before[name] for name in finished)
    assert {path.name for path in Path("killed").iterdir()} == {*wanted, ".export.json", ".parts.json"}


def test_a_folder_belongs_to_one_export(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected()
    export("--format", "jsonl")
    other = "--selection top.parquet --out_dir out --format parquet"
    assert "(format was 'jsonl', is 'parquet'): give another output" in error_of(export_selection, other, capsys)
    assert [path.suffix for path in export("--format", "parquet", "--overwrite")] == [".parquet"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    line = error_of(export_selection, other.replace("--out_dir out", "--out_dir other"), capsys)
    assert "other/notes.txt: not of an export as text" in line


def test_another_export_in_the_folder_begins_anew(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    numbers = selected()
    write_lines(tmp_path / "corpus/x.jsonl", [{**row, "text": "changed"} for row in ROWS])
    with pytest.raises(SystemExit):
        export("--format", "parquet", "--rows_per_file", "5")
    assert not list(Path("out").glob("part-*"))
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    paths = export("--format", "parquet", "--rows_per_file", "5", "--overwrite")
    assert pa.concat_tables(map(pq.read_table, paths))["id"].to_pylist() == [number % 60 for number in numbers]


def test_the_score_that_ranked_comes_out(tmp_path, selected):
    (tmp_path / "corpus").mkdir()
    save_parquet(tmp_path / "corpus")
    selected()
    table = pq.read_table("top.parquet")
    pq.write_table(table.append_column("rank_score", pa.array(range(len(table)), pa.float64())), "top.parquet")
    ranks = dict(zip(table["row"].to_pylist(), map(float, range(len(table))), strict=True))
    [path] = export("--format", "parquet")
    found = pq.read_table(path)
    assert found.column_names[-1] == "rank_score"
    assert found["rank_score"].to_pylist() == [ranks[row] for row in sorted(ranks)]
