"""The table of scores: its columns, the parts it grows from, and reading it back.

`ai_scores.parquet` is the product and `ai_scores.tsv` the same rows for the eye:

    doc_id                                         domain  num_tokens  L_base    L_ref     AI_Score  repetition  …
    data/finewebsample/fineweb_train_000001:0-214  plays   214         3.412077  3.610552  0.058168  0.0421      …

What stands behind AI_Score is measured by guards.py: repetition, longest_run, compression, and two doc_ids, of the
document that stands for all that equal this one, and for all that nearly do; empty for a document that stands for
itself. A table of other making may lack these; then they read as nulls.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import as_path, atomic, scratch, source, undisturbed
from common.shards.documents import DOC_ID_PATTERN, parse_doc_id
from common.table.guards import KEY_BYTES, NUM_KEYS, stand_ins

SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("domain", pa.string()),
        ("num_tokens", pa.int64()),
        ("L_base", pa.float64()),
        ("L_ref", pa.float64()),
        ("AI_Score", pa.float64()),
    ]
)
MEASURES = [("repetition", pa.float64()), ("longest_run", pa.int64()), ("compression", pa.float64())]
EXACT, NEAR = "duplicate_of", "near_duplicate_of"
TABLE_SCHEMA = pa.schema([*SCHEMA, *MEASURES, (EXACT, pa.string()), (NEAR, pa.string())])
SLICES_SCHEMA = pa.schema([*TABLE_SCHEMA, ("shard", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
# A document's steps with their tokens counted from its first, and the table of all of them.
_STEPS = [("start", pa.int64()), ("end", pa.int64()), *list(SCHEMA)[3:]]
STEPS_SCHEMA = pa.schema([*SCHEMA, ("document", pa.string()), ("step", pa.int64())])
PART_SCHEMA = pa.schema([*SCHEMA, *MEASURES, ("keys", pa.binary(KEY_BYTES)), ("steps", pa.list_(pa.struct(_STEPS)))])

SECONDS_PER_PART = 30
WRITERS = 16  # parts written at once
BATCH_ROWS, BLOCK_BYTES = 2**18, 2**24  # read at once, from parquet and from TSV


@dataclass
class Health:
    """What can be wrong with scores although every step went through, gathered table by table.

    Attributes:
        num_rows: all rows.
        num_tokens: of all rows.
        num_not_finite: rows in which a loss or the score is NaN or infinite; `first_not_finite` is one of them.
        num_zero: rows whose score is 0.
        base_sum: of L_base over finite rows.
        reference_range: lowest and highest L_ref of finite rows.
    """

    num_rows: int = 0
    num_tokens: int = 0
    num_not_finite: int = 0
    first_not_finite: str = ""
    num_zero: int = 0
    base_sum: float = 0.0
    reference_range: tuple[float, float] = (math.inf, -math.inf)

    def add(self, table: pa.Table) -> None:
        """Take the rows of another table in."""
        base, reference, score = (table[name].to_numpy() for name in ("L_base", "L_ref", "AI_Score"))
        finite = np.isfinite(base) & np.isfinite(reference) & np.isfinite(score)
        if not finite.all():
            self.first_not_finite = self.first_not_finite or table["doc_id"][int(np.argmin(finite))].as_py()
        self.num_rows += len(table)
        self.num_tokens += pc.sum(table["num_tokens"]).as_py() or 0
        self.num_not_finite += int((~finite).sum())
        self.num_zero += int((score == 0).sum())
        self.base_sum += float(base[finite].sum())
        lowest, highest = self.reference_range
        self.reference_range = reference[finite].min(initial=lowest), reference[finite].max(initial=highest)

    def warnings(self, vocab_size: int) -> Iterator[str]:
        """A line for each thing that is wrong."""
        num_finite = self.num_rows - self.num_not_finite
        if self.num_not_finite:
            yield (
                f"{self.num_not_finite:,} of {self.num_rows:,} documents have a loss that is not finite, "
                f"{self.first_not_finite} the first; they stand in the table and are never ranked. Score with "
                "--dtype float32, or look at the checkpoint"
            )
        if num_finite and self.num_zero == num_finite:
            yield "every score is 0: base and reference give the same losses, so there is nothing to rank"
        lowest, highest = self.reference_range
        if num_finite > 1 and highest - lowest <= 1e-6 * highest:
            yield (
                f"the reference gives every document the same loss, {lowest:.4f} nats: it predicts nothing, its "
                "weights may be all zero. Make it with make_reference_model.py"
            )
        if num_finite and self.base_sum / num_finite > math.log(vocab_size):
            yield (
                f"the base model's mean loss, {self.base_sum / num_finite:.2f} nats, is worse than guessing among its "
                f"{vocab_size:,} tokens ({math.log(vocab_size):.2f}): other tokenizer, damaged weights?"
            )


class Parts:
    """The finished parts of a scoring run: parquet files, each of a stretch of one shard's documents.

    A part's name is a hash of its shard's name and the documents it covers, as rows of the shard. Parts are written
    every 30 seconds, when `flush` is called, and at the end of the `with` block, however it ends.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._found: dict[str, list[tuple[int, int, Path]]] = {}
        self._pending: list[tuple[str, int, int, list[tuple]]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> "Parts":
        for path in sorted(self.folder.glob(f"*.{'[0-9]' * 12}-{'[0-9]' * 12}.parquet")):
            shard, span, _ = path.name.split(".")
            self._found.setdefault(shard, []).append((*map(int, span.split("-")), path))
        return self

    def __exit__(self, *_error) -> None:
        self.flush()

    def add(self, shard_name: str, first: int, last: int, rows: list[tuple]) -> None:
        """Take in the rows of documents [first, last) of a shard."""
        self._pending.append((shard_name, first, last, rows))
        if time.monotonic() - self._flushed > SECONDS_PER_PART:
            self.flush()

    @undisturbed()  # a signal must not come between a thread and who waits for it
    def flush(self) -> None:
        """Write what was taken in, stretches that touch as one part."""
        pending, self._pending, self._flushed = self._pending, [], time.monotonic()
        writing: list[tuple] = []
        for shard_name, stretches in groupby(sorted(pending, key=itemgetter(0, 1)), key=itemgetter(0)):
            whole: list[tuple[int, int, list[tuple]]] = []
            for _, first, last, rows in stretches:
                if whole and whole[-1][1] == first:
                    whole[-1] = (whole[-1][0], last, whole[-1][2] + rows)
                else:
                    whole.append((first, last, rows))
            writing += [(_short(shard_name), *stretch) for stretch in whole]
        with ThreadPoolExecutor(WRITERS) as pool:  # hundreds of workers make hundreds of stretches
            for shard, part in pool.map(self._write, *zip(*writing, strict=True)) if writing else ():
                self._found.setdefault(shard, []).append(part)

    def _write(self, shard: str, first: int, last: int, rows: list[tuple]) -> tuple[str, tuple[int, int, Path]]:
        columns = list(zip(*rows, strict=True)) if rows else [[] for _ in PART_SCHEMA]
        path = self.folder / f"{shard}.{first:012d}-{last:012d}.parquet"
        with atomic(path) as tmp:
            table = pa.table([list(column) for column in columns], schema=PART_SCHEMA)
            pq.write_table(table, tmp, write_page_checksum=True)
        return shard, (first, last, path)

    def of_shard(self, shard_name: str) -> list[tuple[int, int, Path]]:
        """The parts of a shard, as (first row, row behind the last, file), by row and without overlap."""
        parts = []
        for first, last, path in sorted(self._found.get(_short(shard_name), [])):
            if not parts or first >= parts[-1][1]:
                parts.append((first, last, path))
        return parts

    def missing(self, shard_name: str, num_documents: int) -> list[range]:
        """Which of a shard's first `num_documents` documents no part covers."""
        edges = [0, *(edge for first, last, _ in self.of_shard(shard_name) for edge in (first, last)), num_documents]
        gaps = [range(edges[i], min(edges[i + 1], num_documents)) for i in range(0, len(edges), 2)]
        return [gap for gap in gaps if gap]


def _short(shard_name: str) -> str:
    return hashlib.sha256(shard_name.encode()).hexdigest()[:16]


@contextmanager
def table_writer(out: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Write a table as TSV and as its `.parquet` twin, both whole or not at all; yields what appends rows to both."""
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
            table.to_pandas().to_csv(text, sep="\t", index=False, header=False, float_format="%.10g", na_rep="nan")
            waiting.append(table)
            if sum(map(len, waiting)) >= BATCH_ROWS:
                write()

        text.write("\t".join(schema.names) + "\n")
        yield append
        write()


def merge_parts(parts: Sequence[Path], out: Path, steps_out: Path | None = None) -> Health:
    """Write `out` (TSV) and its `.parquet` twin from the parts, one at a time; returns what the rows look like.

    Call it as the sole writer of `out`.

    Args:
        steps_out: where the steps of all documents go, as TSV and parquet; None leaves them out.
    Raises:
        InputError: a part is damaged, or there is no row at all.
    """
    health = Health()
    with scratch(out) as folder, ExitStack() as stack:
        of_each = dict(zip((EXACT, NEAR), _stand_ins(parts, folder, out), strict=True))
        for_others = [of[of != np.arange(len(of))] for of in of_each.values()]
        names = _names(parts, np.unique(np.concatenate(for_others)))
        append = stack.enter_context(table_writer(out, TABLE_SCHEMA))
        append_steps = stack.enter_context(table_writer(steps_out, STEPS_SCHEMA)) if steps_out else None
        for part in parts:
            table = _read_part(part)
            whole = table.drop_columns(["keys", "steps"])
            for name, of in of_each.items():
                alike = np.full(len(table), "", object)
                here = of[health.num_rows : health.num_rows + len(table)]
                others = np.flatnonzero(here != health.num_rows + np.arange(len(table)))
                alike[others] = [names[row] for row in here[others].tolist()]
                whole = whole.append_column(name, pa.array(alike, pa.string()))
            append(whole)
            if append_steps:
                append_steps(_steps(table))
            health.add(whole)
    return health


def _stand_ins(parts: Sequence[Path], folder: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """As `guards.stand_ins`, of all documents in the parts, by row: of those alike, the one that repeats least."""
    repetition, not_finite = [], []
    with ExitStack() as stack:
        spills = [stack.enter_context((folder / f"keys{number}").open("wb")) for number in range(NUM_KEYS)]
        for part in parts:
            table = _read_part(part, ["AI_Score", "repetition", "keys"])
            repetition.append(table["repetition"].to_numpy())
            not_finite.append(~np.isfinite(table["AI_Score"].to_numpy()))
            keys = np.frombuffer(b"".join(table["keys"].to_pylist()), np.uint64).reshape(-1, NUM_KEYS)
            for spill, column in zip(spills, keys.T, strict=True):
                spill.write(column.tobytes())
    if not sum(map(len, repetition)):
        raise InputError(f"{out}: no document in the data has two tokens or more, so there are no scores to write")
    order = np.lexsort((np.concatenate(repetition), np.concatenate(not_finite)))
    return stand_ins([np.memmap(spill.name, np.uint64, "r") for spill in spills], order)


def _names(parts: Sequence[Path], rows: np.ndarray) -> dict[int, str]:
    """The doc_ids of some rows, ascending."""
    names, first = {}, 0
    for part in parts:
        doc_ids = _read_part(part, ["doc_id"])["doc_id"]
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(doc_ids))]
        names.update(zip(here.tolist(), doc_ids.take(here - first).to_pylist(), strict=True))
        first += len(doc_ids)
    return names


def _read_part(part: Path, columns: list[str] | None = None) -> pa.Table:
    schema = pa.schema([PART_SCHEMA.field(name) for name in columns or PART_SCHEMA.names])
    try:
        return pq.read_table(source(part), columns=columns, page_checksum_verification=True).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{part}: damaged ({error}); delete it and run this again to score it anew") from None


def _steps(table: pa.Table) -> pa.Table:
    """The steps of a part's documents, a row each; `doc_id` is the step's own, so it can be looked at and ranked."""
    table = table.combine_chunks()
    lists = table["steps"].combine_chunks()
    parents, steps = pc.list_parent_indices(lists), pa.Table.from_struct_array(lists.flatten())
    documents = table.take(parents)
    places = pc.extract_regex(documents["doc_id"], DOC_ID_PATTERN)
    begins = pc.struct_field(places, "start").cast(pa.int64())
    starts, ends = pc.add(begins, steps["start"]), pc.add(begins, steps["end"])
    span = pc.binary_join_element_wise(starts.cast(pa.string()), ends.cast(pa.string()), "-")
    numbers = np.arange(len(steps)) - np.searchsorted(parents, parents)
    columns = [
        pc.binary_join_element_wise(pc.struct_field(places, "shard"), span, ":"),
        documents["domain"],
        pc.subtract(ends, starts),
        *(steps[name] for name in ("L_base", "L_ref", "AI_Score")),
        documents["doc_id"],
        pa.array(numbers),
    ]
    return pa.table(columns, schema=STEPS_SCHEMA)


def read_score_batches(path: Path) -> Iterator[pa.Table]:
    """Read a table of scores from TSV or parquet, some hundred thousand rows at a time.

    Raises:
        InputError: it is neither, lacks a column, has a broken row or none at all; names file, column or row.
    """
    path = as_path(path)
    make = "make it with attention_influence_scoring.py"
    if not path.exists():
        raise InputError(f"{path}: no such file; {make}")
    num_rows = 0
    try:
        with _opened(path) as (names, batches):
            missing = [name for name in SCHEMA.names if name not in names]
            if missing:
                raise InputError(f"{path}: no column {missing[0]!r}, only {', '.join(names)}; {make}")
            for batch in batches:
                table = pa.Table.from_batches([batch])
                table.validate(full=True)
                for field in TABLE_SCHEMA:
                    if field.name not in names:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                table = table.select(TABLE_SCHEMA.names).cast(TABLE_SCHEMA)
                table = table.set_column(1, "domain", pc.fill_null(table["domain"], ""))
                _check_rows(path, table, num_rows, make)
                num_rows += len(table)
                yield table
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path}: not a table of scores ({error}); {make}") from None
    if not num_rows:
        raise InputError(f"{path}: no rows in it; {make}")


def count_rows(path: Path) -> int | None:
    """How many rows a table has, where its format says so: parquet does, if it is one."""
    with suppress(OSError, pa.ArrowException):
        return pq.read_metadata(source(path)).num_rows
    return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Iterator[pa.RecordBatch]]]:
    """The names of a table's columns, and its batches."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(source(path), pre_buffer=False) as file:  # which would keep all of it in memory
            names = file.schema_arrow.names
            wanted = [name for name in TABLE_SCHEMA.names if name in names]
            yield names, file.iter_batches(BATCH_ROWS, columns=wanted)
    else:
        types = pa.csv.ConvertOptions(column_types=TABLE_SCHEMA, null_values=["", "nan"], strings_can_be_null=False)
        # One thread, because only then an error names the row.
        reading = pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        with pa.csv.open_csv(source(path), reading, pa.csv.ParseOptions(delimiter="\t"), types) as file:
            yield file.schema.names, iter(file)


def _check_rows(path: Path, table: pa.Table, first_row: int, make: str) -> None:
    """Raise InputError for a row without a doc_id or a length, or with text that would break a table."""
    alike = (pc.fill_null(table[name], "") for name in (EXACT, NEAR))
    text = pc.binary_join_element_wise(table["doc_id"], table["domain"], *alike, "")
    wrong = pc.or_kleene(
        pc.fill_null(pc.less(table["num_tokens"], 1), True),
        pc.fill_null(pc.match_substring_regex(text, r"\pC"), True),
    )
    if pc.any(wrong).as_py():
        raise InputError(
            f"{path}: row {first_row + wrong.index(True).as_py() + 1} lacks a doc_id or a number of tokens, or holds a "
            f"control character; {make}"
        )


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores whole; InputError as `read_score_batches`."""
    return pa.concat_tables(read_score_batches(path)).to_pandas()


def with_slices(table: pa.Table) -> pa.Table:
    """Add what a loader needs to read each document: `shard` (the `.bin` file), `start` and `end` in tokens."""
    places = pc.extract_regex(table["doc_id"], DOC_ID_PATTERN)
    starts, ends = (pc.struct_field(places, name).cast(pa.int64()) for name in ("start", "end"))
    wrong = pc.fill_null(pc.greater_equal(starts, ends), True)
    if pc.any(wrong).as_py():
        parse_doc_id(table["doc_id"][wrong.index(True).as_py()].as_py())  # which says what is wrong with it
    shards = pc.binary_join_element_wise(pc.struct_field(places, "shard"), ".bin", "")
    return table.append_column("shard", shards).append_column("start", starts).append_column("end", ends)
