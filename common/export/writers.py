"""Files of rows, parquet or JSON lines: the columns of a corpus, and behind them columns of ours."""

import base64
import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from common.table.schema import TABLE_SCHEMA
from common.text.kept import as_schema, common_schema, kept_table, storable, with_fitting
from common.text.originals import Rows
from common.text.rows import values_of, zstd

GROUP_BYTES, GZIP_LEVEL = 2**26, 6
Add = Callable[[Rows, pa.Table], None]


def renamed(names: Sequence[str], ours: Sequence[str]) -> list[str]:
    """The columns of a corpus, with the prefix `source_` where one has the name of one of ours.

    >>> renamed(["domain", "text", "source_domain"], ["domain"])
    ['source_source_domain', 'text', 'source_domain']
    """
    taken, found = {*names, *ours}, []
    for name in names:
        if name in ours:
            while name in taken:
                name = f"source_{name}"
        found.append(name)
    return found


@contextmanager
def parquet_writer(path: Path, folder: Path) -> Iterator[Add]:
    """Write rows as parquet; yields a function that appends some, and columns to put behind theirs.

    Types stay as they are. Where they change in the middle, a column gets a type that holds all of them, or else text.

    Args:
        folder: for files that are written before.
    """
    pieces = _Pieces(folder)
    yield lambda rows, ours: pieces.add(_beside(rows, ours))
    pieces.join(path)


class _Pieces:
    """Parquet files, each of one schema, that are joined in the end."""

    def __init__(self, folder: Path):
        self._folder, self._schemas = folder, []
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._size = 0

    def add(self, table: pa.Table) -> None:
        table = table.replace_schema_metadata()
        if not self._schemas or table.schema != self._schemas[-1]:
            self._close()
            self._schemas.append(table.schema)
            self._writer = pq.ParquetWriter(self._path(len(self._schemas)), table.schema)
        self._waiting.append(table)
        self._size += table.nbytes
        if self._size > GROUP_BYTES:
            self._write()

    def join(self, path: Path) -> None:
        self._close()
        paths = [self._path(number) for number in range(1, len(self._schemas) + 1)]
        if len(paths) == 1:
            paths[0].replace(path)
            return
        schema = common_schema(self._schemas or [TABLE_SCHEMA])
        schema = pa.schema(sorted(schema, key=lambda field: field.name in TABLE_SCHEMA.names))  # stable: ours behind
        with_fitting(schema, lambda fitting: self._join(paths, path, fitting))
        for piece in paths:
            piece.unlink()

    def _join(self, paths: list[Path], path: Path, schema: pa.Schema) -> None:
        with pq.ParquetWriter(path, schema) as writer:
            for piece in paths:
                with pq.ParquetFile(piece, pre_buffer=False) as file:
                    for group in range(file.num_row_groups):
                        writer.write_table(as_schema(file.read_row_group(group), schema))

    def _path(self, number: int) -> Path:
        return self._folder / f"piece{number}.parquet"

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._size = [], 0

    def _close(self) -> None:
        self._write()
        if self._writer:
            self._writer.close()


def _beside(rows: Rows, ours: pa.Table) -> pa.Table:
    table = rows if isinstance(rows, pa.Table) else kept_table((row, None) for row in rows)
    names = renamed(table.column_names, ours.column_names)
    columns = list(map(storable, table.columns))
    fields = [
        field.with_name(name).with_type(column.type)
        for field, name, column in zip(table.schema, names, columns, strict=True)
    ]
    return pa.table([*columns, *ours.columns], schema=pa.schema([*fields, *ours.schema]))


@contextmanager
def json_writer(path: Path, suffix: str) -> Iterator[Add]:
    """Write rows as JSON lines; yields a function that appends some, and columns to put behind theirs.

    Args:
        suffix: says how they are compressed, as in `compressed`.
    """
    with compressed(path, suffix) as file:

        def add(rows: Rows, ours: pa.Table) -> None:
            for row, more in zip(dicts(rows), ours.to_pylist(), strict=True):
                names = renamed(list(row), list(more))
                file.write(json_line(dict(zip(names, row.values(), strict=True)) | more))

        yield add


@contextmanager
def compressed(path: Path, suffix: str) -> Iterator[BinaryIO]:
    """Open a file to write: `.gz`, `.gzip`, `.zst` and `.zstd` compress, others do not."""
    with path.open("wb") as file:
        if suffix.lower() in {".gz", ".gzip"}:
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as zipped:
                yield zipped
        elif suffix.lower() in {".zst", ".zstd"}:
            with zstd.ZstdFile(file, "wb") as zipped:
                yield zipped
        else:
            yield file


def dicts(rows: Rows) -> Iterable[dict]:
    """The same rows as dicts."""
    if isinstance(rows, list):
        return rows
    return chain.from_iterable(map(values_of, rows.to_batches()))


def json_line(row: dict) -> bytes:
    """A row as JSON: bytes in base64, dates as ISO 8601, other values that JSON lacks as text, NaN as null."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_json)
    except ValueError:
        text = json.dumps(_finite(row), ensure_ascii=False, default=_as_json)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(json.loads(text)).encode() + b"\n"


def _as_json(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
