"""Where text comes from: local parquet, JSONL and text files, or a data set on the Hugging Face hub."""

import glob
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import BadRow, InputError, one_line
from common.files import as_path, is_url, source
from common.text.chat import ChatTemplate

DEFAULT_DOMAIN = "default"
# Where it stands, and its columns; a line of JSON is bytes, not yet parsed.
Row = tuple[str, dict | bytes]


@dataclass(frozen=True)
class SourceDocument:
    """A document as its source has it, and how to find it there again.

    Attributes:
        answers: of a chat, the half-open spans of characters that are scored.
    """

    text: str
    id: str
    domain: str = DEFAULT_DOMAIN
    url: str = ""
    answers: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns of a row hold what; None is the column `id` if there is one, and a single domain for all."""

    text: str = "text"
    id: str | None = None
    domain: str | None = None


class BadRows:
    """What becomes of rows that cannot be used: the first stops the run, or all are skipped and counted.

    Args:
        chat: renders the text column as chats, where they are.

    Attributes:
        count: rows skipped so far.
        first: what was wrong with the first of them.
    """

    def __init__(self, skip: bool = False, chat: ChatTemplate | None = None):
        self._skip, self._chat = skip, chat
        self.count = 0
        self.first = ""

    def documents(self, rows: Iterable[Row], columns: Columns, domain: str) -> Iterator[SourceDocument]:
        """The documents of those rows that can be used."""
        for place, row in rows:
            try:
                yield _document(place, row, columns, domain, self._chat)
            except BadRow as error:
                if not self._skip:
                    raise InputError(f"{error}; mend or drop it, or skip such rows with --on_bad_row skip") from None
                self.count += 1
                self.first = self.first or str(error)


def read_files(patterns: Sequence[str], columns: Columns, bad_rows: BadRows) -> Iterator[SourceDocument]:
    """Stream the documents of files, in the order of the patterns and of the names within each.

    `.parquet` and `.jsonl` (or `.json`; also `.gz`, `.zst`) hold a document a row, any other file is one document.

    Raises:
        InputError: a pattern matches nothing, or (unless `bad_rows` skips them) a row is not JSON, not UTF-8, lacks a
            column or holds no text; names file and line.
    """
    for path in expand(patterns):
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        if name.endswith(".parquet"):
            rows = _parquet_rows(path, columns)
        elif name.endswith((".jsonl", ".json")):
            rows = _jsonl_rows(path)
        else:
            rows = _text_rows(path, columns)
        yield from bad_rows.documents(rows, columns, DEFAULT_DOMAIN)


def expand(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns match, each once; InputError for a pattern that matches none."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = [path for path in _matches(pattern) if path.is_file()]
        if not matches:
            raise InputError(f"{pattern}: no such file; check the path, and quote patterns with * in the shell")
        for path in matches:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _matches(pattern: str) -> list[Path]:
    """The paths that a pattern means: the one it spells, or those it matches, by name."""
    path = as_path(pattern)
    if path.is_file():
        return [path]
    if is_url(path):
        return [as_path(path.fs.unstrip_protocol(name)) for name in sorted(path.fs.glob(path.path))]
    return [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207


def read_hub(
    name: str, config: str | None, columns: Columns, bad_rows: BadRows, domain: str = DEFAULT_DOMAIN
) -> Iterator[SourceDocument]:
    """Stream the `train` split of a data set on the Hugging Face hub, all in `domain` unless a column says more."""
    yield from bad_rows.documents(_hub_rows(name, config), columns, domain)


def _hub_rows(name: str, config: str | None) -> Iterator[Row]:
    import datasets  # slow, and needed for the hub alone

    number = 0
    try:
        for row in datasets.load_dataset(name, name=config, split="train", streaming=True):
            yield f"{name}:{number}", row
            number += 1
    except Exception as error:  # whatever the network, the hub or a decoder may raise
        raise InputError(
            f"{name}: the hub gave no row {number} ({type(error).__name__}: {error}); check name and network, "
            "run this again, or give local files"
        ) from None


def _document(
    place: str, row: dict | bytes, columns: Columns, domain: str, chat: ChatTemplate | None
) -> SourceDocument:
    """The document that a row (or a line of JSON) holds; BadRow when it holds none."""
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{place}: not a JSON object ({error})") from None
        if not isinstance(row, dict):
            raise BadRow(f"{place}: a JSON {type(row).__name__}, not an object; one document a line")
    for column in (columns.text, columns.id, columns.domain):
        if column is None:
            continue
        if column not in row:
            raise BadRow(f"{place}: no column {column!r}, only {', '.join(sorted(row))} (name the right one)")
    text, answers = chat.render(place, row[columns.text]) if chat else (row[columns.text], None)
    if not isinstance(text, str):
        raise BadRow(f"{place}: column {columns.text!r} holds {type(text).__name__}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"{place}: half of a surrogate pair at character {error.start}") from None
    return SourceDocument(
        text,
        _label(row.get("id" if columns.id is None else columns.id), place),
        domain if columns.domain is None else _label(row[columns.domain], domain),
        _label(row.get("url"), ""),
        answers,
    )


def _label(value: object, default: str) -> str:
    """The value as text that cannot break a row of a table, or `default` where there is none."""
    return default if value is None else one_line(str(value))


def _parquet_rows(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        with pq.ParquetFile(source(path), pre_buffer=False) as file:  # which would keep all of it in memory
            names = file.schema_arrow.names
            needed = {columns.text, columns.id, columns.domain} - {None}
            # Where one is missing, the caller reports it, and wants to see all names.
            read = [name for name in names if name in needed | {"id", "url"}] if needed <= set(names) else None
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=read):
                for row in _values(batch):
                    number += 1
                    yield f"{path}:row {number}", row
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); copy it anew") from None


def _values(batch: pa.RecordBatch) -> list[dict]:
    """The rows of a batch; strings that are not UTF-8 come as bytes."""
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
    with _reading(path, _opener(path)) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


def _text_rows(path: Path, columns: Columns) -> Iterator[Row]:
    with _reading(path, _opener(path)) as file:
        data = file.read()
    try:
        row = {columns.text: data.decode("utf-8"), "id": str(path)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}; convert it") from None
    yield str(path), row


def _opener(path: Path) -> Callable[[Path], io.BufferedIOBase]:
    openers = {
        ".gz": lambda path: gzip.GzipFile(fileobj=path.open("rb")),
        # pyarrow's reader, because zstandard's takes a file that is cut short for a whole one
        ".zst": lambda path: io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(path.open("rb")), "zstd")),
    }
    return openers.get(path.suffix, lambda path: path.open("rb"))


@contextmanager
def _reading(path: Path, opener: Callable[[Path], io.BufferedIOBase]) -> Iterator[io.BufferedIOBase]:
    try:
        with opener(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); copy it anew") from None
