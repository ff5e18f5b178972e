"""Text from files of every kind and from a hub data set."""

import gzip
import itertools
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from common.errors import InputError
from common.files import expand
from common.text.corpus import Columns, RowReader, SourceDocument, few_domains, read_files
from common.text.fineweb import open_files, open_hub, open_version
from common.text.rows import files_in, text_bytes

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


def read(paths, reader):
    """The documents of files, without their places."""
    return [replace(document, file="", row=0) for document in read_files(paths, reader)]


def write(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif path.suffix == ".zst":
        path.write_bytes(zstd.compress(lines))
    else:
        path.write_bytes(lines)
    return str(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.json"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    assert read([Path(path)], RowReader(Columns(domain="source"))) == EXPECTED


def test_files_come_in_the_order_of_patterns_and_names_and_only_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name}")
    paths = expand([f"{tmp_path}/*.txt", f"{tmp_path}/c.md", f"{tmp_path}/a.txt"])
    found = [document.text for document in read_files(paths, RowReader(Columns()))]
    assert found == ["text of a.txt", "text of b.txt", "text of c.md"]


def test_rows_without_an_id_are_named_by_their_place(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": "one"}, {"text": "two"}])
    assert [d.id for d in read_files([Path(path)], RowReader(Columns()))] == [f"{path}:1", f"{path}:2"]


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
        list(read_files([tmp_path / name], RowReader(Columns())))


AS_JSON = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_parquet() -> bytes:
    pq.write_table(pa.Table.from_pylist(ROWS), written := pa.BufferOutputStream())
    return written.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "name",
    ["x.ndjson", "x.jsonlines", "x.JSONL", "x.Jsonl.GZ", "part-00000", "x.csv", "x.log", "noname.gz", "a.json.zst"],
)
def test_lines_of_json_are_known_by_name_or_content(tmp_path, name):
    compress = {".gz": gzip.compress, ".zst": zstd.compress}.get(Path(name).suffix.lower(), bytes)
    (tmp_path / name).write_bytes(compress(AS_JSON))
    assert read([tmp_path / name], RowReader(Columns(domain="source"))) == EXPECTED


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress, bytes])
def test_compression_is_known_by_content_where_the_name_does_not_say(tmp_path, compress):
    (tmp_path / "part-00000").write_bytes(compress(b"\xef\xbb\xbf" + AS_JSON))
    assert read([tmp_path / "part-00000"], RowReader(Columns(domain="source"))) == EXPECTED


@pytest.mark.parametrize("name", ["x.parquet.gzip", "part-00000", "x.snappy", "x.PARQUET"])
def test_parquet_is_known_by_name_or_content(tmp_path, name):
    (tmp_path / name).write_bytes(as_parquet())
    assert read([tmp_path / name], RowReader(Columns(domain="source"))) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"text,id\na,1\n"),
        ("x.tsv.gz", gzip.compress(b"text\tid\na\t1\n", mtime=0)),
        ("_SUCCESS", b""),
        ("part-00000", b"some lines\nof text\n"),
        ("stream", pa.ipc.serialize_pandas(pa.Table.from_pylist(ROWS).to_pandas()).to_pybytes()),
        ("x.bin", bytes(2000)),
        ("x.txt.xz", b"\xfd7zXZ\x00"),
        ("README", b"Read me."),
    ],
)
def test_what_neither_name_nor_content_explains_is_refused_before_anything_is_read(tmp_path, name, content):
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: neither its name nor its content"):
        next(read_files([tmp_path / "a.txt", tmp_path / name], RowReader(Columns())))


def test_zstandard_with_a_long_window(tmp_path):
    option = zstd.CompressionParameter
    rng = np.random.default_rng(0)
    noise = [rng.integers(97, 123, 2**20, np.uint8).tobytes().decode() for _ in range(9)]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in noise * 2).encode()
    options = {option.window_log: 28, option.enable_long_distance_matching: 1, option.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    whole = compressor.compress(rows) + compressor.flush()
    (tmp_path / "x.jsonl.zst").write_bytes(whole)
    with pytest.raises(zstd.ZstdError):  # so the window is longer than readers accept unasked
        zstd.decompress(whole)
    assert [d.text for d in read_files([tmp_path / "x.jsonl.zst"], RowReader(Columns()))] == noise * 2


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.txt.gz", "x.jsonl.zst", "x.txt.zst"])
def test_an_empty_compressed_file_is_cut_short(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_files([tmp_path / name], RowReader(Columns())))


@pytest.mark.parametrize("domain", [{"set": "C4"}, ["web", "c4"]])
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_nested_domain_is_refused_with_a_sample_also_where_bad_rows_are_skipped(tmp_path, name, domain):
    path = write(tmp_path / name, [{"text": "a", "meta": domain}])
    with pytest.raises(InputError, match=rf"{name}.*1: --domain_column meta is nested, .*(C4|c4)"):
        list(read_files([Path(path)], RowReader(Columns(domain="meta"), skip=True)))


@pytest.mark.parametrize(
    ("count", "domains", "refused"),
    [(20, 11, True), (20, 10, False), (19, 19, False), (5000, 2501, True), (5000, 2500, False)],
)
def test_a_domain_for_nearly_every_document_is_refused(count, domains, refused):
    documents = [SourceDocument("a", str(n), f"domain {n * domains // count}") for n in range(count)]
    assert list(few_domains(documents, Columns())) == documents
    if not refused:
        assert list(few_domains(documents, Columns(domain="site"))) == documents
        return
    with pytest.raises(InputError, match=rf"--domain_column site: {domains:,} domains for {count:,} .*'domain 0', "):
        list(few_domains(documents, Columns(domain="site")))


def test_a_domain_for_each_document_is_refused_early():
    documents = (SourceDocument("a", str(n), str(n)) for n in itertools.count())
    with pytest.raises(InputError, match="1,000 domains for 1,000 documents"):
        list(few_domains(documents, Columns(domain="site")))


@pytest.mark.parametrize("columns", [Columns(text="body"), Columns(id="key"), Columns(domain="topic")])
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_an_unknown_column_is_named_with_those_there_are(tmp_path, name, columns):
    path = write(tmp_path / name, [{"text": "a", "source": "web"}])
    wanted = next(c for c in (columns.domain, columns.id, columns.text) if c not in (None, "text"))
    says = rf"no column '{wanted}' \(--\w+_column\) in it, only source, text; name the right one"
    with pytest.raises(InputError, match=says):
        list(read_files([Path(path)], RowReader(columns, skip=True)))


def test_a_column_that_only_some_rows_lack_makes_those_bad_rows(tmp_path):
    path = Path(write(tmp_path / "x.jsonl", [{"body": "a"}] * 98 + [{"text": "b"}, {"body": "c"}]))
    reader = RowReader(Columns(), skip=True)
    assert [document.text for document in read_files([path], reader)] == ["b"]
    assert reader.num_skipped == 99
    with pytest.raises(InputError, match=r"x\.jsonl:1: no column 'text', only body; fix or drop it"):
        list(read_files([path], RowReader(Columns())))


def test_a_folder_gives_all_its_data_or_all_its_texts(tmp_path):
    data = ["a/x.jsonl.gz", "b/y.parquet", "part-00000"]
    for name in (*data, "_SUCCESS", ".hidden/z.jsonl", "_temporary/z.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, ROWS)
    assert files_in(tmp_path) == [tmp_path / name for name in data]
    texts = tmp_path / "_texts"
    (texts / "deep").mkdir(parents=True)
    for name in ("deep/b.TXT", "a.md"):
        (texts / name).touch()
    assert files_in(texts) == [texts / "a.md", texts / "deep/b.TXT"]
    (texts / "metadata.json").touch()
    with pytest.raises(InputError, match=r"_texts: holds data \(metadata\.json\) and texts \(a\.md\)"):
        files_in(texts)
    (texts / "metadata.json").rename(texts / "picture.png")
    with pytest.raises(InputError, match=r"picture\.png: neither its name nor its content"):
        files_in(texts)
    with pytest.raises(InputError, match="no file in this folder"):
        files_in(tmp_path / "_temporary" / "none")


def test_a_file_under_two_names_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.jsonl", ROWS)
    inputs = ["x.jsonl", f"{tmp_path}/x.jsonl", str(tmp_path)]
    corpus = open_files(inputs, RowReader(Columns()))
    assert [document.id for document in corpus.documents] == ["a", "b", "c"]
    assert [name for name, *_ in corpus.identity["source"]] == ["x.jsonl"]


def test_the_text_of_a_parquet_file_is_known_without_reading_it(tmp_path):
    rows = [{"text": "x" * 1000 + str(n), "other": "y" * 5000} for n in range(500)]
    path = Path(write(tmp_path / "x.parquet", rows))
    assert path.stat().st_size < 100_000
    assert text_bytes(path, "text") == pytest.approx(500 * 1003, rel=0.02)
    assert text_bytes(path, "none") == 0
    plain = Path(write(tmp_path / "x.jsonl", rows))
    assert text_bytes(plain, "text") == plain.stat().st_size


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        expand([f"{tmp_path}/*.jsonl"])


def test_a_hub_data_set_is_streamed_with_its_columns(tmp_path, monkeypatch):
    # No hub in a test: the same library streams the same rows from a local file.
    path = write(tmp_path / "x.parquet", ROWS)
    asked = {}

    def load_dataset(path_or_name, **options):
        asked.update(path=path_or_name, **options)
        return real_load("parquet", data_files=path, split=options["split"], streaming=options["streaming"])

    real_load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    reader = RowReader(Columns(), keep=["source"])
    documents = list(open_hub("owner/texts", "small", "train", reader).documents)
    assert asked == {"path": "owner/texts", "name": "small", "split": "train", "streaming": True}
    assert [(d.text, d.id, d.domain, d.url) for d in documents] == [
        (row["text"], row["id"], "default", row["url"] or "") for row in ROWS
    ]
    assert [(d.file, d.row, d.kept) for d in documents] == [
        ("owner/texts", n, {"source": row["source"]}) for n, row in enumerate(ROWS)
    ]
    assert documents[0].types == pa.schema([("source", pa.string())])
    [first, *_] = open_version("10B", RowReader(Columns())).documents
    assert (asked["path"], asked["name"], first.domain) == ("HuggingFaceFW/fineweb", "sample-10BT", "fineweb")
