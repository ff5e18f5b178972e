"""Rows of a corpus as they are in its files, by their numbers: tables of parquet and Arrow, dicts of JSON and text."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import BadRow, InputError
from common.text.corpus import hash_of, parsed
from common.text.kept import type_of, value_in
from common.text.rows import TABLES, folder_columns, kind_of, open_table, rows_of

ROWS = 4096  # of JSON and text at once
Rows = pa.Table | list[dict]


def originals(
    path: Path, text_column: str, numbers: np.ndarray | None = None, columns: Sequence[str] | None = None
) -> Iterator[Rows]:
    """The rows of a file with these numbers, some at a time; fewer if the file has no longer as many.

    Their columns keep names, order and types, or values; those of folders in the path come behind them. A line that is
    no JSON object is an empty dict.

    Args:
        text_column: the column that a text file's row gets, beside `id`.
        numbers: int64, ascending; one may be there several times. None for all rows.
        columns: of parquet and Arrow, those that are read; None for all.
    Raises:
        InputError: the file is damaged, or its format is not known.
    """
    if kind_of(path) not in TABLES:
        values = _values(path, text_column, numbers)
        while rows := list(islice(values, ROWS)):
            yield rows
        return
    folders = folder_columns(path)
    with open_table(path) as (schema, batches):
        if columns is not None and not any(type_of(schema, name) for name in columns):
            columns = None  # the caller sees which there are
        for first, batch in batches(columns, numbers):
            table = _without_views(pa.Table.from_batches([batch]))
            if numbers is not None:
                begin, end = np.searchsorted(numbers, [first, first + len(batch)])
                if begin == end:
                    continue
                table = table.take(numbers[begin:end] - first)
            for name in folders:
                if name in table.column_names:
                    continue
                table = table.append_column(name, pa.array([folders[name]] * len(table), pa.string()))
            yield table


def _values(path: Path, text_column: str, numbers: np.ndarray | None) -> Iterator[dict]:
    folders = folder_columns(path)
    wanted = iter(() if numbers is None else numbers.tolist())
    number = next(wanted, None)
    for row in rows_of(path, text_column, None, set()):
        if numbers is not None and number is None:
            return
        while numbers is None or number == row.number:
            value = {}
            with suppress(BadRow):
                value = parsed(row._replace(folders={}))
                value |= {name: folder for name, folder in folders.items() if name not in value}
            yield value
            if numbers is None:
                break
            number = next(wanted, None)


def column_of(rows: Rows, name: str) -> pa.ChunkedArray | list | None:
    """The values of a column, nested by dots; None if no row has it."""
    if isinstance(rows, list):
        values = [_value(row, name) for row in rows]
        return values if any(value is not None for value in values) else None
    if name in rows.column_names:
        return rows[name]
    outer, _, inner = name.partition(".")
    if not inner or outer not in rows.column_names or not pa.types.is_struct(rows.schema.field(outer).type):
        return None
    return column_of(pa.Table.from_struct_array(rows[outer]), inner)


def _value(row: dict, name: str) -> object:
    with suppress(KeyError):
        return value_in(row, name)
    return None


def have_texts(path: Path, rows: Rows, column: str, hashes: pa.ChunkedArray) -> np.ndarray:
    """Whether each row has the text with this hash, bool; true where the hash is null, and for chats.

    Raises:
        InputError: no row has the column.
    """
    texts, known = column_of(rows, column), pc.is_valid(hashes).to_numpy()
    if texts is None and known.any():
        names = rows.column_names if isinstance(rows, pa.Table) else {name for row in rows for name in row}
        raise InputError(f"{path}: no column {column!r}, only {', '.join(sorted(names))}; name it with --text_column")
    if isinstance(texts, pa.ChunkedArray) and pa.types.is_primitive(texts.type):
        raise InputError(f"{path}: the column {column!r} is {texts.type}, not text; name another with --text_column")
    same = np.ones(len(rows), bool)
    if texts is not None:
        places = np.flatnonzero(known)
        wanted = hashes.take(places).to_pylist()
        same[places] = [_is(text, each) for text, each in zip(_bytes(texts, places), wanted, strict=True)]
    return same


def _bytes(texts: pa.ChunkedArray | list, places: np.ndarray) -> Iterable[object]:
    """Some texts in UTF-8; chats stay lists."""
    if isinstance(texts, list):
        values = (texts[place] for place in places)
        return (value.encode("utf-8", "replace") if isinstance(value, str) else value for value in values)
    texts = texts.take(places)
    return texts.to_pylist() if pa.types.is_nested(texts.type) else texts.cast(pa.large_binary()).to_pylist()


def _without_views(table: pa.Table) -> pa.Table:
    """The table with ordinary strings for those that are views, of which no rows can be taken."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return table.cast(pa.schema([field.with_type(plain.get(field.type, field.type)) for field in table.schema]))


def _is(text: object, wanted: int) -> bool:
    return isinstance(text, list) or (isinstance(text, bytes) and hash_of(text) == wanted)
