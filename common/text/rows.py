"""Rows of files: parquet, Arrow, JSON (a row in each line, or one array), or a whole text file as one row.

The name of a file says what it holds. If it does not, its first bytes do; a file that neither explains is refused, so
that data is never taken for text. Folders named `column=value` in the path, as Hive writes them, are a column of each
row.
"""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import ijson
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import for_pyarrow, is_url, read_json
from common.text.kept import type_of

try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd

JSON = {".jsonl", ".ndjson", ".jsonlines", ".json"}
ARROW = {".arrow", ".feather"}
# Prose and source code.
TEXT = set(
    ".txt .text .md .markdown .rst .adoc .org .tex .bib .html .htm .xhtml .srt .vtt .eml "
    ".py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .m .mm .java .kt .kts .scala .clj .groovy .js .mjs .jsx .ts "
    ".tsx .vue .svelte .css .scss .less .go .rs .rb .php .pl .pm .lua .sh .bash .zsh .fish .ps1 .bat .sql .r .jl "
    ".swift .cs .fs .vb .hs .ml .mli .ex .exs .erl .el .lisp .scm .rkt .nim .zig .d .dart .f .f90 .f95 .for .asm .s .v "
    ".sv .vhd .lean .agda .thy .coq .toml .yaml .yml .ini .cfg .cmake .mk .proto .graphql .tf .nix".split()
)
COMPRESSED = {".gz": b"\x1f\x8b", ".gzip": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".zstd": b"\x28\xb5\x2f\xfd"}
PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"  # of Arrow's file format; its stream format, which `datasets` writes, has none
SAVED_STATE, SAVED_SPLITS = "state.json", "dataset_dict.json"  # beside the files of datasets.save_to_disk
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
JSON_BEGINS = re.compile(rb"(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*[\"}]")
BOM = b"\xef\xbb\xbf"
PEEK = 2**16  # bytes
BATCH_ROWS = 1024
ZSTD = {zstd.DecompressionParameter.window_log_max: 31}  # as far as `zstd --long` goes


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        file: as it was given.
        number: among the rows of the file, from 0; empty lines are no rows.
        place: file and row or line, for messages.
        value: its columns by name, an unparsed line of JSON, or what else a JSON array holds.
        folders: columns from the names of folders.
        schema: the types of its columns; None for JSON and text.
    """

    file: str
    number: int
    place: str
    value: object
    folders: dict
    schema: pa.Schema | None


def rows_of(path: Path, text_column: str, needed: set[str] | None, wanted: set[str]) -> Iterator[Row]:
    """The rows of a file, whose format is found at once.

    A file is parquet (.parquet), Arrow (.arrow, .feather), JSON objects, one in each line or in one array (.jsonl,
    .ndjson, .jsonlines, .json), or text (.txt, .md, .py and many others); JSON and text also .gz or .zst; upper case
    too. Without such a name, parquet, Arrow and JSON are found by their first bytes.

    Args:
        text_column: the column of a text file's one row, beside `id`.
        needed: columns that are read from parquet or Arrow, with those of `wanted` that are there; all if this is None
            or one is missing. Dots lead into nested columns.

    Raises:
        InputError: the format is not known, or (while the rows are read) the file is damaged.
    """
    kind = kind_of(path)
    if kind in TABLES:
        rows = _tabular_rows(path, needed, wanted)
    else:
        rows = _json_rows(path) if kind in JSON else _text_rows(path, text_column)
    return _numbered(path, rows)


@contextmanager
def open_table(path: Path) -> Iterator[tuple[pa.Schema, Callable]]:
    """Open parquet or Arrow.

    Yields:
        The schema, and a function of column names (dots lead into nested columns; None for all) and rows (ascending;
        None for all), which gives pairs of a first row and a batch. Parquet without a wanted row is not read.
    Raises:
        InputError: the file is damaged.
    """
    opened = TABLES[kind_of(path)]
    try:
        with opened(path) as found:
            yield found
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable {opened.__name__[1:]} file ({error}); copy it again") from None


def _numbered(path: Path, rows: Iterator[tuple[str, object, pa.Schema | None]]) -> Iterator[Row]:
    folders = folder_columns(path)
    added = pa.schema([(name, pa.string()) for name in folders])
    own, schema = None, None
    for number, (place, value, types) in enumerate(rows):
        if types is not own:
            own, schema = types, types and pa.schema([*types, *(f for f in added if f.name not in types.names)])
        yield Row(str(path), number, place, value, folders, schema)


def folder_columns(path: Path) -> dict[str, str | None]:
    """The columns that folders of a path name.

    >>> folder_columns(Path("fineweb/dump=CC-MAIN-2024-10/part%3D1/x=1.parquet"))
    {'dump': 'CC-MAIN-2024-10'}
    """
    pairs = (part.split("=", 1) for part in path.parts[:-1] if "=" in part[1:])
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, value in pairs}


def kind_of(path: Path) -> str:
    """`.parquet`, or a suffix of `ARROW`, `JSON` or `TEXT`; InputError if neither name nor content says it."""
    return _kind(path) or _kind_by_content(path)


def _kind(path: Path) -> str:
    """`.parquet`, or a suffix of `ARROW`, `JSON` or `TEXT`; empty if the name does not say."""
    name = next((suffix for suffix in map(str.lower, reversed(path.suffixes)) if suffix not in COMPRESSED), "")
    return name if name in {".parquet", *ARROW, *JSON, *TEXT} else ""


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and in the folders in it, by name: all data (parquet, Arrow, JSON) or all text.

    Names that begin with a dot or an underscore are left out: other programs' notes. Of what `datasets` saved to disk,
    only the Arrow files with its rows are taken.

    Raises:
        InputError: there is no file, the format of one is not known, or there are both data and texts.
    """
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]
    saved = {path.parent: _saved_files(path) for path in paths if path.name == SAVED_STATE}
    paths = [path for path in paths if path.name != SAVED_SPLITS and path in saved.get(path.parent, [path])]
    texts = [path for path in paths if kind_of(path) in TEXT]
    if texts and len(texts) < len(paths):
        data = next(path for path in paths if path not in texts)
        raise InputError(
            f"{folder}: holds data ({data.name}) and texts ({texts[0].name}); name those to read by a glob"
        )
    if not paths:
        raise InputError(f"{folder}: no file in this folder; name the files")
    return paths


def _saved_files(state: Path) -> list[Path]:
    """The files that hold the rows of a data set that `datasets` saved, from its notes."""
    try:
        return [state.parent / each["filename"] for each in read_json(state)["_data_files"]]
    except (KeyError, TypeError):
        raise InputError(
            f"{state}: not the notes of a saved data set; save it again with datasets.save_to_disk"
        ) from None


def text_bytes(path: Path, text_column: str) -> int:
    """Roughly how many bytes of text a file holds: of parquet from its metadata, of others their size."""
    if _kind(path) == ".parquet" and not is_url(path):
        with suppress(OSError, pa.ArrowException):
            metadata = pq.read_metadata(path)
            columns = [
                metadata.row_group(n).column(m)
                for n in range(metadata.num_row_groups)
                for m in range(metadata.num_columns)
            ]
            return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text_column)
    return path.stat().st_size


def _kind_by_content(path: Path) -> str:
    with _reading(path) as file:
        begin = file.read(PEEK)
    if begin.startswith(PARQUET_MAGIC):
        return ".parquet"
    if begin.startswith(ARROW_MAGIC):
        return ".arrow"
    if JSON_BEGINS.match(begin):
        return ".jsonl"
    raise InputError(
        f"{path}: neither its name nor its content says what it holds; parquet, Arrow, JSON (.jsonl, .json) and text "
        "(.txt, .md, .py, …) are read, the last two also .gz and .zst: rename, convert or leave it out"
    )


Batches = Iterator[tuple[int, pa.RecordBatch]]


def _tabular_rows(path: Path, needed: set[str] | None, wanted: set[str]) -> Iterator[tuple[str, dict, pa.Schema]]:
    with open_table(path) as (schema, batches):
        # If one is missing, the caller reports it and lists all names.
        some = needed is not None and all(type_of(schema, name) is not None for name in needed)
        read = (
            [name for name in dict.fromkeys([*needed, *wanted]) if type_of(schema, name) is not None] if some else None
        )
        for first, batch in batches(read):
            for number, row in enumerate(values_of(batch), first + 1):
                yield f"{path}:row {number}", row, schema


@contextmanager
def _parquet(path: Path) -> Iterator[tuple[pa.Schema, Callable]]:
    with pq.ParquetFile(for_pyarrow(path), pre_buffer=False) as file:  # pre-buffering keeps the file in memory

        def batches(columns: list[str] | None, rows: np.ndarray | None = None) -> Batches:
            first = 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if rows is None or np.diff(np.searchsorted(rows, [first, last])):
                    found = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
                    yield from _with_first_rows(found, first)
                first = last

        yield file.schema_arrow, batches


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[pa.Schema, Callable]]:
    """Arrow's file format, or its stream format."""
    with path.open("rb") as file:
        begin = file.read(len(ARROW_MAGIC))
        file.seek(0)
        is_file = begin == ARROW_MAGIC
        with pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file) as reader:
            found = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            yield reader.schema, lambda columns, rows=None: _with_first_rows(_outer_columns(found, columns), 0)


TABLES = {".parquet": _parquet, **dict.fromkeys(ARROW, _arrow)}


def _with_first_rows(batches: Iterable[pa.RecordBatch], first: int) -> Batches:
    for batch in batches:
        yield first, batch
        first += len(batch)


def _outer_columns(batches: Iterable[pa.RecordBatch], columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """The batches with only some columns; of nested ones the outer columns, whole."""
    for batch in batches:
        names = batch.schema.names
        outer = {name if name in names else name.split(".")[0] for name in columns or names}
        yield batch.select([name for name in names if name in outer])


def values_of(batch: pa.RecordBatch) -> list[dict]:
    """The rows of a batch; strings that are not UTF-8 are bytes."""
    try:
        return batch.to_pylist()
    except OverflowError:  # dates that Python does not know
        temporal = {f.name: pa.string() for f in batch.schema if pa.types.is_temporal(f.type)}
        return values_of(batch.cast(pa.schema([(f.name, temporal.get(f.name, f.type)) for f in batch.schema])))
    except UnicodeDecodeError:
        binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
        raw = batch.cast(pa.schema([(f.name, binary.get(f.type, f.type)) for f in batch.schema]))
        return [{name: _decoded(value) for name, value in row.items()} for row in raw.to_pylist()]


def _decoded(value: object) -> object:
    with suppress(AttributeError, UnicodeDecodeError):
        return value.decode("utf-8")
    return value


def _json_rows(path: Path) -> Iterator[tuple[str, object, None]]:
    with _reading(path) as file:
        begin = file.read(PEEK)
        is_array = begin.removeprefix(BOM).lstrip().startswith(b"[")
        file.seek(begin.index(b"[") if is_array else 0)
        if is_array:
            yield from _array_rows(path, file)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line, None


def _array_rows(path: Path, file: io.BufferedIOBase) -> Iterator[tuple[str, object, None]]:
    number = 0
    try:
        for number, value in enumerate(ijson.items(file, "item"), 1):
            yield f"{path}:item {number}", _with_floats(value), None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a JSON array after item {number} ({error}); mend it, or copy it again") from None


def _with_floats(value: object) -> object:
    """A JSON value with floats in place of decimals, which ijson gives, so that whole numbers may be of any size."""
    if isinstance(value, dict):
        return {name: _with_floats(each) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(_with_floats, value))
    return float(value) if isinstance(value, Decimal) else value


def _text_rows(path: Path, text_column: str) -> Iterator[tuple[str, dict, None]]:
    with _reading(path) as file:
        data = file.read()
    try:
        row = {text_column: data.decode("utf-8"), "id": str(path)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}; convert it") from None
    yield str(path), row, None


@contextmanager
def _reading(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file, decompressed as its name says, or else as its first bytes say."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            magic = COMPRESSED.get(path.suffix.lower(), begin)
            if not begin and magic:
                raise EOFError("it is empty")
            file.seek(0)
            if magic.startswith(COMPRESSED[".gz"]):
                yield gzip.GzipFile(fileobj=file)
            elif magic.startswith(COMPRESSED[".zst"]):
                yield io.BufferedReader(zstd.ZstdFile(file, options=ZSTD))
            else:
                yield file
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); copy it again") from None
