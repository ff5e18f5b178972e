"""The finished parts of a scoring run: parquet files, each with successive documents of one shard."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import atomic, for_pyarrow, undisturbed
from common.table.schema import PART_SCHEMA

SECONDS_PER_PART = 30
WRITERS = 16  # parts written at once


class Part(NamedTuple):
    """A file with the rows of documents [first, last) of a shard."""

    first: int
    last: int
    path: Path


class Parts:
    """The parts in a folder.

    The name of a part is a hash of its shard's name, and its rows in the shard. Parts are written every 30 seconds,
    when `flush` is called, and at the end of the `with` block, also after an error.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._found: dict[str, list[Part]] = {}
        self._pending: list[tuple[str, int, int, list[dict]]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> "Parts":
        for path in sorted(self.folder.glob(f"*.{'[0-9]' * 12}-{'[0-9]' * 12}.parquet")):
            shard, span, _ = path.name.split(".")
            self._found.setdefault(shard, []).append(Part(*map(int, span.split("-")), path))
        return self

    def __exit__(self, *_error) -> None:
        self.flush()

    def add(self, shard_name: str, first: int, last: int, rows: list[dict]) -> None:
        """Add the rows, by column name, of documents [first, last) of a shard; unscorable documents have no row."""
        self._pending.append((shard_name, first, last, rows))
        if time.monotonic() - self._flushed > SECONDS_PER_PART:
            self.flush()

    @undisturbed()  # a signal must not interrupt the wait for a thread
    def flush(self) -> None:
        """Write the added rows; rows that follow each other become one part."""
        pending, self._pending, self._flushed = self._pending, [], time.monotonic()
        writing: list[tuple] = []
        for shard_name, stretches in groupby(sorted(pending, key=itemgetter(0, 1)), key=itemgetter(0)):
            whole: list[tuple[int, int, list[dict]]] = []
            for _, first, last, rows in stretches:
                if whole and whole[-1][1] == first:
                    whole[-1] = (whole[-1][0], last, whole[-1][2] + rows)
                else:
                    whole.append((first, last, rows))
            writing += [(_short(shard_name), *stretch) for stretch in whole]
        with ThreadPoolExecutor(WRITERS) as pool:  # hundreds of workers make hundreds of stretches
            for shard, part in pool.map(self._write, *zip(*writing, strict=True)) if writing else ():
                self._found.setdefault(shard, []).append(part)

    def _write(self, shard: str, first: int, last: int, rows: list[dict]) -> tuple[str, Part]:
        path = self.folder / f"{shard}.{first:012d}-{last:012d}.parquet"
        with atomic(path) as tmp:
            pq.write_table(pa.Table.from_pylist(rows, schema=PART_SCHEMA), tmp, write_page_checksum=True)
        return shard, Part(first, last, path)

    def of_shard(self, shard_name: str) -> list[Part]:
        """The parts of a shard, by row and without overlap."""
        parts: list[Part] = []
        for part in sorted(self._found.get(_short(shard_name), [])):
            if not parts or part.first >= parts[-1].last:
                parts.append(part)
        return parts

    def missing(self, shard_name: str, num_documents: int) -> list[range]:
        """Which of a shard's first `num_documents` documents are in no part."""
        covered = [edge for part in self.of_shard(shard_name) for edge in (part.first, part.last)]
        edges = [0, *covered, num_documents]
        gaps = [range(edges[i], min(edges[i + 1], num_documents)) for i in range(0, len(edges), 2)]
        return [gap for gap in gaps if gap]


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a part, or all; InputError if it is damaged."""
    schema = pa.schema([PART_SCHEMA.field(name) for name in columns or PART_SCHEMA.names])
    try:
        return pq.read_table(for_pyarrow(path), columns=columns, page_checksum_verification=True).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run this again to score it again") from None


def _short(shard_name: str) -> str:
    return hashlib.sha256(shard_name.encode()).hexdigest()[:16]
