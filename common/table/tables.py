"""Reading score tables, TSV or parquet, a batch of rows at a time, and writing tables in both formats."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import as_path, atomic, for_pyarrow
from common.shards.doc_id import ARRAY, DOC_ID_PATTERN
from common.table.schema import EXACT, NEAR, SCHEMA, SLICES, SOURCE, TABLE_SCHEMA

BATCH_ROWS, BLOCK_BYTES = 2**18, 2**24  # read at once, from parquet and from TSV
MOST_TOKENS = 2**32  # in a document; so that sums over a table are exact
MOST_NAMES, NAME_CHARS = 6, 40  # in a message
MAKE_SCORES = "make it with attention_influence_scoring.py"


@contextmanager
def table_writer(out: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Write a table as TSV and as parquet, both whole or not at all; yields a function that appends rows to both."""
    waiting: list[pa.Table] = []
    with (
        atomic(out) as tsv,
        atomic(out.with_suffix(".parquet")) as parquet,
        pq.ParquetWriter(parquet, schema) as writer,
        tsv.open("w", encoding="utf-8") as text,
    ):

        def write() -> None:
            if waiting:
                writer.write_table(pa.concat_tables(waiting), row_group_size=BATCH_ROWS)
                waiting.clear()

        def append(table: pa.Table) -> None:
            plain = (_as_json(column) if pa.types.is_nested(column.type) else column for column in table.columns)
            rows = pa.table(list(plain), table.column_names).to_pandas()
            rows.to_csv(text, sep="\t", index=False, header=False, float_format="%.10g", na_rep="nan")
            waiting.append(table)
            if sum(map(len, waiting)) >= BATCH_ROWS:
                write()

        text.write("\t".join(schema.names) + "\n")
        yield append
        write()


def _as_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = (
        None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in column.to_pylist()
    )
    return pa.chunked_array([pa.array(texts, pa.string())])


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
                others = [name for name in table.column_names if name not in {*TABLE_SCHEMA.names, *SLICES.names}]
                table = table.select([*TABLE_SCHEMA.names, *others])
                table = table.cast(pa.schema([*TABLE_SCHEMA, *(table.schema.field(name) for name in others)]))
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


def few(names: Sequence[str]) -> str:
    """The first names, each up to a length, and how many more there are: short enough for a message."""
    shown = ", ".join(repr(name[:NAME_CHARS]) for name in names[:MOST_NAMES])
    return f"{shown} and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else shown


def count_rows(path: Path) -> int | None:
    """The number of rows of a parquet file; None for other files."""
    with suppress(OSError, pa.ArrowException):
        return pq.read_metadata(for_pyarrow(path)).num_rows
    return None


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
        others = [(name, pa.string()) for name in names if name not in ours.names]
        types = pa.csv.ConvertOptions(
            column_types=pa.schema([*ours, *others]), null_values=["", "nan"], strings_can_be_null=False
        )
        with pa.csv.open_csv(for_pyarrow(path), reading, parsing, types) as file:
            yield names, iter(file)


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
        raise InputError(
            f"{path}: row {first_row + wrong.index(True).as_py() + 1} lacks a doc_id or a number of tokens from 1 to "
            f"{MOST_TOKENS:,}, or holds a control character; {MAKE_SCORES}"
        )


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
