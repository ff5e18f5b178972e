"""Expressions of users over the columns of a table, such as `language_score > 0.8`, checked before they are used.

An expression is SQL of DuckDB: columns, constants, operators and functions. A column whose name is not a plain word
stands in double quotes.
"""

import json
from collections.abc import Iterator

import duckdb

from common.errors import InputError, few
from common.table.tables import quoted, reason

# The rank of x within its domain, from 0 to 1: of equal values the mean of their ranks, by the number of values.
# A NaN is no value. Before there are ranks, the second says whether there will be one.
PCT = """CREATE OR REPLACE TEMP MACRO pct(x, domain) AS CASE WHEN isfinite(x::DOUBLE) THEN
    (rank() OVER (PARTITION BY domain, isfinite(x::DOUBLE) ORDER BY x::DOUBLE)
        + count(*) OVER (PARTITION BY domain, isfinite(x::DOUBLE) ORDER BY x::DOUBLE))
    / 2 / count(*) OVER (PARTITION BY domain, isfinite(x::DOUBLE)) END"""
PCT_LATER = "CREATE OR REPLACE TEMP MACRO pct(x, domain) AS CASE WHEN isfinite(x::DOUBLE) THEN 1.0::DOUBLE END"
NUMBERS = {f"{sign}{size}int" for sign in ("", "u") for size in ("tiny", "small", "big", "huge")}
NUMBERS |= {"integer", "uinteger", "float", "double", "decimal"}
REFUSED = {"SUBQUERY": "a query", "STAR": "*", "WINDOW": "OVER"}


def checked(columns: duckdb.DuckDBPyRelation, flag: str, text: str, is_truth: bool) -> str:
    """The expression `text` for queries that have a table of these columns, one of which is `domain`.

    Nothing is read: it is bound to an empty table in a database that opens no file.

    Args:
        columns: a relation with the columns.
        flag: where the expression stands, for messages.
        is_truth: whether it has to be true or false, or a number.
    Raises:
        InputError: it is no such expression, or names a column that is not there.
    """
    with duckdb.connect(config={"enable_external_access": "false"}) as database:
        types = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(columns.columns, columns.types, strict=True))
        try:
            tree = json.loads(database.execute("SELECT json_serialize_sql(?)", [f"SELECT ({text}\n)"]).fetchone()[0])
            _check_words(tree, flag, columns.columns)
            [query] = database.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchone()
            expression = f"({query.removeprefix('SELECT ')})"
            database.sql(f"CREATE TABLE source ({types})")
            database.sql(PCT)
            database.sql(f"SELECT {expression} FROM source")
            database.sql(PCT_LATER)
            database.sql(f"SELECT 1 FROM source WHERE {expression} IS NOT NULL")  # refuses sums over rows
            [kind] = database.sql(f"SELECT {expression} FROM source").types
        except duckdb.Error as error:
            raise InputError(f"{flag} {text}: {reason(error)}") from None
        except InputError as error:
            raise InputError(f"{flag} {text}: {error}") from None
    if not (kind.id == "boolean" if is_truth else kind.id in NUMBERS):
        wanted = "true or false, such as num_tokens > 64" if is_truth else "a number"
        raise InputError(f"{flag} {text}: gives {kind}, not {wanted}")
    return expression


def finite(column: str) -> str:
    """A column as a float, null where that is not finite."""
    return f"CASE WHEN isfinite({column}::DOUBLE) THEN {column}::DOUBLE END"


def _check_words(tree: dict, flag: str, columns: list[str]) -> None:
    """Raise InputError for what no expression may hold; gives `pct` the domain, in the tree."""
    if tree["error"]:
        raise InputError(f"not an expression ({tree['error_message']})")
    nodes = list(_nodes(tree))
    for node in nodes:
        if node.get("class") in REFUSED:
            raise InputError(f"holds {REFUSED[node['class']]}; use columns, numbers and functions alone")
        if node.get("function_name") == "pct":
            if flag != "--score":
                raise InputError("pct(...) is for --score alone: it ranks the documents that are left")
            node["children"].append({"class": "COLUMN_REF", "type": "COLUMN_REF", "column_names": ["domain"]})
    own = {name for node in nodes if node.get("class") == "LAMBDA" for name in node["lhs"]["column_names"]}
    for node in nodes:
        for name in node.get("column_names", [])[:1]:
            if name not in {*columns, *own}:
                raise InputError(f"no column {name!r}, only {few(columns)}")


def _nodes(tree: object) -> Iterator[dict]:
    """All objects in a JSON value."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(child)
