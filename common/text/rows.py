"""Rows of files: parquet, lines of JSON, or a whole text file as one row.

The name of a file says what it holds. If it does not, its first bytes do; a file that neither explains is refused, so
that data is never taken for text.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import for_pyarrow, is_url

try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd

# The place of a row (file and row), and its columns or an unparsed line of JSON.
Row = tuple[str, dict | bytes]
JSON_LINES = {".jsonl", ".ndjson", ".jsonlines", ".json"}
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
JSON_BEGINS = re.compile(rb"(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*[\"}]")
PEEK = 2**16  # bytes
ZSTD = {zstd.DecompressionParameter.window_log_max: 31}  # as far as `zstd --long` goes


def rows_of(path: Path, text_column: str, needed: set[str], wanted: set[str]) -> Iterator[Row]:
    """The rows of a file, whose format is found at once.

    A file is parquet (.parquet), JSON objects, one in each line (.jsonl, .ndjson, .jsonlines, .json), or text (.txt,
    .md, .py and many others), also .gz or .zst; upper case too. Without such a name, parquet and JSON are found by
    their first bytes.

    Args:
        text_column: the column of a text file's one row, beside `id`.
        needed: columns that are read from parquet, with those of `wanted` that are there; all if one is missing.

    Raises:
        InputError: the format is not known, or (while the rows are read) the file is damaged.
    """
    kind = _kind(path) or _kind_by_content(path)
    if kind == ".parquet":
        return _parquet_rows(path, needed, wanted)
    return _jsonl_rows(path) if kind in JSON_LINES else _text_rows(path, text_column)


def _kind(path: Path) -> str:
    """`.parquet`, or a suffix of `JSON_LINES` or `TEXT`; empty if the name does not say."""
    name = next((suffix for suffix in map(str.lower, reversed(path.suffixes)) if suffix not in COMPRESSED), "")
    return name if name in {".parquet", *JSON_LINES, *TEXT} else ""


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and in the folders in it, by name: all data (parquet, lines of JSON) or all text.

    Names that begin with a dot or an underscore are left out: other programs' notes.

    Raises:
        InputError: there is no file, the format of one is not known, or there are both data and texts.
    """
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]
    texts = [path for path in paths if (_kind(path) or _kind_by_content(path)) in TEXT]
    if texts and len(texts) < len(paths):
        data = next(path for path in paths if path not in texts)
        raise InputError(
            f"{folder}: holds data ({data.name}) and texts ({texts[0].name}); name those to read by a glob"
        )
    if not paths:
        raise InputError(f"{folder}: no file in this folder; name the files")
    return paths


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
    if JSON_BEGINS.match(begin):
        return ".jsonl"
    raise InputError(
        f"{path}: neither its name nor its content says what it holds; parquet, lines of JSON (.jsonl) and text (.txt, "
        ".md, .py, …) are read, also .gz and .zst: rename, convert or leave it out"
    )


def _parquet_rows(path: Path, needed: set[str], wanted: set[str]) -> Iterator[Row]:
    try:
        with pq.ParquetFile(for_pyarrow(path), pre_buffer=False) as file:  # pre-buffering keeps the file in memory
            names = file.schema_arrow.names
            # If one is missing, the caller reports it and lists all names.
            read = [name for name in names if name in needed | wanted] if needed <= set(names) else None
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=read):
                for row in _values(batch):
                    number += 1
                    yield f"{path}:row {number}", row
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); copy it again") from None


def _values(batch: pa.RecordBatch) -> list[dict]:
    """The rows of a batch; strings that are not UTF-8 are bytes."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
        raw = batch.cast(pa.schema([(f.name, binary.get(f.type, f.type)) for f in batch.schema]))
        return [{name: _decoded(value) for name, value in row.items()} for row in raw.to_pylist()]


def _decoded(value: object) -> object:
    with suppress(AttributeError, UnicodeDecodeError):
        return value.decode("utf-8")
    return value


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with _reading(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


def _text_rows(path: Path, text_column: str) -> Iterator[Row]:
    with _reading(path) as file:
        data = file.read()
    try:
        row = {text_column: data.decode("utf-8"), "id": str(path)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}; convert it") from None
    yield str(path), row


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
