"""What is exported, read by the readers of the trainers themselves: the same tokens, the same documents."""

import shlex
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import export_selection
from common.shards.reader import ShardReader
from tests.conftest import SEPARATOR, error_of, write_shards
from tests.shards.conftest import write_shard


@pytest.fixture(params=[400, 70_000], ids=["uint16", "uint32"])
def selection(request, tmp_path, monkeypatch):
    """A selection from three shards in two folders, two of the same name, in the order of scores; and its documents."""
    monkeypatch.chdir(tmp_path)
    rng, rows, documents = np.random.default_rng(0), [], []
    for folder in ("a", "b"):
        texts = [rng.integers(SEPARATOR + 1, request.param, rng.integers(1, 40)).tolist() for _ in range(30)]
        for path in write_shards(tmp_path / folder, texts, ["d"] * 30, 350, request.param):
            shard = ShardReader().open(path.relative_to(tmp_path))
            for start, end in shard.spans[rng.random(len(shard.spans)) < 0.4].tolist():
                rows.append((str(path.relative_to(tmp_path)), start, end))
                documents.append(shard.tokens[start:end].tolist())
    order = rng.permutation([*range(len(rows)), 0])  # one of them twice
    write_selection([rows[row] for row in order])
    return documents


def write_selection(rows):
    pq.write_table(pa.table(dict(zip(("shard", "start", "end"), zip(*rows, strict=True), strict=True))), "top.parquet")


def exported(capsys, *flags):
    """The line to paste, after an export to `out`."""
    export_selection.main(["--selection", "top.parquet", "--out_dir", f"{Path.cwd()}/out", "--format", *flags])
    return capsys.readouterr().out.splitlines()[-1]


def megatron_documents(line):
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import get_blend_from_list

    prefixes, weights = get_blend_from_list(shlex.split(line.removeprefix("--data-path ")))
    found = []
    for prefix, weight in zip(prefixes, weights, strict=True):
        dataset = IndexedDataset(prefix)
        assert dataset.document_indices.tolist() == [*range(len(dataset) + 1)]
        assert weight == sum(dataset.sequence_lengths)
        found += [dataset[number].tolist() for number in range(len(dataset))]
    return found


def olmo_documents(line, use_array):
    from olmo_core.data import NumpyFSLDatasetConfig, TokenizerConfig
    from olmo_core.data.utils import iter_document_indices

    names = {"NumpyFSLDatasetConfig": NumpyFSLDatasetConfig, "TokenizerConfig": TokenizerConfig}
    dataset = eval(line, names | {"PADDING": 1, "SEQUENCE": 1, "FOLDER": "work", "VOCABULARY": 400}).build()
    dataset.prepare()
    tokens, found = [int(dataset[number]["input_ids"][0]) for number in range(len(dataset))], []
    for path, (first, last) in zip(dataset.paths, dataset.offsets, strict=True):
        about = {"dtype": dataset.dtype, "eos_token_id": dataset.eos_token_id, "use_array_if_local": use_array}
        found += [tokens[first:last][start:end] for start, end in iter_document_indices(path, **about)]
    return found


def datatrove_documents(line):
    from datatrove.utils.dataset import DatatroveFileDataset, DatatroveFolderDataset

    found = []
    for file in eval(line, {"DatatroveFolderDataset": DatatroveFolderDataset, "SEQUENCE": 0}).files:
        about = {"token_size": file.token_size, "return_positions": True}
        whole = DatatroveFileDataset(f"{Path.cwd()}/out/{file.file_path}", len(file) - 1, **about)[0]
        found += np.split(whole["input_ids"].numpy(), np.flatnonzero(whole["positions"] == 0)[1:])
    return [document.tolist() for document in found]


def litdata_documents(line):
    from litdata import StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    names = {"StreamingDataset": StreamingDataset, "TokensLoader": TokensLoader, "SEQUENCE": 1}
    tokens = np.array([int(each[0]) for each in eval(line, names)])
    ends = np.flatnonzero(tokens == SEPARATOR) + 1
    return [document.tolist() for document in np.split(tokens, ends)[:-1]]


def test_megatron_reads_the_documents_in_place(selection, tmp_path, capsys):
    line = exported(capsys, "megatron")
    assert megatron_documents(line) == selection
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.resolve() for path in files if path.is_symlink()} == {*tmp_path.glob("[ab]/*.bin")}
    assert {path.suffix for path in files if not path.is_symlink()} == {".idx", ".json"}


@pytest.mark.parametrize("use_array", [True, False])
def test_olmo_core_reads_the_documents(selection, capsys, use_array):
    assert olmo_documents(exported(capsys, "olmo"), use_array) == selection


def test_datatrove_reads_the_documents(selection, capsys):
    assert datatrove_documents(exported(capsys, "datatrove")) == selection


def test_litdata_reads_the_documents(selection, capsys, monkeypatch):
    monkeypatch.setattr("common.export.formats.LITDATA_CHUNK_BYTES", 300)
    assert litdata_documents(exported(capsys, "litdata")) == selection


@pytest.mark.parametrize("side", ["first", "last"])
def test_copies_end_with_the_separator_also_where_it_came_first_or_was_missing(tmp_path, monkeypatch, capsys, side):
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "x.bin", [9, 5, 6, 9, 7, 8, 9, 9, 4])
    reader = ShardReader(eot_id=9, eot_side=side)
    write_selection([("x.bin", start, end) for start, end in reader.open(tmp_path / "x.bin").spans.tolist()])
    wanted = {"first": [[5, 6, 9], [7, 8, 9], [9], [4, 9]], "last": [[9], [5, 6, 9], [7, 8, 9], [9], [4, 9]]}[side]
    flags = ["--eot_id", "9", "--eot_side", side, "--overwrite"]
    assert olmo_documents(exported(capsys, "olmo", *flags), True) == wanted
    assert olmo_documents(exported(capsys, "olmo", *flags), False) == wanted
    assert datatrove_documents(exported(capsys, "datatrove", *flags)) == wanted
    assert litdata_documents(exported(capsys, "litdata", *flags)) == wanted
    shard = reader.open(tmp_path / "x.bin")
    in_place = [shard.document(row).token_ids.tolist() for row in range(len(shard.spans))]
    assert megatron_documents(exported(capsys, "megatron", *flags)) == in_place


def test_a_separator_inside_a_document_is_told_to_who_uses_olmo_core(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    [path] = write_shards(tmp_path, [[5, SEPARATOR, 6], [7]], ["d"] * 2)
    write_selection([(str(path), 0, 4), (str(path), 4, 6)])
    line = exported(capsys, "olmo")
    assert olmo_documents(line, False) == [[5, SEPARATOR, 6, SEPARATOR], [7, SEPARATOR]]
    export_selection.main(f"--selection top.parquet --out_dir {tmp_path}/out --format olmo".split())
    assert "1 documents hold the separator inside too" in capsys.readouterr().err


def test_an_export_that_fails_leaves_the_one_before(selection, tmp_path, capsys):
    exported(capsys, "olmo")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    last = sorted(tmp_path.glob("b/*.bin"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    flags = f"--selection top.parquet --out_dir {tmp_path}/out --format olmo"
    assert f"b/{last.name}" in error_of(export_selection, flags, capsys)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_another_export_is_not_replaced_unasked(selection, tmp_path, capsys):
    exported(capsys, "olmo")
    flags = f"--selection top.parquet --out_dir {tmp_path}/out --format megatron"
    assert "--overwrite" in error_of(export_selection, flags, capsys)
    assert exported(capsys, "megatron", "--overwrite").startswith("--data-path")
    assert not [*(tmp_path / "out").glob("*.npy")]


def test_shards_of_two_kinds_are_not_exported_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for size in (400, 70_000):
        write_shards(tmp_path / str(size), [[5]], ["d"], vocab_size=size)
    write_selection([(str(path), 0, 2) for path in tmp_path.glob("*/*.bin")])
    assert "of another tokenizer" in error_of(export_selection, "--selection top.parquet --format olmo", capsys)


def test_megatron_reads_from_an_object_store(s3, tmp_path, monkeypatch, capsys):
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.object_storage_utils import ObjectStorageConfig

    monkeypatch.chdir(tmp_path)
    [path] = write_shards(tmp_path, [[5, 6], [7], [8, 4, 3]], ["d"] * 3)
    store = fsspec.filesystem("s3")
    for file in tmp_path.iterdir():
        store.put_file(str(file), f"{s3}/shards/{file.name}")
    write_selection([(f"{s3}/shards/{path.name}", 0, 3), (f"{s3}/shards/{path.name}", 5, 9)])
    line = exported(capsys, "megatron")
    prefix = line.split()[-1]
    assert line == f"--data-path 7 {s3}/shards/{path.stem}"
    store.put_file(f"out/{path.stem}.idx", f"{prefix}.idx")
    dataset = IndexedDataset(prefix, mmap=False, object_storage_config=ObjectStorageConfig(f"{tmp_path}/cache"))
    assert [dataset[number].tolist() for number in range(len(dataset))] == [[5, 6, 9], [8, 4, 3, 9]]
    assert [*(tmp_path / "out").glob("*.bin")] == []
