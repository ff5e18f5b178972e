"""Documents as text: from files, or from a data set on the Hugging Face hub."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from common.errors import BadRow, InputError, one_line
from common.text.chat import ChatTemplate
from common.text.kept import ALL, kept_names, type_of, value_in
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
        file, row: the file and the number of the row, from 0, that holds it; empty for the sample text.
        kept: columns of the source that stay with it, by name.
        types: of `kept`; None if only the values say.
    """

    text: str
    id: str
    domain: str = DEFAULT_DOMAIN
    url: str = ""
    answers: tuple[tuple[int, int], ...] | None = None
    file: str = ""
    row: int = 0
    kept: dict = field(default_factory=dict)
    types: pa.Schema | None = None

    @property
    def text_hash(self) -> int:
        """64 bits that identify the text."""
        return hash_of(self.text.encode())


def hash_of(text: bytes) -> int:
    """64 bits that identify a text in UTF-8."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Columns:
    """Column names, nested by dots. `id` None: the column `id` if there is one. `domain` None: all are one domain."""

    text: str = "text"
    id: str | None = None
    domain: str | None = None

    @property
    def needed(self) -> set[str]:
        """Those that are named."""
        return {self.text, self.id, self.domain} - {None}


class RowReader:
    """Turns rows into documents; a row that cannot be used stops the run, or is skipped and counted.

    Args:
        skip: skip rows that cannot be used.
        chat: the text column holds chats, and this template renders them.
        keep: columns that stay with each document; `all` alone is every column.

    Attributes:
        num_skipped: rows skipped so far.
        first_skipped: what was wrong with the first of them.
    """

    def __init__(
        self, columns: Columns, skip: bool = False, chat: ChatTemplate | None = None, keep: Sequence[str] = ()
    ):
        self.columns, self.chat, self.keep, self._skip = columns, chat, keep, skip
        self.num_skipped = 0
        self.first_skipped = ""

    @property
    def needed(self) -> set[str] | None:
        """The columns to read, beside id and url; None for all."""
        return None if ALL in self.keep else {*self.columns.needed, *self.keep}

    def documents(self, rows: Iterable[Row], domain: str) -> Iterator[SourceDocument]:
        """The documents in the usable rows of a file, in `domain` unless a column names another.

        Raises:
            InputError: none of the first rows has a column, or a row cannot be used and `skip` is off.
        """
        rows = iter(rows)
        first = list(islice(rows, HEAD))
        flags = {column: f"--{what}_column" for what, column in vars(self.columns).items() if column is not None}
        _require_columns(first, dict.fromkeys({*self.keep} - {ALL}, "--keep_columns") | flags)
        schema = first[0].schema if first else None
        types = self._types(schema) if self.keep and schema is not None else None
        for row in chain(first, rows):
            try:
                yield self._document(row, domain, types)
            except BadRow as error:
                if not self._skip:
                    raise InputError(f"{error}; fix or drop it, or skip such rows with --on_bad_row skip") from None
                self.num_skipped += 1
                self.first_skipped = self.first_skipped or str(error)

    def _document(self, row: Row, domain: str, types: pa.Schema | None) -> SourceDocument:
        """The document in a row; BadRow if there is none."""
        columns, values = self.columns, parsed(row)
        found = {}
        for column in columns.needed:
            try:
                found[column] = value_in(values, column)
            except KeyError:
                raise BadRow(f"{row.place}: no column {column!r}, only {_listed(values)}") from None
        text, answers = found[columns.text], None
        if self.chat:
            text, answers = self.chat.render(row.place, text)
        if not isinstance(text, str):
            raise BadRow(f"{row.place}: column {columns.text!r} holds {type(text).__name__}, not text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow(f"{row.place}: half of a surrogate pair at character {error.start}") from None
        return SourceDocument(
            text,
            _label(values.get("id") if columns.id is None else found[columns.id], row.place),
            domain if columns.domain is None else self._domain(row.place, found[columns.domain], domain),
            _label(values.get("url"), ""),
            answers,
            row.file,
            row.number,
            self._kept(values),
            types,
        )

    def _domain(self, place: str, value: object, default: str) -> str:
        if isinstance(value, dict | list):
            sample = json.dumps(value, ensure_ascii=False, default=str)[:80]
            raise InputError(
                f"{place}: --domain_column {self.columns.domain} is nested, {sample}; name a column of one value, "
                "with dots (meta.source)"
            )
        return _label(value, default)

    def _kept(self, values: dict) -> dict:
        kept: dict[str, object] = {}
        if not self.keep:
            return kept
        for name, new_name in kept_names(self.keep, values, self._own).items():
            with suppress(KeyError):
                kept[new_name] = value_in(values, name)
        return kept

    def _types(self, schema: pa.Schema) -> pa.Schema:
        names = kept_names(self.keep, schema.names, self._own)
        return pa.schema([(new_name, type_of(schema, name)) for name, new_name in names.items()])

    @property
    def _own(self) -> set[str]:
        """Columns that the index has anyway, and the text."""
        columns = self.columns
        return {columns.text, columns.id or "id", "url"} | ({"domain"} & {columns.domain})

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
    for rows in [rows_of(path, reader.columns.text, reader.needed, {"id", "url"}) for path in paths]:
        yield from reader.documents(rows, DEFAULT_DOMAIN)


def _require_columns(rows: list[Row], columns: dict[str, str]) -> None:
    """Raise InputError for a column that none of the rows has.

    Args:
        columns: column names, and their flags.
    """
    if not rows:
        return
    values = []
    for row in rows:
        with suppress(BadRow):
            values.append(parsed(row))
    for column, flag in columns.items():
        schema = rows[0].schema
        there = any(_has(each, column) for each in values)
        if schema is not None:
            there = type_of(schema, column) is not None  # a struct without fields counts as false
        if values and not there:
            raise InputError(
                f"{rows[0].place}: no column {column!r} ({flag}) in it, only "
                f"{_listed({name for each in values for name in each})}; name the right one"
            )


def _has(values: dict, column: str) -> bool:
    with suppress(KeyError):
        value_in(values, column)
        return True
    return False


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))[:COLUMNS_CHARS]


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
    name: str, config: str | None, reader: RowReader, domain: str = DEFAULT_DOMAIN, split: str = "train"
) -> Iterator[SourceDocument]:
    """Stream a split of a data set on the Hugging Face hub, in `domain` unless a column names another."""
    yield from reader.documents(_hub_rows(name, config, split), domain)


def _hub_rows(name: str, config: str | None, split: str) -> Iterator[Row]:
    import datasets  # slow, and only the hub needs it

    number = 0
    try:
        stream = datasets.load_dataset(name, name=config, split=split, streaming=True)
        schema = stream.features and stream.features.arrow_schema
        for row in stream:
            yield Row(name, number, f"{name}:{number}", row, {}, schema)
            number += 1
    except Exception as error:  # the network, the hub and decoders raise many types
        raise InputError(
            f"{name}: the hub gave no row {number} of {config or 'its first configuration'}, {split} "
            f"({type(error).__name__}: {error}); check name and network, run this again, or give local files"
        ) from None


def parsed(row: Row) -> dict:
    """The columns of a row, with those of its folders; BadRow if it is a line that is no JSON object."""
    value = row.value
    if isinstance(value, bytes):
        try:
            value = json.loads(value.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{row.place}: not a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise BadRow(f"{row.place}: a JSON {type(value).__name__}, not an object; give one document per line")
    return {**row.folders, **value} if row.folders else value


def _label(value: object, default: str) -> str:
    """The value as text that cannot break a row of a table, or `default` if it is None."""
    return default if value is None else one_line(str(value))
