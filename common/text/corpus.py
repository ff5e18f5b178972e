"""Documents as text: from local parquet, JSONL and text files, or from a data set on the Hugging Face hub."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from common.errors import BadRow, InputError, one_line
from common.text.chat import ChatTemplate
from common.text.rows import Row, rows_of

DEFAULT_DOMAIN = "default"
# After how many documents the number of domains is looked at, and the largest share of them that may be domains. Early,
# only a column that is different in nearly every row is refused; a corpus has at least MANY documents.
EARLY = {1_000: 0.99, 10_000: 0.99, 100_000: 0.9, 1_000_000: 0.75}
MANY, SHARE = 20, 0.5
SHOWN = 3  # domains in a message
HEAD = 100  # rows of a file in which each column must be once
COLUMNS_CHARS = 500  # of a message that lists the columns


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

    @property
    def text_hash(self) -> int:
        """64 bits that identify the text."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8).digest(), "little")


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
            InputError: none of the first rows has a column, or a row cannot be used and `skip` is off.
        """
        rows = iter(rows)
        first = list(islice(rows, HEAD))
        _require_columns(first, self.columns)
        for place, row in chain(first, rows):
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


def read_files(paths: Sequence[Path], reader: RowReader) -> Iterator[SourceDocument]:
    """Stream the documents of files, in this order; formats as in `rows_of`.

    Raises:
        InputError: the format of a file is not known, or (unless the reader skips them) a row is not JSON, not UTF-8,
            lacks a column or holds no text; names file and line.
    """
    columns = reader.columns
    needed = {columns.text, columns.id, columns.domain} - {None}
    for rows in [rows_of(path, columns.text, needed, {"id", "url"}) for path in paths]:
        yield from reader.documents(rows, DEFAULT_DOMAIN)


def _require_columns(rows: list[Row], columns: Columns) -> None:
    """Raise InputError for a column that none of the rows has."""
    parsed = []
    for _, row in rows:
        with suppress(BadRow):
            parsed.append(_parsed("", row))
    names = sorted({name for row in parsed for name in row})
    for what, column in vars(columns).items():
        if parsed and column is not None and column not in names:
            raise InputError(
                f"{rows[0][0]}: no column {column!r} (--{what}_column) in it, only {', '.join(names)[:COLUMNS_CHARS]}; "
                "name the right one"
            )


def few_domains(documents: Iterable[SourceDocument], columns: Columns) -> Iterator[SourceDocument]:
    """The same documents; InputError if nearly each of them is a domain of its own."""
    domains, number = set(), 0
    for number, document in enumerate(documents, 1):
        domains.add(document.domain)
        if number in EARLY:
            _refuse_many(domains, number, EARLY[number], columns)
        yield document
    if number >= MANY:
        _refuse_many(domains, number, SHARE, columns)


def _refuse_many(domains: set[str], number: int, share: float, columns: Columns) -> None:
    if columns.domain is not None and len(domains) > share * number:
        some = ", ".join(repr(domain[:80]) for domain in sorted(domains)[:SHOWN])
        raise InputError(
            f"--domain_column {columns.domain}: {len(domains):,} domains for {number:,} documents, such as {some}; "
            "documents are ranked within their domain, so name a column with few values, or none"
        )


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
    row = _parsed(place, row)
    for column in (columns.text, columns.id, columns.domain):
        if column is None:
            continue
        if column not in row:
            raise BadRow(f"{place}: no column {column!r}, only {', '.join(sorted(row))[:COLUMNS_CHARS]}")
    text, answers = chat.render(place, row[columns.text]) if chat else (row[columns.text], None)
    if not isinstance(text, str):
        raise BadRow(f"{place}: column {columns.text!r} holds {type(text).__name__}, not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"{place}: half of a surrogate pair at character {error.start}") from None
    if columns.domain is not None and isinstance(row[columns.domain], dict | list):
        sample = json.dumps(row[columns.domain], ensure_ascii=False, default=str)[:80]
        raise InputError(f"{place}: --domain_column {columns.domain} is nested, {sample}; name a column of one value")
    return SourceDocument(
        text,
        _label(row.get("id" if columns.id is None else columns.id), place),
        domain if columns.domain is None else _label(row[columns.domain], domain),
        _label(row.get("url"), ""),
        answers,
    )


def _parsed(place: str, row: dict | bytes) -> dict:
    """The columns of a row; BadRow if it is a line that is no JSON object."""
    if isinstance(row, dict):
        return row
    try:
        row = json.loads(row.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{place}: not a JSON object ({error})") from None
    if not isinstance(row, dict):
        raise BadRow(f"{place}: a JSON {type(row).__name__}, not an object; give one document per line")
    return row


def _label(value: object, default: str) -> str:
    """The value as text that cannot break a row of a table, or `default` if it is None."""
    return default if value is None else one_line(str(value))
