"""Rows of Arrow files, saved data sets and JSON arrays; nested columns and columns in folders' names."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from common.errors import InputError
from common.text.corpus import Columns, RowReader, read_files
from common.text.fineweb import open_files
from common.text.kept import kept_table
from common.text.rows import files_in

ROWS = [
    {"text": "First.", "id": "a", "meta": {"source": "web", "n": 1}},
    {"text": "Größe 你好", "id": "b", "meta": {"source": "books", "n": None}},
    {"text": "Third.", "id": "c", "meta": None},
]
TABLE = pa.Table.from_pylist(ROWS)


def documents(*paths, **options):
    return list(read_files([Path(path) for path in paths], RowReader(Columns(domain="meta.source"), **options)))


def write_arrow(path, table):
    with pa.ipc.new_stream(path, table.schema) if "stream" in path.name else pa.ipc.new_file(path, table.schema) as out:
        out.write_table(table, max_chunksize=2)


@pytest.mark.parametrize(
    "name", ["stream.arrow", "x.ARROW", "x.feather", "part-0", "x.parquet", "x.json", "x.json.gz", "x.jsonl"]
)
def test_nested_columns_and_rows_of_every_format(tmp_path, name):
    path = tmp_path / name
    array = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()
    if name == "x.parquet":
        pq.write_table(TABLE, path)
    elif name == "x.jsonl":
        path.write_text("\n\n".join(map(json.dumps, ROWS)))
    elif "json" in name:
        path.write_bytes(gzip.compress(array) if name.endswith("gz") else b"\xef\xbb\xbf \n" + array)
    else:
        write_arrow(path, TABLE)
    found = documents(path)
    assert [(d.text, d.id, d.domain) for d in found] == [
        ("First.", "a", "web"),
        ("Größe 你好", "b", "books"),
        ("Third.", "c", "default"),
    ]
    assert [(d.file, d.row) for d in found] == [(str(path), row) for row in range(3)]


def test_a_data_set_that_datasets_saved(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    chosen = datasets.DatasetDict(train=data.select([2, 0]), test=data)
    chosen.save_to_disk(tmp_path / "saved")
    data.save_to_disk(tmp_path / "shards", num_shards=3)
    (tmp_path / "shards" / "cache-1.arrow").write_bytes(b"no part of it")
    for folder, ids in (("saved/train", "ca"), ("shards", "abc"), ("saved", "abcca")):
        assert "".join(d.id for d in documents(*files_in(tmp_path / folder))) == ids
    (tmp_path / "shards" / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json: not the notes of a saved data set"):
        files_in(tmp_path / "shards")


def test_a_broken_array_is_named_with_its_place(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROWS)[:-20])
    with pytest.raises(InputError, match=r"x\.json: not a JSON array after item 2"):
        documents(path)
    path.write_text('[{"text": "a", "meta": {"source": "b"}}, 5]')
    with pytest.raises(InputError, match=r"x\.json:item 2: a JSON int, not an object"):
        documents(path)
    reader = RowReader(Columns(), skip=True)
    assert [d.text for d in read_files([path], reader)] == ["a"]
    assert reader.num_skipped == 1


def test_a_damaged_arrow_file_is_named(tmp_path):
    write_arrow(tmp_path / "x.arrow", TABLE)
    whole = (tmp_path / "x.arrow").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"ARROW1", b""):
        (tmp_path / "x.arrow").write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.arrow: not a readable arrow file"):
            documents(tmp_path / "x.arrow")


def test_a_nested_column_that_is_not_there(tmp_path):
    pq.write_table(TABLE, tmp_path / "x.parquet")
    for column in ("meta.origin", "text.source", "meta.n.x"):
        with pytest.raises(InputError, match=rf"no column '{column}' \(--domain_column\) in it, only id, meta, text"):
            list(read_files([tmp_path / "x.parquet"], RowReader(Columns(domain=column))))


def test_folders_of_hive_are_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"dump=CC%2D1/lang=en": "parquet", "dump=CC-2/lang=__HIVE_DEFAULT_PARTITION__": "jsonl"}
    for folder, kind in parts.items():
        path = tmp_path / "edu" / folder / f"x=0.{kind}"
        path.parent.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(TABLE.append_column("dump", pa.array(["own"] * 3)), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    reader = RowReader(Columns(domain="dump"), keep=["lang", "dump"])
    found = list(open_files(["edu/**/*.*"], reader).documents)
    assert [(d.domain, d.kept["lang"], d.kept["dump"]) for d in found] == [("own", "en", "own")] * 3 + [
        ("CC-2", None, "CC-2")
    ] * 3
    assert found[0].types == pa.schema([("lang", pa.string()), ("dump", pa.string())])


def test_kept_columns_keep_their_types_and_avoid_our_names(tmp_path):
    columns = {
        "text": pa.array(["a", "b"]),
        "id": pa.array([7, 8]),
        "url": pa.array(["u", None]),
        "small": pa.array([1, None], pa.int8()),
        "half": pa.array([0.5, 2], pa.float32()),
        "money": pa.array([Decimal("1.20"), None], pa.decimal128(9, 2)),
        "when": pa.array([1, 2], pa.timestamp("us", "UTC")),
        "tags": pa.array([["x"], []], pa.list_(pa.string())),
        "kind": pa.array(["k", "k"]).dictionary_encode(),
        "meta": pa.array([{"a": {"b": 1}}, None]),
        "num_tokens": pa.array([3, 4]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = list(read_files([tmp_path / "x.parquet"], RowReader(Columns(), keep=["all"])))
    kept = kept_table((d.kept, d.types) for d in found)
    expected = pa.table({name: array for name, array in columns.items() if name not in ("text", "id", "url")})
    expected = expected.rename_columns({"num_tokens": "source_num_tokens"})
    assert kept.equals(expected.set_column(6 - 1, "kind", pa.array(["k", "k"])).select(kept.column_names))
    assert kept.column_names == expected.column_names
    [first, _] = read_files([tmp_path / "x.parquet"], RowReader(Columns(), keep=["meta.a.b", "small"]))
    assert first.kept == {"meta.a.b": 1, "small": 1}
    assert first.types == pa.schema([("meta.a.b", pa.int64()), ("small", pa.int8())])


def test_values_of_json_find_a_type_that_holds_them_or_are_text(tmp_path):
    rows = [
        {"text": "a", "n": 1, "m": 1, "l": [1], "o": {"x": 1}, "big": 2**70, "half": "\ud800"},
        {"text": "b", "n": 2.5, "m": "one", "l": None, "o": {"y": "z"}},
        {"text": "c"},
    ]
    (tmp_path / "x.jsonl.zst").write_bytes(zstd.compress("\n".join(map(json.dumps, rows)).encode()))
    reader = RowReader(Columns(), keep=["all"])
    table = kept_table((d.kept, d.types) for d in read_files([tmp_path / "x.jsonl.zst"], reader))
    assert table.to_pydict() == {
        "n": [1.0, 2.5, None],
        "m": ["1", "one", None],
        "l": [[1], None, None],
        "o": [{"x": 1, "y": None}, {"x": None, "y": "z"}, None],
        "big": [str(2**70), None, None],
        "half": ["\\ud800", None, None],
    }


def test_a_column_to_keep_that_is_not_there(tmp_path):
    pq.write_table(TABLE, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"no column 'score' \(--keep_columns\) in it, only id, meta, text"):
        list(read_files([tmp_path / "x.parquet"], RowReader(Columns(), keep=["id", "score"])))


def test_an_empty_file_among_others_is_no_fault(tmp_path):
    (tmp_path / "a.jsonl").touch()
    pq.write_table(TABLE.slice(0, 0), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text(json.dumps(ROWS[0]))
    assert [d.id for d in documents(*sorted(tmp_path.iterdir()), keep=["id", "meta.n"])] == ["a"]


def test_whole_numbers_of_any_size_and_floats_in_an_array(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([{"text": "a", "n": 2**70, "f": 0.1, "l": [1.5]}]))
    [document] = read_files([tmp_path / "x.json"], RowReader(Columns(), keep=["all"]))
    assert document.kept == {"n": 2**70, "f": 0.1, "l": [1.5]}


def test_two_columns_never_get_one_name(tmp_path):
    names = ["domain", "source_domain", "source_source_domain", "", "score", "source_x"]
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a", **{name: name for name in names}}))
    [document] = read_files([tmp_path / "x.jsonl"], RowReader(Columns(), keep=["all"]))
    expected = ["source_domain", "source_source_domain", "source_source_source_domain", "source_", "score", "source_x"]
    assert document.kept == dict(zip(expected, names, strict=True))


def test_a_column_whose_types_hold_not_all_values_is_text(tmp_path):
    large = [({"n": 2**60 + 1}, pa.schema({"n": pa.int64()})), ({"n": 0.5}, pa.schema({"n": pa.float64()}))]
    assert kept_table(large).to_pydict() == {"n": [str(2**60 + 1), "0.5"]}
    small = [({"n": 3}, pa.schema({"n": pa.int64()})), ({"n": 0.5}, pa.schema({"n": pa.float64()}))]
    assert kept_table(small).to_pydict() == {"n": [3.0, 0.5]}


def test_values_that_other_programs_lack_are_text(tmp_path):
    columns = {
        "text": ["a"],
        "much": pa.array([Decimal(10**40)], pa.decimal256(50, 0)),
        "uuid": pa.array([bytes(16)], pa.uuid()),
        "far": pa.array([2**60], pa.timestamp("us")),
    }
    with pa.ipc.new_file(tmp_path / "x.arrow", (table := pa.table(columns)).schema) as out:
        out.write_table(table)
    found = documents_of_all(tmp_path / "x.arrow")
    assert kept_table((d.kept, d.types) for d in found).to_pydict() == {
        "much": [str(10**40)],
        "uuid": ["00000000-0000-0000-0000-000000000000"],
        "far": [pa.array([2**60], pa.timestamp("us")).cast(pa.string())[0].as_py()],
    }


def documents_of_all(path):
    return list(read_files([path], RowReader(Columns(), keep=["all"])))
