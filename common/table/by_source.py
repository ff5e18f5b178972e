"""A score table or a selection in the order of where its documents come from: files and their rows, or shards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import for_pyarrow
from common.table.schema import RANK_SCORE, TABLE_SCHEMA
from common.table.tables import duckdb_errors, read_score_batches, with_slices

MEMORY, BATCH_ROWS = "1GB", 2**14
ADDED = [("id", pa.string()), ("text_hash", pa.uint64())]
PLACES = [("place", pa.string()), ("first", pa.int64()), ("last", pa.int64())]
COLUMNS = pa.schema([*TABLE_SCHEMA, *ADDED, *PLACES])


@dataclass(frozen=True)
class Place:
    """A file or a shard.

    Attributes:
        doc_id: of one of its documents.
        begin, end: its rows in the ordered table, half-open.
    """

    name: str
    doc_id: str
    begin: int
    end: int


@dataclass(frozen=True)
class BySource:
    """The rows of a table by file and row, or by shard and token.

    Attributes:
        places: the files or shards, by name.
        connect: opens a connection to a database that has the rows as `ordered`.
        more: columns of the rows after those of `COLUMNS`.
    """

    places: list[Place]
    connect: Callable[[], duckdb.DuckDBPyConnection]
    more: list[str]

    def __len__(self) -> int:
        return self.places[-1].end

    def spans(self, begin: int, end: int) -> np.ndarray:
        """For some rows, the row in the file and -1, or first and last + 1 token in the shard; int64, [num_rows, 2]."""
        found = self._select('"first", coalesce("last", -1) AS "last"', begin, end).fetchnumpy()
        return np.stack([found["first"], found["last"]], axis=1)

    def rows(self, begin: int, end: int) -> "Stream":
        """Some rows, with the columns of `TABLE_SCHEMA`, id and text_hash."""
        names = ", ".join(f'"{name}"' for name in [*COLUMNS.names[: -len(PLACES)], *self.more])
        batches = self._select(names, begin, end).to_arrow_reader(BATCH_ROWS)
        return Stream(pa.Table.from_batches([batch]) for batch in batches)

    def _select(self, what: str, begin: int, end: int) -> duckdb.DuckDBPyRelation:
        where = f"rowid >= {begin} AND rowid < {end}"  # a query without an order gives them as they were inserted
        return self.connect().sql(f"SELECT {what} FROM ordered WHERE {where}")


class Stream:
    """Rows of tables that follow each other."""

    def __init__(self, tables: Iterator[pa.Table]):
        self._tables = tables
        self._waiting: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        """The next rows."""
        while self._waiting is None or len(self._waiting) < count:
            following = next(self._tables)
            self._waiting = pa.concat_tables([self._waiting, following]) if self._waiting else following
        taken, self._waiting = self._waiting.slice(0, count), self._waiting.slice(count)
        return taken


@contextmanager
def by_source(path: Path, folder: Path, of_shards: bool = False) -> Iterator[BySource]:
    """Sort a table; DuckDB does it, on disk if there are many rows.

    Args:
        folder: an empty folder for the sorted rows.
        of_shards: by shard, not by file.
    Raises:
        InputError: as in `read_score_batches`; or the table does not say from which files its documents come.
    """
    settings = {"memory_limit": MEMORY, "temp_directory": str(folder / "spilled")}
    with (
        duckdb_errors(f"{path}: cannot be sorted in {folder}"),
        duckdb.connect(config=settings) as database,
    ):
        ranks = _rank_scores(path)
        for number, table in enumerate(read_score_batches(path)):
            try:
                batch = _placed(path, table, of_shards)
                if ranks:
                    batch = batch.append_column(RANK_SCORE, ranks.take(len(batch))[RANK_SCORE])
            except pa.ArrowException as error:
                raise InputError(f"{path}: file, row or text_hash have another type ({error}); score again") from None
            database.register("batch", batch)
            database.sql(f"{'INSERT INTO found' if number else 'CREATE TABLE found AS'} SELECT * FROM batch")
        database.sql('CREATE TABLE ordered AS SELECT * FROM found ORDER BY place, "first", doc_id')
        database.sql("DROP TABLE found")
        counts = database.sql("SELECT place, min(doc_id), count(*) FROM ordered GROUP BY place ORDER BY place")
        places, end = [], 0
        for name, doc_id, count in counts.fetchall():
            places.append(Place(name, doc_id, end, end := end + count))
        with ExitStack() as cursors:
            yield BySource(places, lambda: cursors.enter_context(database.cursor()), [RANK_SCORE] if ranks else [])


def _rank_scores(path: Path) -> Stream | None:
    """What a selection was ranked by, if it was another score than AI_Score; in the order of its rows."""
    try:
        if path.suffix != ".parquet" or RANK_SCORE not in pq.read_schema(for_pyarrow(path)).names:
            return None
    except (OSError, pa.ArrowException):  # it is reported when the rows are read
        return None
    batches = pq.ParquetFile(for_pyarrow(path)).iter_batches(columns=[RANK_SCORE])
    return Stream(pa.Table.from_batches([batch]) for batch in batches)


def _placed(path: Path, table: pa.Table, of_shards: bool) -> pa.Table:
    """The columns of `COLUMNS`."""
    hashed = "text_hash" in table.column_names and pa.types.is_integer(table.schema.field("text_hash").type)
    columns = {name: table[name] for name in TABLE_SCHEMA.names}
    columns["id"] = table["id"] if "id" in table.column_names else pa.nulls(len(table))
    columns["text_hash"] = table["text_hash"] if hashed else pa.nulls(len(table))
    if of_shards:
        sliced = with_slices(table, f"{path}: doc_id")
        places = [sliced[name] for name in ("shard", "start", "end")]
    else:
        places = [*_rows_of_files(path, table), pa.nulls(len(table))]
    columns |= dict(zip(COLUMNS.names[-len(PLACES) :], places, strict=True))
    return pa.table(columns).cast(COLUMNS)


def _rows_of_files(path: Path, table: pa.Table) -> list[pa.ChunkedArray]:
    without = table["doc_id"][0]
    if {"file", "row"} <= {*table.column_names}:
        files, rows = table["file"].cast(pa.string()), table["row"].cast(pa.int64())
        known = pc.and_(pc.greater(pc.utf8_length(files), 0), pc.is_valid(rows))
        known = pc.fill_null(known, False)
        if pc.all(known).as_py():
            return [files, rows]
        without = table["doc_id"][known.index(False).as_py()]
    raise InputError(
        f"{path}: does not say in which file document {without} is; tokenize and score files with fineweb.py --input, "
        "or take the texts from the shards with export_selection.py --from_tokens"
    )
