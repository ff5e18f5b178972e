"""Reading score tables, TSV or parquet, a batch of rows at a time, and writing tables in both formats."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from common.errors import InputError, few
from common.files import as_path, atomic, for_pyarrow, is_url
from common.shards.doc_id import ARRAY, DOC_ID_PATTERN
from common.table.schema import EXACT, NEAR, RANK_SCORE, SCHEMA, SLICES, SOURCE, TABLE_SCHEMA

BATCH_ROWS, BLOCK_BYTES = 2**18, 2**24  # read at once, from parquet and from TSV
MOST_TOKENS = 2**32  # in a document; so that sums over a table are exact
TSV = "(FORMAT csv, HEADER, DELIMITER '\t', NULLSTR 'nan')"
ROW_NUMBER = "file_row_number"  # DuckDB's name for a row's place in a parquet file
SQL = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}
MAKE_SCORES = "make it with attention_influence_scoring.py"


@contextmanager
def table_writer(out: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Write a table as TSV and as parquet, both whole or not at all; yields a function that appends rows to both.

    In the TSV, numbers have 10 digits, nested values are JSON, and nulls are `nan`.
    """
    waiting: list[pa.Table] = []
    with atomic(out) as tsv, atomic(out.with_suffix(".parquet")) as parquet:
        with pq.ParquetWriter(parquet, schema) as writer:

            def write() -> None:
                if waiting:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=BATCH_ROWS)
                    waiting.clear()

            def append(table: pa.Table) -> None:
                waiting.append(table)
                if sum(map(len, waiting)) >= BATCH_ROWS:
                    write()

            yield append
            write()
        with duckdb_errors(f"{out}: cannot be written"), duckdb.connect() as database:
            columns = database.sql(f"SELECT * EXCLUDE file_row_number FROM {scanned(parquet)}")
            cells = map(_cell, columns.columns, schema.names, schema.types)
            columns.query("rows", f"COPY (SELECT {', '.join(cells)} FROM rows) TO {literal(tsv)} {TSV}")
        parquet.touch()  # not older than the TSV, which is how `as_parquet` knows that both have the same rows


def _cell(column: str, name: str, kind: pa.DataType) -> str:
    """A column of a query whose values are those of a TSV."""
    value = quoted(column)
    if pa.types.is_floating(kind):
        value = f"format('{{:.10g}}', {value}::DOUBLE)"
    elif pa.types.is_nested(kind):
        value = f"to_json({value})"
    return f"{value} AS {quoted(name)}"


def read_score_batches(path: Path) -> Iterator[pa.Table]:
    """Read a score table from TSV or parquet, some hundred thousand rows at a time.

    Yields:
        Tables with the columns of `TABLE_SCHEMA`, nulls where the table lacks them, and then its other columns with
        their own types; those of a selection's place are left out.
    Raises:
        InputError: it is neither, lacks a column, has a broken row or no row; names file, column or row.
    """
    path = as_path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; {MAKE_SCORES}")
    num_rows = 0
    try:
        with _opened(path) as (names, batches):
            for name in dict.fromkeys([*SCHEMA.names, *names]):
                if name not in names:
                    raise InputError(f"{path}: no column {name!r}, only {few(names)}; {MAKE_SCORES}")
                if names.count(name) > 1:
                    raise InputError(f"{path}: the column {name!r} is there twice; {MAKE_SCORES}")
            for batch in batches:
                _check_types(path, batch.schema)
                table = pa.Table.from_batches([batch])
                table.validate(full=True)
                for field in TABLE_SCHEMA:
                    if field.name not in names:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                schema = whole_schema(table.schema)
                table = table.select(schema.names).cast(schema)
                place = table.column_names.index("domain")
                table = table.set_column(place, "domain", pc.fill_null(table["domain"], ""))
                for name in (EXACT, NEAR):  # a null is written as nan to TSV, where all text is read as text
                    known = pc.if_else(pc.equal(table[name], "nan"), pa.scalar(None, pa.string()), table[name])
                    table = table.set_column(table.column_names.index(name), name, known)
                _check_rows(path, table, num_rows)
                num_rows += len(table)
                yield table
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path}: not a score table ({error}); {MAKE_SCORES}") from None
    if not num_rows:
        raise InputError(f"{path}: no rows in it; {MAKE_SCORES}")


@contextmanager
def duckdb_errors(what: str) -> Iterator[None]:
    """Turn what DuckDB raises into an InputError that begins with `what`, an interrupted query into the interrupt."""
    try:
        yield
    except duckdb.Error as error:
        raise InputError(f"{what} ({reason(error)}); fix that and run the same command again") from None
    except RuntimeError as error:
        if "nterrupt" not in str(error):
            raise
        raise (error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else KeyboardInterrupt) from None


def reason(error: Exception) -> str:
    """What DuckDB says, without the query."""
    return str(error).partition("\n\nLINE")[0].partition(": ")[2]


def quoted(name: str) -> str:
    """A column's name in a query."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """A text in a query."""
    return "'" + str(text).replace("'", "''") + "'"


def scanned(path: Path) -> str:
    """A parquet file in a query, with the column `file_row_number`; its name may hold characters of globs."""
    escaped = re.sub(r"([*?[])", r"[\1]", str(path))
    return f"read_parquet({literal(escaped)}, file_row_number = true)"


def count_rows(path: Path) -> int | None:
    """The number of rows of a parquet file; None for other files."""
    with suppress(OSError, pa.ArrowException):
        return pq.read_metadata(for_pyarrow(path)).num_rows
    return None


def whole_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a score table that is read from columns of this schema; those that a selection adds go."""
    added = {*TABLE_SCHEMA.names, *SLICES.names, RANK_SCORE}
    return pa.schema([*TABLE_SCHEMA, *(field for field in schema if field.name not in added)])


def as_parquet(path: Path, folder: Path, watch: Callable) -> tuple[Path, pa.Schema]:
    """A score table as a parquet file on this disk, with the schema of `whole_schema`.

    That is the table itself if it is such a file, or the file next to a TSV that has not been changed since both were
    written. Others are read, checked and written into `folder`.

    Raises:
        InputError: as in `read_score_batches`; rows of a parquet file on this disk are not checked.
    """
    if not is_url(path) and _is_as_written(path):
        path = path.with_suffix(".parquet")
    if path.suffix == ".parquet" and not is_url(path):
        with suppress(OSError, pa.ArrowException), pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if file.metadata.num_rows and _is_plain(schema):
                return path.resolve(), whole_schema(schema)
    copy = folder / "scores.parquet"
    with ExitStack() as stack:
        writer = None
        for table in watch(read_score_batches(path), "reading", count_rows(path)):
            writer = writer or stack.enter_context(pq.ParquetWriter(copy, table.schema))
            writer.write_table(table)
    return copy, table.schema


def _is_as_written(tsv: Path) -> bool:
    """Whether a TSV is still as `table_writer` wrote it, the parquet next to it last: then both have the same rows."""
    if tsv.suffix != ".tsv" or not (parquet := tsv.with_suffix(".parquet")).exists():
        return False
    return tsv.stat().st_mtime_ns <= parquet.stat().st_mtime_ns


def _is_plain(schema: pa.Schema) -> bool:
    """Whether a score table of this schema has our types, up to how text is laid out, and each column once."""
    text = (pa.string(), pa.large_string(), pa.string_view())
    ours = [(field.type, schema.field(field.name).type) for field in TABLE_SCHEMA if field.name in schema.names]
    has_types = all(kind == wanted or (wanted in text and kind in text) for wanted, kind in ours)
    return has_types and {*SCHEMA.names} <= {*schema.names} and len({*schema.names}) == len(schema.names)


def source_view(database: duckdb.DuckDBPyConnection, path: Path) -> str:
    """A query that makes `source`: the rows of a file of `as_parquet`, and `file_row_number`."""
    schema = pq.read_schema(path)
    if ROW_NUMBER in schema.names:
        raise InputError(f"{path}: the column {ROW_NUMBER!r} has a name that ranking needs; give it another")
    # DuckDB does not tell names apart that differ in case: it gives the second a number.
    known = dict(zip(schema.names, database.sql(f"FROM {scanned(path)}").columns, strict=False))
    ours, columns = {name.lower() for name in TABLE_SCHEMA.names}, []
    for field in whole_schema(schema):
        name = field.name if field.name in TABLE_SCHEMA.names else known[field.name]
        value = quoted(known[field.name]) if field.name in known else f"NULL::{SQL[field.type]}"
        if name in ("domain", EXACT, NEAR):
            value = f"coalesce({value}, '')" if name == "domain" else f"nullif({value}, 'nan')"
        if name not in TABLE_SCHEMA.names and name.lower() in ours:
            name = f"{name}_1"
        columns.append(f"{value} AS {quoted(name)}")
    return f"CREATE OR REPLACE TEMP VIEW source AS SELECT {', '.join(columns)}, {ROW_NUMBER} FROM {scanned(path)}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Iterator[pa.RecordBatch]]]:
    """The names of a table's columns, and its batches."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(for_pyarrow(path), pre_buffer=False) as file:  # pre-buffering keeps the file in memory
            yield file.schema_arrow.names, file.iter_batches(BATCH_ROWS)
    else:
        # With more than one thread, an error does not name the row.
        reading = pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        parsing = pa.csv.ParseOptions(delimiter="\t", newlines_in_values=True)
        with pa.csv.open_csv(for_pyarrow(path), reading, parsing) as file:
            names = file.schema.names
        ours = pa.schema([*TABLE_SCHEMA, *SOURCE])
        others = _guessed(path, [name for name in names if name not in ours.names])
        types = pa.csv.ConvertOptions(
            column_types=pa.schema([*ours, *others]), null_values=["", "nan"], strings_can_be_null=False
        )
        with pa.csv.open_csv(for_pyarrow(path), reading, parsing, types) as file:
            yield names, iter(file)


def _guessed(path: Path, names: list[str]) -> list[tuple[str, pa.DataType]]:
    """The types of some columns of a TSV, from all their values: whole numbers, numbers, truth values, or text."""
    kinds = {}
    with suppress(duckdb.Error), duckdb.connect() as database:
        if names and not is_url(path):
            found = database.read_csv(str(path), delimiter="\t", header=True, sample_size=-1, na_values=["", "nan"])
            kinds = dict(zip(found.columns, map(str, found.types), strict=True))
    known = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_()}
    return [(name, known.get(kinds.get(name), pa.string())) for name in names]


def _check_types(path: Path, schema: pa.Schema) -> None:
    """Raise InputError for a column that pyarrow casts to another meaning; a domain may be anything that is text."""
    for name, kind in zip(schema.names, schema.types, strict=True):
        if (
            name in TABLE_SCHEMA.names
            and name != "domain"
            and (pa.types.is_boolean(kind) or pa.types.is_temporal(kind))
        ):
            raise InputError(
                f"{path}: the column {name!r} is {kind}, not {TABLE_SCHEMA.field(name).type}; {MAKE_SCORES}"
            )


def _check_rows(path: Path, table: pa.Table, first_row: int) -> None:
    """Raise InputError for a row without a doc_id or a length, or with text that would break a table."""
    alike = (pc.fill_null(table[name], "") for name in (EXACT, NEAR))
    text = pc.binary_join_element_wise(table["doc_id"], table["domain"], *alike, "")
    in_range = pc.and_(pc.greater(table["num_tokens"], 0), pc.less_equal(table["num_tokens"], MOST_TOKENS))
    wrong = pc.or_kleene(
        pc.fill_null(pc.invert(in_range), True),
        pc.fill_null(pc.match_substring_regex(text, r"\pC"), True),
    )
    if pc.any(wrong).as_py():
        raise broken_row(path, first_row + wrong.index(True).as_py())


def broken_row(path: Path, row: int) -> InputError:
    """What is wrong with a row of a table, counted from 0."""
    return InputError(
        f"{path}: row {row + 1} lacks a doc_id or a number of tokens from 1 to {MOST_TOKENS:,}, or holds a control "
        f"character; {MAKE_SCORES}"
    )


def column_names(path: Path) -> list[str]:
    """All columns of a score table that was read before, also those of a selection's place."""
    with _opened(as_path(path)) as (names, _):
        return names


def read_scores(path: Path) -> pd.DataFrame:
    """Read a whole score table; InputError as in `read_score_batches`."""
    return pa.concat_tables(read_score_batches(path)).to_pandas()


def with_slices(table: pa.Table, where: str = "doc_id") -> pa.Table:
    """Add the columns that say where each document is: `shard` (its file), `start` and `end` (in tokens).

    Raises:
        InputError: a doc_id has another form; `where` stands before it in the message.
    """
    places = pc.extract_regex(table["doc_id"], DOC_ID_PATTERN)
    starts, ends = (pc.struct_field(places, name).cast(pa.int64()) for name in ("start", "end"))
    wrong = pc.fill_null(pc.greater_equal(starts, ends), True)
    if pc.any(wrong).as_py():
        doc_id = table["doc_id"][wrong.index(True).as_py()].as_py()
        raise InputError(f"{where} {doc_id!r} is no path/of/shard:start-end with start below end; {MAKE_SCORES}")
    names = pc.struct_field(places, "shard")
    suffixes = pc.if_else(pc.ends_with(names, ARRAY), "", ".bin")
    shards = pc.binary_join_element_wise(names, suffixes, "")
    return table.append_column("shard", shards).append_column("start", starts).append_column("end", ends)
