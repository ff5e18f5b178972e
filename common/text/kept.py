"""Columns of the source that travel with each document: their names, values and types.

A kept column has its own name and type in the index of a shard, in the score table and in the selection. A column with
the name of one of theirs gets the prefix `source_`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import pyarrow as pa

ALL, PREFIX = "all", "source_"
PREDICTED = "prefilter_predicted"  # the column of what a prefilter predicted for a document
BESIDE = "\0"  # a column beside those that are kept, so that a table without any has its number of rows
# Columns of the index, of the score table and of the selection; a test compares them.
RESERVED = set(
    "start end id domain url text_hash file row answers doc_id num_tokens L_base L_ref AI_Score L_base_novel "
    "L_ref_novel AI_Score_novel scored_tokens repetition longest_run compression duplicate_of near_duplicate_of shard "
    "state document step rank_score prefilter_predicted".split()
)
CANNOT_CONVERT = (pa.ArrowException, OverflowError, TypeError, ValueError)


def value_in(row: dict, column: str) -> object:
    """The value of a column, nested by dots; None inside a null; KeyError if it is not there.

    >>> value_in({"meta": {"source": "web"}, "a.b": 1}, "meta.source"), value_in({"a.b": 1}, "a.b")
    ('web', 1)
    """
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    if not inner or outer not in row:
        raise KeyError(column)
    if row[outer] is None:
        return None
    if not isinstance(row[outer], dict):
        raise KeyError(column)
    return value_in(row[outer], inner)


def type_of(schema: pa.Schema | pa.StructType, column: str) -> pa.DataType | None:
    """The type of a column, nested by dots, without dictionaries and views; None if it is not there."""
    place = schema.get_field_index(column)
    if place >= 0:
        return _plain(schema.field(place).type)
    outer, _, inner = column.partition(".")
    place = schema.get_field_index(outer)
    if not inner or place < 0 or not pa.types.is_struct(schema.field(place).type):
        return None
    return type_of(schema.field(place).type, inner)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def kept_names(wanted: Sequence[str], there: Iterable[str], ours: set[str]) -> dict[str, str]:
    """The columns to keep of those that are `there`, each with the name that it gets.

    Args:
        wanted: column names, or only `ALL`.
        ours: columns that the index holds anyway.
    """
    names = (name for name in there if name not in ours) if list(wanted) == [ALL] else wanted
    return {name: _free(name) for name in names if name not in ours}


def _free(name: str) -> str:
    """The name, or another if one of ours may have it; two names never become one.

    >>> _free("score"), _free("domain"), _free("source_domain"), _free("")
    ('score', 'source_domain', 'source_source_domain', 'source_')
    """
    bare = name
    while bare.startswith(PREFIX):
        bare = bare.removeprefix(PREFIX)
    return as_text(PREFIX + name if bare in RESERVED or not bare else name)


def kept_table(rows: Iterable[tuple[dict, pa.Schema | None]]) -> pa.Table:
    """The kept columns of some documents; where types differ, one that holds both, or else text.

    Args:
        rows: values by name, and their types; without types, those are taken from the values.
    """
    pieces = []
    for _, group in groupby(rows, key=lambda row: id(row[1])):
        values, schemas = zip(*group, strict=True)
        names = (
            schemas[0].names if schemas[0] is not None else list(dict.fromkeys(name for row in values for name in row))
        )
        columns = [
            _column([row.get(name) for row in values], schemas[0].field(name).type if schemas[0] is not None else None)
            for name in names
        ]
        pieces.append(pa.table([pa.nulls(len(values)), *columns], [BESIDE, *names]))
    schema = common_schema([piece.schema for piece in pieces] or [pa.schema([(BESIDE, pa.null())])])
    tables = converted(pieces, schema) or [schema.empty_table()]
    return pa.concat_tables(tables).drop_columns([BESIDE])


def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """All columns of some schemas, each with a type that holds all of its types, or else text.

    >>> common_schema([pa.schema({"a": pa.int64()}), pa.schema({"a": pa.float64()}), pa.schema({"b": pa.null()})])
    a: double
    b: null
    """
    types: dict[str, list[pa.Schema]] = {}
    for schema in dict.fromkeys(schemas):
        for field in schema:
            types.setdefault(field.name, []).append(pa.schema([field.remove_metadata()]))
    return pa.schema([_common_field(fields) for fields in types.values()])


def _common_field(fields: list[pa.Schema]) -> pa.Field:
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).with_nullable(True)
    except pa.ArrowException:
        return pa.field(fields[0].names[0], pa.string())


class CannotHoldError(ValueError):
    """A type of `common_schema` does not hold a value of a column, such as a large number or a far date."""

    def __init__(self, column: str):
        super().__init__(column)
        self.column = column


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema from `common_schema`; those that it lacks are null.

    Raises:
        CannotHoldError: a type does not hold a value.
    """
    columns = [
        _converted(table[field.name], field) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def converted(tables: Sequence[pa.Table], schema: pa.Schema) -> list[pa.Table]:
    """The tables `as_schema`; a column whose type does not hold all values is text in all of them."""
    return with_fitting(schema, lambda fitting: [as_schema(table, fitting) for table in tables])


def with_fitting(schema: pa.Schema, convert: Callable[[pa.Schema], Any]) -> Any:
    """What `convert` returns for the schema, in which columns are text whose type does not hold all values.

    Args:
        convert: uses `as_schema`; it is called again after each column that becomes text.
    """
    while True:
        try:
            return convert(schema)
        except CannotHoldError as error:
            schema = with_text(schema, error.column)


def with_text(schema: pa.Schema, column: str) -> pa.Schema:
    """The schema with text in a column."""
    return schema.set(schema.get_field_index(column), pa.field(column, pa.string()))


def without_nulls(schema: pa.Schema) -> pa.Schema:
    """The schema with text for columns of no known type, which other programs read as another one."""
    for field in schema:
        schema = with_text(schema, field.name) if _has(field.type, pa.types.is_null) else schema
    return schema


def _converted(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    if pa.types.is_string(field.type):
        return pa.chunked_array([pa.array(map(as_text, column.to_pylist()), pa.string())])
    try:
        return column.cast(field.type)
    except CANNOT_CONVERT:
        raise CannotHoldError(field.name) from None


def _column(values: list, kind: pa.DataType | None) -> pa.Array:
    for wanted in (kind, None):
        with suppress(*CANNOT_CONVERT):
            column = storable(pa.array(values, wanted))
            return column if not _has(column.type, _is_rare) else pa.array(map(as_text, values), pa.string())
    return pa.array(map(as_text, values), pa.string())


def _is_rare(kind: pa.DataType) -> bool:
    """Whether DuckDB lacks a type, or has another for it: decimals of over 38 digits, UUIDs."""
    return pa.types.is_decimal256(kind) or isinstance(kind, pa.BaseExtensionType)


def storable(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The column; as text if its type has a struct without fields, which parquet lacks.

    >>> storable(pa.array([{}, None])).to_pylist()
    ['{}', None]
    """
    has_empty = _has(column.type, lambda kind: pa.types.is_struct(kind) and not kind.num_fields)
    return pa.array(map(as_text, column.to_pylist()), pa.string()) if has_empty else column


def _has(kind: pa.DataType, is_wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or one in it, is as wanted."""
    return is_wanted(kind) or any(_has(kind.field(place).type, is_wanted) for place in range(kind.num_fields))


def as_text(value: object) -> str | None:
    """A value as text, in JSON if it is none already; None stays None.

    >>> as_text("a"), as_text([1, None]), as_text(None)
    ('a', '[1, null]', None)
    """
    if value is None:
        return None
    is_json = isinstance(value, dict | list | bool | int | float)
    text = json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)
    return text.encode("utf-8", "backslashreplace").decode()
