"""Tokens that other programs wrote: Megatron's `.bin` with its `.idx`, and arrays of OLMo-core or NumPy, `.npy`.

A Megatron `.bin` is nothing but tokens. The `.idx` next to it, little-endian and without gaps, is

    MMIDIDX\\0\\0, int64 1, int8 type of the tokens, int64 number of sequences S, int64 number of edges D,
    int32 length of each sequence [S], int64 its first byte [S], int64 the sequence at each edge of a document [D]

A document is the sequences between two edges. An array of OLMo-core is nothing but tokens either. Next to it there may
be a `.csv.gz` whose lines begin with the start and the end of a document. Without it, end-of-text ends a document.
"""

import gzip
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import is_url
from common.shards.format import SHARD_LAYOUTS, map_tokens
from common.shards.index import INDEX_SUFFIX

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_HEADER = struct.Struct("<9sQBQQ")
# Megatron has no uint32; the bytes of an int32 are the same up to 2^31 - 1, and no vocabulary is larger.
MEGATRON_DTYPES = {1: np.dtype("u1"), 8: np.dtype("<u2"), 4: np.dtype("<u4")}
NUMPY_MAGIC = b"\x93NUMPY"
AGAIN = "copy or make both files again"


class ForeignTokens(NamedTuple):
    """Tokens of another program.

    Attributes:
        tokens: shape [num_tokens], uint8, uint16 or uint32.
        first_byte: where they begin in the file.
        spans: where the documents are, half-open, in tokens; int64, shape [num_documents, 2]; None if only the
            separator says it.
    """

    tokens: np.ndarray
    first_byte: int
    spans: np.ndarray | None


def is_megatron(path: Path) -> bool:
    """Whether a `.bin` file has an `.idx` next to it and is no shard of llm.c, nor one of ours."""
    if not path.is_file() or path.with_suffix(INDEX_SUFFIX).exists() or not path.with_suffix(".idx").exists():
        return False
    with path.open("rb") as file:
        return int.from_bytes(file.read(4), "little") not in SHARD_LAYOUTS


def read_megatron(path: Path) -> ForeignTokens:
    """Open a `.bin` file of Megatron by the `.idx` next to it; InputError names what is wrong in the `.idx`."""
    index_path, size = path.with_suffix(".idx"), path.stat().st_size
    dtype, lengths, pointers, edges = _read_megatron_index(index_path)
    starts = pointers // dtype.itemsize
    ends, num_tokens = starts + lengths, size // dtype.itemsize
    wrong = (pointers % dtype.itemsize != 0) | (pointers < 0) | (lengths < 0) | (ends > num_tokens)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{index_path}: sequence {row}, {lengths[row]} tokens at byte {pointers[row]}, is not within {path.name} "
            f"of {size} bytes; {AGAIN}"
        )
    first, last = edges[:-1][np.diff(edges) > 0], edges[1:][np.diff(edges) > 0] - 1
    torn = starts[1:] != ends[:-1]
    torn[last[:-1]] = False
    if torn.any():
        row = int(np.argmax(torn)) + 1
        raise InputError(f"{index_path}: sequence {row} does not begin where the one before ends, in one document")
    spans = np.stack([starts[first], ends[last]], axis=1)
    return ForeignTokens(map_tokens(path, dtype, 0, num_tokens), 0, _checked(index_path, spans, num_tokens))


def _read_megatron_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """The type of the tokens, and the three arrays."""
    data = path.read_bytes()
    if len(data) < MEGATRON_HEADER.size or not data.startswith(MEGATRON_MAGIC):
        raise InputError(f"{path}: does not begin like an index of Megatron; {AGAIN}")
    _, version, code, num_sequences, num_edges = MEGATRON_HEADER.unpack_from(data)
    if version != 1 or code not in MEGATRON_DTYPES:
        raise InputError(
            f"{path}: version {version} at byte 9 and type {code} at byte 17, expected version 1 and type 1 (uint8), 4 "
            f"(int32) or 8 (uint16); {AGAIN}"
        )
    expected_size = MEGATRON_HEADER.size + 12 * num_sequences + 8 * num_edges
    if len(data) != expected_size:
        raise InputError(
            f"{path}: the header promises {expected_size} bytes, but the file has {len(data)}; it is cut short, "
            f"damaged or multimodal, {AGAIN}"
        )
    arrays = np.frombuffer(data, "u1", offset=MEGATRON_HEADER.size)
    lengths, pointers, edges = np.split(arrays, [4 * num_sequences, 12 * num_sequences])
    lengths, pointers, edges = lengths.view("<i4").astype(np.int64), pointers.view("<i8"), edges.view("<i8")
    if not num_edges or edges[0] != 0 or edges[-1] != num_sequences or (np.diff(edges) < 0).any():
        raise InputError(f"{path}: the edges of its documents do not ascend from 0 to {num_sequences}; {AGAIN}")
    return MEGATRON_DTYPES[code], lengths, pointers, edges


def read_npy(path: Path, dtype: np.dtype | None) -> ForeignTokens:
    """Open an array of OLMo-core, or of NumPy.

    Args:
        dtype: of tokens without a header, None if it is not known.
    Raises:
        InputError: it is neither, or the `.csv.gz` next to it is not of these tokens.
    """
    if not path.is_file():
        raise InputError(f"{path}: not a file; give an array of tokens, a .npy file")
    with path.open("rb") as file:
        has_header = file.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC
    tokens, first_byte = _with_header(path) if has_header else (_without_header(path, dtype), 0)
    spans_path = path.with_suffix(".csv.gz")
    return ForeignTokens(tokens, first_byte, _read_spans(spans_path, len(tokens)) if spans_path.exists() else None)


def _with_header(path: Path) -> tuple[np.ndarray, int]:
    try:
        if is_url(path):
            tokens, first_byte = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False), 0
        else:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
            first_byte = tokens.offset
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an array of NumPy ({error}); copy it again") from None
    if tokens.ndim != 1 or tokens.dtype not in MEGATRON_DTYPES.values():
        raise InputError(
            f"{path}: an array of NumPy, {tokens.dtype}, shape {list(tokens.shape)}; tokens are uint8, uint16 or "
            "uint32 in one dimension"
        )
    return tokens, first_byte


def _without_header(path: Path, dtype: np.dtype | None) -> np.ndarray:
    if dtype is None:
        raise InputError(
            f"{path}: its tokens have no header; say how they are stored with --token_dtype (OLMo-core: uint16 for "
            "vocabularies up to 65,536, uint32 for larger)"
        )
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise InputError(f"{path}: {size} bytes are no whole number of {dtype} tokens; give another --token_dtype")
    tokens = map_tokens(path, dtype, 0, size // dtype.itemsize)
    if dtype.itemsize == 2 and len(tokens) >= 1024 and not (tokens[1 : 2**20 : 2] > 3).any():
        raise InputError(f"{path}: as {dtype}, every second token is below 4; it looks like --token_dtype uint32")
    return tokens


def _read_spans(path: Path, num_tokens: int) -> np.ndarray:
    try:
        with path.open("rb") as file, gzip.open(file, "rt", encoding="utf-8") as lines, warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # about a file without lines
            spans = np.loadtxt(lines, np.int64, comments=None, delimiter=",", usecols=(0, 1), ndmin=2)
    except (OSError, EOFError, ValueError, UserWarning, zlib.error) as error:
        raise InputError(f"{path}: not the places of documents ({error}); copy it again, or take it away") from None
    return _checked(path, spans, num_tokens)


def _checked(path: Path, spans: np.ndarray, num_tokens: int) -> np.ndarray:
    """The spans without the empty ones; InputError if one is outside the tokens or reaches into another."""
    spans = spans[spans[:, 0] != spans[:, 1]]
    before = np.concatenate([[0], spans[:-1, 1]])
    wrong = (spans[:, 0] < before) | (spans[:, 1] < spans[:, 0]) | (spans[:, 1] > num_tokens)
    if wrong.any():
        start, end = spans[int(np.argmax(wrong))]
        raise InputError(
            f"{path}: document {start}-{end} is not after the one before, or not within the {num_tokens} tokens; make "
            "both files again"
        )
    return spans
