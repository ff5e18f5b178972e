"""Text from files of every kind and from a hub data set."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from common.errors import InputError
from common.text.corpus import Columns, RowReader, SourceDocument, read_files, read_hub

ROWS = [
    {"text": "First, with\ttab\nand line.", "id": "a", "source": "web", "url": "https://x.test/1"},
    {"text": "", "id": "b", "source": "books", "url": None},
    {"text": "Größe 你好", "id": "c", "source": "a\tb\nc", "url": ""},
]
EXPECTED = [
    SourceDocument("First, with\ttab\nand line.", "a", "web", "https://x.test/1"),
    SourceDocument("", "b", "books", ""),
    SourceDocument("Größe 你好", "c", "a b c", ""),
]


def write(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(lines))
    else:
        path.write_bytes(lines)
    return str(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.json"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    assert list(read_files([path], RowReader(Columns(domain="source")))) == EXPECTED


def test_files_come_in_the_order_of_patterns_and_names_and_only_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name}")
    found = [
        d.text for d in read_files([f"{tmp_path}/*.txt", f"{tmp_path}/c.md", f"{tmp_path}/a.txt"], RowReader(Columns()))
    ]
    assert found == ["text of a.txt", "text of b.txt", "text of c.md"]


def test_rows_without_an_id_are_named_by_their_place(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": "one"}, {"text": "two"}])
    assert [d.id for d in read_files([path], RowReader(Columns()))] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl:2"),
        ("x.jsonl", b'{"text": "a"}\n["text"]\n', "x.jsonl:2"),
        ("x.jsonl", b'{"text": "a"}\n\n{"body": "a"}\n', "x.jsonl:3"),
        ("x.jsonl", b'{"text": null}\n', "x.jsonl:1"),
        ("x.jsonl", b'{"text": "\xff"}\n', "x.jsonl:1"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-9], "x.jsonl.gz"),
        ("x.jsonl.zst", b"no zstandard", "x.jsonl.zst"),
        ("x.parquet", b"PAR1 no parquet", "x.parquet"),
        ("x.txt", b"caf\xe9", "x.txt"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path, name, content, place):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=place):
        list(read_files([str(tmp_path / name)], RowReader(Columns())))


@pytest.mark.parametrize("columns", [Columns(text="body"), Columns(id="key"), Columns(domain="topic")])
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_an_unknown_column_is_named_with_those_there_are(tmp_path, name, columns):
    path = write(tmp_path / name, [{"text": "a", "source": "web"}])
    wanted = next(c for c in (columns.domain, columns.id, columns.text) if c not in (None, "text"))
    with pytest.raises(InputError, match=f"no column '{wanted}', only source, text"):
        list(read_files([path], RowReader(columns)))


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_files([f"{tmp_path}/*.jsonl"], RowReader(Columns())))


def test_a_hub_data_set_is_streamed_with_its_columns(tmp_path, monkeypatch):
    # No hub in a test: the same library streams the same rows from a local file.
    path = write(tmp_path / "x.parquet", ROWS)
    asked = {}

    def load_dataset(path_or_name, **options):
        asked.update(path=path_or_name, **options)
        return real_load("parquet", data_files=path, split=options["split"], streaming=options["streaming"])

    real_load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents = list(read_hub("HuggingFaceFW/fineweb", "sample-10BT", RowReader(Columns()), "fineweb"))
    assert asked == {
        "path": "HuggingFaceFW/fineweb",
        "name": "sample-10BT",
        "split": "train",
        "streaming": True,
    }
    assert [(d.text, d.id, d.domain, d.url) for d in documents] == [
        (row["text"], row["id"], "fineweb", row["url"] or "") for row in ROWS
    ]
