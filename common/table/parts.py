"""The finished parts of a scoring run: parquet files, each with documents of one shard."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import atomic, for_pyarrow, undisturbed
from common.shards.doc_id import DOC_ID_PATTERN
from common.shards.documents import ALL_HASHES
from common.table.schema import PART_SCHEMA

SECONDS_PER_PART = 30
WRITERS = 16  # parts written at once


class Part(NamedTuple):
    """A file with the rows of documents [first, last) of a shard, counted among those with the part's hashes."""

    first: int
    last: int
    path: Path


class Stretch(NamedTuple):
    """Successive documents of a shard, in one part or several.

    Attributes:
        end: documents that begin at this token of the shard, or behind it, are left out; None leaves out none.
    """

    paths: list[Path]
    end: int | None = None


class Parts:
    """The parts in a folder.

    A part holds documents whose `token_hash` is in a range, `hashes`. Its name is a hash of its shard's name, the range
    unless it is `ALL_HASHES`, and which documents they are, counted among those of the shard in the range.

    Parts are written every 30 seconds, when `flush` is called, and at the end of the `with` block, also after an error.

    Args:
        afresh: as if there were no parts yet.
    """

    def __init__(self, folder: Path, afresh: bool = False):
        self.folder = folder
        self._found: dict[str, list[Part]] = {}
        self._pending: list[tuple[str, int, int, list[dict]]] = []
        self._flushed = time.monotonic()
        for path in [] if afresh else sorted(folder.glob(f"*.{'[0-9]' * 12}-{'[0-9]' * 12}.parquet")):
            *key, span, _ = path.name.split(".")
            self._found.setdefault(".".join(key), []).append(Part(*map(int, span.split("-")), path))

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_error) -> None:
        self.flush()

    @property
    def edges(self) -> set[int]:
        """The hashes at which the ranges of the parts begin and end."""
        ranges = (key.partition(".")[2] or _range(ALL_HASHES) for key in self._found)
        return {int(edge, 16) for each in ranges for edge in each.split("-")}

    def add(self, shard_name: str, first: int, last: int, rows: list[dict], hashes: range = ALL_HASHES) -> None:
        """Add the rows, by column name, of documents [first, last) of a shard; unscorable documents have no row."""
        self._pending.append((_key(shard_name, hashes), first, last, rows))
        if time.monotonic() - self._flushed > SECONDS_PER_PART:
            self.flush()

    @undisturbed()  # a signal must not interrupt the wait for a thread
    def flush(self) -> None:
        """Write the added rows; rows that follow each other become one part."""
        pending, self._pending, self._flushed = self._pending, [], time.monotonic()
        writing: list[tuple] = []
        for key, stretches in groupby(sorted(pending, key=itemgetter(0, 1)), key=itemgetter(0)):
            whole: list[tuple[int, int, list[dict]]] = []
            for _, first, last, rows in stretches:
                if whole and whole[-1][1] == first:
                    whole[-1] = (whole[-1][0], last, whole[-1][2] + rows)
                else:
                    whole.append((first, last, rows))
            writing += [(key, *stretch) for stretch in whole]
        with ThreadPoolExecutor(WRITERS) as pool:  # hundreds of workers make hundreds of stretches
            for key, part in pool.map(self._write, *zip(*writing, strict=True)) if writing else ():
                self._found.setdefault(key, []).append(part)

    def _write(self, key: str, first: int, last: int, rows: list[dict]) -> tuple[str, Part]:
        path = self.folder / f"{key}.{first:012d}-{last:012d}.parquet"
        with atomic(path) as tmp:
            pq.write_table(pa.Table.from_pylist(rows, schema=PART_SCHEMA), tmp, write_page_checksum=True)
        return key, Part(first, last, path)

    def of_shard(self, shard_name: str, hashes: range = ALL_HASHES) -> list[Part]:
        """The parts of a shard, by row and without overlap."""
        parts: list[Part] = []
        for part in sorted(self._found.get(_key(shard_name, hashes), [])):
            if not parts or part.first >= parts[-1].last:
                parts.append(part)
        return parts

    def missing(self, shard_name: str, num_documents: int, hashes: range = ALL_HASHES) -> list[range]:
        """Which of a shard's first `num_documents` documents are in no part."""
        covered = [edge for part in self.of_shard(shard_name, hashes) for edge in (part.first, part.last)]
        edges = [0, *covered, num_documents]
        gaps = [range(edges[i], min(edges[i + 1], num_documents)) for i in range(0, len(edges), 2)]
        return [gap for gap in gaps if gap]


def read_stretch(stretch: Stretch, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a stretch, or all, in the order of the shard; InputError if a part is damaged."""
    if len(stretch.paths) == 1 and stretch.end is None:
        return read_part(stretch.paths[0], columns)
    wanted = columns and list(dict.fromkeys([*columns, "doc_id"]))
    table = pa.concat_tables(read_part(path, wanted) for path in stretch.paths)
    places = pc.struct_field(pc.extract_regex(table["doc_id"], DOC_ID_PATTERN), "start")
    starts = places.cast(pa.int64()).to_numpy()
    order = np.argsort(starts)
    if stretch.end is not None:
        order = order[starts[order] < stretch.end]
    return table.take(order).select(columns or table.column_names)


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a part, or all; InputError if it is damaged."""
    schema = pa.schema([PART_SCHEMA.field(name) for name in columns or PART_SCHEMA.names])
    try:
        return pq.read_table(for_pyarrow(path), columns=columns, page_checksum_verification=True).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run this again to score it again") from None


def _key(shard_name: str, hashes: range) -> str:
    short = hashlib.sha256(shard_name.encode()).hexdigest()[:16]
    return short if hashes == ALL_HASHES else f"{short}.{_range(hashes)}"


def _range(hashes: range) -> str:
    return f"{hashes.start:x}-{hashes.stop:x}"
