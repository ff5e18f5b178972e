"""Tokens that the writers of Megatron and OLMo-core have written."""

import gzip
import struct

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.files import as_path
from common.shards.foreign import MEGATRON_HEADER, MEGATRON_MAGIC
from common.shards.reader import ShardReader
from tests.conftest import write_shards
from tests.shards.conftest import write_shard

DOCUMENTS = [[5, 6, 9], [7, 9], [300, 8, 7, 6, 9]]
SPANS = [[0, 3], [3, 5], [5, 10]]


def write_megatron(folder, documents, dtype=np.uint16, cuts=()):
    """A `.bin` with its `.idx`; documents as long as in `cuts` are written in these lengths."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    cuts = {sum(lengths): lengths for lengths in cuts}
    builder = IndexedDatasetBuilder(str(folder / "x.bin"), dtype=dtype)
    for ids in documents:
        builder.add_document(torch.tensor(ids), cuts.get(len(ids), [len(ids)]))
    builder.finalize(str(folder / "x.idx"))
    return folder / "x.bin"


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint8])
def test_what_megatron_s_builder_writes_is_read(tmp_path, dtype):
    documents = [[token % 256 for token in ids] for ids in DOCUMENTS]
    shard = ShardReader().open(write_megatron(tmp_path, documents, dtype, cuts=[[1, 3, 1], [1, 1]]))
    assert shard.spans.tolist() == SPANS
    assert [shard.document(row).token_ids.tolist() for row in range(3)] == documents
    assert shard.document(1).doc_id == f"{tmp_path}/x:3-5"
    assert (shard.first_byte, shard.separator_id, shard.tokens.dtype.kind) == (0, None, "u")


def test_an_empty_document_of_megatron_is_left_out(tmp_path):
    shard = ShardReader().open(write_megatron(tmp_path, [[5, 9], [], [7, 9]]))
    assert shard.spans.tolist() == [[0, 2], [2, 4]]
    assert len(ShardReader().open(write_megatron(tmp_path, [])).spans) == 0


def test_megatron_s_documents_need_no_separator(tmp_path, bpe):
    path = write_megatron(tmp_path, [[5, 6], [0, 8]])
    shard = ShardReader().open(path)
    assert shard.document(0).is_scorable
    assert len(set(shard.hashes())) == 2
    assert ShardReader(model_tokenizer=bpe).open(path).separator_id == bpe.separator_id
    assert ShardReader(eot_id=6, model_tokenizer=bpe).open(path).separator_id == 6


def test_the_header_decides_what_a_shard_is(tmp_path):
    [path] = write_shards(tmp_path, DOCUMENTS, ["d"] * 3)
    own = ShardReader().open(path)
    write_megatron(tmp_path, [[1, 2]])
    (tmp_path / "x.idx").rename(path.with_suffix(".idx"))
    shard = ShardReader().open(path)
    assert shard.spans.tolist() == own.spans.tolist()
    assert shard.first_byte == 1024
    path.write_bytes(b"????" + path.read_bytes()[4:])  # a damaged shard is no file of Megatron
    with pytest.raises(InputError, match="magic"):
        ShardReader().open(path)
    theirs = write_shard(tmp_path / "theirs.bin", [9, 5, 9, 7])
    (path.with_suffix(".idx")).rename(tmp_path / "theirs.idx")
    assert ShardReader(eot_id=9).open(theirs).spans.tolist() == [[0, 2], [2, 4]]


def index_of(lengths, pointers, edges, code=8, version=1):
    arrays = (("<i4", lengths), ("<i8", pointers), ("<i8", edges))
    header = MEGATRON_HEADER.pack(MEGATRON_MAGIC, version, code, len(lengths), len(edges))
    return header + b"".join(np.array(values, dtype).tobytes() for dtype, values in arrays)


def test_an_index_may_leave_tokens_out(tmp_path):
    (tmp_path / "x.bin").write_bytes(np.arange(10, dtype="<u2").tobytes())
    (tmp_path / "x.idx").write_bytes(index_of([2, 3], [2, 14], [0, 1, 2]))
    shard = ShardReader().open(tmp_path / "x.bin")
    assert shard.spans.tolist() == [[1, 3], [7, 10]]
    with pytest.raises(InputError, match="4-5"):
        shard.row_of(4, 5)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"", "does not begin"),
        (b"MMIDIDX\0", "does not begin"),
        (b"TNTIDX\0\0\0" + bytes(40), "does not begin"),
        (index_of([2], [0], [0, 1])[:-1], "promises 62 bytes"),
        (index_of([2], [0], [0, 1]) + b"\0", "promises 62 bytes"),
        (MEGATRON_HEADER.pack(MEGATRON_MAGIC, 1, 8, 2**63, 1), "promises"),
        (index_of([2], [0], [0, 1], code=5), "type 5"),
        (index_of([2], [0], [0, 1], code=99), "type 99"),
        (index_of([2], [0], [0, 1], version=2), "version 2"),
        (index_of([2, 9], [0, 4], [0, 1, 2]), "sequence 1, 9 tokens at byte 4"),
        (index_of([2], [18], [0, 1]), "sequence 0"),
        (index_of([2], [-2], [0, 1]), "sequence 0"),
        (index_of([2], [2**63 - 2], [0, 1]), "sequence 0"),
        (index_of([2], [1], [0, 1]), "sequence 0"),
        (index_of([-2], [4], [0, 1]), "sequence 0"),
        (index_of([2, 2], [0, 4], [0, 1]), "edges"),
        (index_of([2, 2], [0, 4], [0, 2, 1, 2]), "edges"),
        (index_of([2, 2], [0, 4], [1, 2]), "edges"),
        (index_of([], [], []), "edges"),
        (index_of([2, 2], [0, 6], [0, 2]), "sequence 1"),
        (index_of([2, 2], [4, 0], [0, 1, 2]), "document 0-2"),
        (index_of([3, 2], [0, 4], [0, 1, 2]), "document 2-4"),
    ],
)
def test_a_damaged_index_of_megatron_is_refused_by_name(tmp_path, index, says):
    (tmp_path / "x.bin").write_bytes(np.arange(10, dtype="<u2").tobytes())
    (tmp_path / "x.idx").write_bytes(index)
    with pytest.raises(InputError, match=rf"x\.idx: .*{says}"):
        ShardReader().open(tmp_path / "x.bin")


def test_a_bin_file_with_neither_header_nor_index_is_refused(tmp_path):
    write_megatron(tmp_path, [[5] * 600])
    (tmp_path / "x.idx").unlink()
    with pytest.raises(InputError, match=r"x\.bin: magic .* x\.idx next to it"):
        ShardReader().open(tmp_path / "x.bin")


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint8"])
def test_an_array_of_olmo_core_is_read(tmp_path, dtype):
    from olmo_core.data.utils import write_array_to_disk, write_document_indices

    tokens = np.concatenate(DOCUMENTS).astype(dtype)
    write_array_to_disk(tokens, tmp_path / "x.npy")
    reader = ShardReader(eot_id=9, token_dtype=dtype)
    shard = reader.open(tmp_path / "x.npy")
    assert shard.spans.tolist() == SPANS
    assert shard.tokens.tolist() == tokens.tolist()
    assert shard.document(1).doc_id == f"{tmp_path}/x.npy:3-5"
    write_document_indices(tmp_path / "x.npy", dtype=np.dtype(dtype).type, eos_token_id=6)  # which leaves out the last
    assert ShardReader(token_dtype=dtype).open(tmp_path / "x.npy").spans.tolist() == [[0, 2], [2, 9]]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, "u1"), (257, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_the_vocabulary_says_how_olmo_core_stores_a_token(tmp_path, bpe, monkeypatch, vocab_size, dtype):
    from olmo_core.data import NumpyFSLDatasetConfig, TokenizerConfig

    tokenizer = TokenizerConfig(vocab_size=vocab_size, eos_token_id=0, pad_token_id=0)
    assert NumpyFSLDatasetConfig(tokenizer=tokenizer, sequence_length=1, work_dir="w").get_dtype() == np.dtype(dtype)
    monkeypatch.setattr(bpe, "vocab_size", vocab_size)
    np.array([5, 6, bpe.separator_id], dtype).tofile(tmp_path / "x.npy")
    shard = ShardReader(model_tokenizer=bpe).open(tmp_path / "x.npy")
    assert (shard.tokens.dtype, shard.tokens.tolist()) == (np.dtype(dtype), [5, 6, bpe.separator_id])
    assert shard.spans.tolist() == [[0, 3]]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_an_array_of_numpy_is_read(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.concatenate(DOCUMENTS).astype(dtype))
    shard = ShardReader(eot_id=9).open(tmp_path / "x.npy")
    assert shard.spans.tolist() == SPANS
    assert np.fromfile(tmp_path / "x.npy", dtype, offset=shard.first_byte).tolist() == shard.tokens.tolist()


def gz(text):
    return gzip.compress(text.encode(), mtime=0)  # a test is named after it


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", b"\x93NUMPY\1\0", "array of NumPy"),
        ("x.npy", struct.pack("<3H", 5, 9, 7)[:-1], "5 bytes"),
        ("x.npy", np.tile(np.array([500, 9], "<u4"), 600).tobytes(), "--token_dtype uint32"),
        ("x.csv.gz", b"0,3\n", r"x\.csv\.gz: not the places"),
        ("x.csv.gz", gz("0,3\n3,10\n")[:-9], r"x\.csv\.gz: not the places"),
        ("x.csv.gz", gz("0,three\n"), r"x\.csv\.gz: not the places"),
        ("x.csv.gz", gz(""), r"x\.csv\.gz: not the places"),
        ("x.csv.gz", gz("0\n"), r"x\.csv\.gz: not the places"),
        ("x.csv.gz", gz("0,3\n3,11\n"), r"x\.csv\.gz: document 3-11"),
        ("x.csv.gz", gz("0,3\n2,10\n"), r"x\.csv\.gz: document 2-10"),
        ("x.csv.gz", gz("3,0\n"), r"x\.csv\.gz: document 3-0"),
    ],
)
def test_a_damaged_array_is_refused_by_name(tmp_path, name, content, says):
    np.concatenate(DOCUMENTS).astype("<u2").tofile(tmp_path / "x.npy")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        ShardReader(eot_id=9, token_dtype="uint16").open(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros(3, "i8"), np.zeros((2, 2), "u2"), np.array([{}]), np.array("x")]
)
def test_an_array_that_holds_no_tokens_is_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=r"x\.npy: .*array of NumPy"):
        ShardReader(eot_id=9).open(tmp_path / "x.npy")


def test_what_an_array_without_a_header_does_not_say_is_asked_for(tmp_path):
    path = tmp_path / "x.npy"
    np.array([5, 9], "<u2").tofile(path)
    for reader, flag in [(ShardReader(), "--token_dtype"), (ShardReader(token_dtype="uint16"), "--eot_id")]:
        with pytest.raises(InputError, match=rf"x\.npy: .*{flag}"):
            reader.open(path)
    with pytest.raises(InputError, match=r"no token 7 \(--eot_id\)"):
        ShardReader(eot_id=7, token_dtype="uint16").open(path)
    with pytest.raises(InputError, match="not a file"):
        ShardReader().open(tmp_path / "none.npy")


def test_their_tokens_are_read_from_a_store(store, tmp_path):
    write_megatron(tmp_path, DOCUMENTS)
    np.concatenate(DOCUMENTS).astype("<u2").tofile(tmp_path / "raw.npy")
    np.save(tmp_path / "numpy.npy", np.concatenate(DOCUMENTS).astype("<u2"))
    for path in tmp_path.iterdir():
        as_path(f"{store}/theirs/{path.name}").write_bytes(path.read_bytes())
    for name in ("x.bin", "raw.npy", "numpy.npy"):
        shard = ShardReader(eot_id=9, token_dtype="uint16").open(as_path(f"{store}/theirs/{name}"))
        assert [shard.document(row).token_ids.tolist() for row in range(len(shard.spans))] == DOCUMENTS
        assert shard.document(1).doc_id == f"{store}/theirs/{name.removesuffix('.bin')}:3-5"
