"""Documents as text: from local parquet, JSONL and text files, or from a data set on the Hugging Face hub."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import BadRow, InputError, one_line
from common.files import expand, for_pyarrow
from common.text.chat import ChatTemplate

DEFAULT_DOMAIN = "default"
# The place of a row (file and row), and its columns or an unparsed line of JSON.
Row = tuple[str, dict | bytes]


@dataclass(frozen=True)
class SourceDocument:
    """A document as text, and the id that finds it in its source.

    Attributes:
        answers: for a chat: the half-open spans of characters that are scored.
    """

    text: str
    id: str
    domain: str = DEFAULT_DOMAIN
    url: str = ""
    answers: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Columns:
    """Column names. `id` None: the column `id` if there is one. `domain` None: all rows are one domain."""

    text: str = "text"
    id: str | None = None
    domain: str | None = None


class RowReader:
    """Turns rows into documents; a row that cannot be used stops the run, or is skipped and counted.

    Args:
        skip: skip rows that cannot be used.
        chat: the text column holds chats, and this template renders them.

    Attributes:
        num_skipped: rows skipped so far.
        first_skipped: what was wrong with the first of them.
    """

    def __init__(self, columns: Columns, skip: bool = False, chat: ChatTemplate | None = None):
        self.columns, self.chat, self._skip = columns, chat, skip
        self.num_skipped = 0
        self.first_skipped = ""

    def documents(self, rows: Iterable[Row], domain: str) -> Iterator[SourceDocument]:
        """The documents in the usable rows, in `domain` unless a column names another.

        Raises:
            InputError: a row cannot be used, and `skip` is off.
        """
        for place, row in rows:
            try:
                yield _document(place, row, self.columns, domain, self.chat)
            except BadRow as error:
                if not self._skip:
                    raise InputError(f"{error}; fix or drop it, or skip such rows with --on_bad_row skip") from None
                self.num_skipped += 1
                self.first_skipped = self.first_skipped or str(error)

    def report(self) -> None:
        """Print how many rows were skipped, if any."""
        if self.num_skipped:
            print(f"skipped {self.num_skipped:,} rows that cannot be used, the first: {one_line(self.first_skipped)}")


def read_files(patterns: Sequence[str], reader: RowReader) -> Iterator[SourceDocument]:
    """Stream the documents of files, by pattern and then by name.

    `.parquet` and `.jsonl` (or `.json`; also `.gz`, `.zst`) hold one document per row, any other file is one document.

    Raises:
        InputError: a pattern matches nothing, or (unless the reader skips them) a row is not JSON, not UTF-8, lacks a
            column or holds no text; names file and line.
    """
    for path in expand(patterns):
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        if name.endswith(".parquet"):
            rows = _parquet_rows(path, reader.columns)
        elif name.endswith((".jsonl", ".json")):
            rows = _jsonl_rows(path)
        else:
            rows = _text_rows(path, reader.columns)
        yield from reader.documents(rows, DEFAULT_DOMAIN)


def read_hub(
    name: str, config: str | None, reader: RowReader, domain: str = DEFAULT_DOMAIN
) -> Iterator[SourceDocument]:
    """Stream the `train` split of a data set on the Hugging Face hub, in `domain` unless a column names another."""
    yield from reader.documents(_hub_rows(name, config), domain)


def _hub_rows(name: str, config: str | None) -> Iterator[Row]:
    import datasets  # slow, and only the hub needs it

    number = 0
    try:
        for row in datasets.load_dataset(name, name=config, split="train", streaming=True):
            yield f"{name}:{number}", row
            number += 1
    except Exception as error:  # the network, the hub and decoders raise many types
        raise InputError(
            f"{name}: the hub gave no row {number} ({type(error).__name__}: {error}); check name and network, "
            "run this again, or give local files"
        ) from None


def _document(
    place: str, row: dict | bytes, columns: Columns, domain: str, chat: ChatTemplate | None
) -> SourceDocument:
    """The document in a row (or a line of JSON); BadRow if there is none."""
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{place}: not a JSON object ({error})") from None
        if not isinstance(row, dict):
            raise BadRow(f"{place}: a JSON {type(row).__name__}, not an object; give one document per line")
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
    """The value as text that cannot break a row of a table, or `default` if it is None."""
    return default if value is None else one_line(str(value))


def _parquet_rows(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        with pq.ParquetFile(for_pyarrow(path), pre_buffer=False) as file:  # pre-buffering keeps the file in memory
            names = file.schema_arrow.names
            needed = {columns.text, columns.id, columns.domain} - {None}
            # If one is missing, the caller reports it and lists all names.
            read = [name for name in names if name in needed | {"id", "url"}] if needed <= set(names) else None
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


def _text_rows(path: Path, columns: Columns) -> Iterator[Row]:
    with _reading(path) as file:
        data = file.read()
    try:
        row = {columns.text: data.decode("utf-8"), "id": str(path)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}; convert it") from None
    yield str(path), row


@contextmanager
def _reading(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file, decompressed by the suffix of its name."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                yield gzip.GzipFile(fileobj=file)
            elif path.suffix == ".zst":
                # pyarrow's reader, because zstandard's reads a file that is cut short as a whole one
                yield io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), "zstd"))
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); copy it again") from None
