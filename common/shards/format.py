"""The `.bin` token shard, as llm.c and modded-nanogpt read and write it.

A shard is a header of 256 little-endian int32, then the tokens:

    layout    [0] magic   [1] version   [2]          tokens               vocabulary
    GPT-2     20240520    1             num_tokens   uint16, 2 bytes      up to 65,536
    Llama 3   20240801    7             num_tokens   uint32, 4 bytes      larger

Shards of this project also hold two SHA-256 digests, which those readers skip: [3:11] of the tokens' bytes, [11:19] of
the index file next to the shard. In other shards these fields are zero. The rest of the header is zero, and nothing
follows the last token.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import as_path, atomic, file_digest, is_url, writing
from common.text.tokenization import Vocabulary

HEADER_BYTES = 256 * 4
SHARD_LAYOUTS = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
MAX_TOKENS = 2**31 - 1


class Digests(NamedTuple):
    """SHA-256 of a shard's tokens and of its index file, from the header."""

    tokens: bytes
    index: bytes


def read_shard(path: Path) -> tuple[np.ndarray, Digests | None]:
    """Check magic, version, count and exact file size of a shard, then memory-map its tokens (a URL is read whole).

    Returns:
        Tokens, read-only, shape [num_tokens], uint16 or uint32; and the digests of the header, None if it has none.
    Raises:
        InputError: names what differs and at which offset, and says what to do.
    """
    path = as_path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file; give a shard, a .bin file")
    try:
        size = path.stat().st_size
        data = path.read_bytes() if is_url(path) else None
        start = data[:HEADER_BYTES] if data is not None else np.fromfile(path, "u1", count=HEADER_BYTES).tobytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    remedy = f"tokenize it again, or if it is Megatron's, copy {path.stem}.idx next to it"
    if len(start) < HEADER_BYTES:
        raise InputError(f"{path}: {size} bytes is shorter than a shard's header of {HEADER_BYTES}; {remedy}")
    header = np.frombuffer(start, "<i4")
    magic, version, num_tokens = (int(field) for field in header[:3])
    if magic not in SHARD_LAYOUTS:
        known = " or ".join(map(str, SHARD_LAYOUTS))
        raise InputError(f"{path}: magic number {magic} at byte 0, expected {known}: not a token shard; {remedy}")
    expected_version, dtype = SHARD_LAYOUTS[magic]
    if version != expected_version:
        raise InputError(f"{path}: version {version} at byte 4, expected {expected_version} for magic {magic}")
    expected_size = HEADER_BYTES + num_tokens * dtype.itemsize
    if num_tokens < 0 or size != expected_size:
        raise InputError(
            f"{path}: the header (byte 8) promises {num_tokens} tokens, so {expected_size} bytes, but the file has "
            f"{size}; it is cut short or damaged, tokenize it again"
        )
    stored = header[3:19].tobytes()
    digests = Digests(stored[:32], stored[32:]) if any(stored) else None
    return map_tokens(path, dtype, HEADER_BYTES, num_tokens, data), digests


def map_tokens(path: Path, dtype: np.dtype, first_byte: int, num_tokens: int, data: bytes | None = None) -> np.ndarray:
    """Memory-map the tokens of a file; of a URL, read them, unless `data` is what the file holds."""
    if num_tokens == 0:
        return np.empty(0, dtype)
    if is_url(path):
        return np.frombuffer(data or path.read_bytes(), dtype, num_tokens, first_byte)
    return np.memmap(path, dtype, "r", first_byte, (num_tokens,))


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 if every id of the vocabulary fits, otherwise uint32."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def check_vocabulary(where: Path | str, tokens: np.ndarray, vocabulary: Vocabulary) -> None:
    """Raise InputError, naming the offset, if a token is not in the vocabulary; `where` names the file."""
    for start in range(0, len(tokens), 2**24):
        block = tokens[start : start + 2**24]
        if block.max() >= vocabulary.size:
            offset = start + int(np.argmax(block >= vocabulary.size))
            vocabulary.require(int(tokens[offset]), f"{where}: offset {offset}")


class ShardWriter:
    """Writes one shard, document by document, under a temporary name until `close`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = ShardWriter(Path(folder) / "fineweb_train_000001.bin", np.dtype("<u2"))
    ...     writer.append([5, 6, 0])
    ...     writer.close()
    ...     read_shard(writer.path)[0].tolist()
    [5, 6, 0]
    """

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype, self.num_tokens = path, dtype, 0
        self._digest = hashlib.sha256()
        self._whole = contextlib.ExitStack()
        self._file = None  # opened later, so that an interrupt here leaves no file that no writer knows

    def append(self, token_ids: Sequence[int]) -> None:
        """Append some tokens; ValueError if one does not fit the shard's layout."""
        array = np.asarray(token_ids, dtype=np.int64)
        if array.size and not 0 <= array.min() <= array.max() <= np.iinfo(self.dtype).max:
            raise ValueError(f"{self.path}: a token id does not fit {self.dtype}")
        data = array.astype(self.dtype).tobytes()
        with writing(self.path):
            self._open()
            self._file.write(data)
        self._digest.update(data)
        self.num_tokens += len(token_ids)

    def close(self, index: Path | None = None) -> None:
        """Fill in the header, flush to disk and give the file its final name.

        Args:
            index: the finished index file of this shard; without one the header has no digests, as in llm.c.
        """
        if self.num_tokens > MAX_TOKENS:
            raise InputError(f"{self.path}: {self.num_tokens} tokens do not fit a header's int32; lower --shard_size")
        magic = next(number for number, (_, dtype) in SHARD_LAYOUTS.items() if dtype == self.dtype)
        header = np.zeros(256, dtype="<i4")
        header[:3] = magic, SHARD_LAYOUTS[magic][0], self.num_tokens
        if index:
            header[3:19] = np.frombuffer(self._digest.digest() + file_digest(index), dtype="<i4")
        with writing(self.path):
            self._open()
            self._file.seek(0)
            self._file.write(header.tobytes())
            self._file.close()
        self._whole.close()

    def discard(self) -> None:
        """Drop the tokens written so far."""
        with contextlib.suppress(OSError):  # the disk may be full; then there is less to drop
            if self._file:
                self._file.close()
        with contextlib.suppress(_Discarded), self._whole:
            raise _Discarded

    def _open(self) -> None:
        if not self._file:
            self._file = self._whole.enter_context(atomic(self.path)).open("wb")
            self._file.write(bytes(HEADER_BYTES))


class _Discarded(Exception):
    """Ends an `atomic` block without writing its file."""
