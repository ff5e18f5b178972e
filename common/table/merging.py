"""Merges parts into the score table: finds copies among all documents, and checks the result for silent faults."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.files import as_path, scratch
from common.shards.doc_id import DOC_ID_PATTERN
from common.shards.index import INDEX_SUFFIX, kept_schema, read_index
from common.table.guards import NUM_KEYS, representatives
from common.table.parts import Stretch, read_stretch
from common.table.schema import EXACT, NEAR, SCORES, SOURCE, STEPS_SCHEMA, TABLE_SCHEMA
from common.table.tables import table_writer
from common.text.kept import as_schema, common_schema, with_fitting, without_nulls


@dataclass
class Health:
    """Counts that show faults in scores although no step failed, collected table by table.

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
        """Add the rows of a table."""
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
        """A line for each fault."""
        num_finite = self.num_rows - self.num_not_finite
        if self.num_not_finite:
            yield (
                f"{self.num_not_finite:,} of {self.num_rows:,} documents have a loss that is not finite, the first is "
                f"{self.first_not_finite}; they are in the table and never ranked. Score with --dtype float32, or "
                "check the checkpoint"
            )
        if num_finite and self.num_zero == num_finite:
            yield "every score is 0: base and reference have the same losses, so there is nothing to rank"
        lowest, highest = self.reference_range
        if num_finite > 1 and highest - lowest <= 1e-6 * highest:
            yield (
                f"the reference has the same loss for every document, {lowest:.4f} nats: it predicts nothing, perhaps "
                "all its weights are zero. Make it with make_reference_model.py"
            )
        if num_finite and self.base_sum / num_finite > math.log(vocab_size):
            yield (
                f"the base model's mean loss, {self.base_sum / num_finite:.2f} nats, is worse than a guess among its "
                f"{vocab_size:,} tokens ({math.log(vocab_size):.2f}): wrong tokenizer, or damaged weights?"
            )


def merge_parts(stretches: Sequence[Stretch], out: Path, steps_out: Path | None = None) -> Health:
    """Write `out` (TSV) and the same as `.parquet` from the parts, one stretch at a time.

    Call it as the sole writer of `out`.

    Args:
        steps_out: where the steps of all documents go, as TSV and parquet; None leaves them out.
    Returns:
        Counts that show faults in the scores.
    Raises:
        InputError: a part is damaged, or there is no row.
    """
    health = Health()
    with scratch(out) as folder, ExitStack() as stack:
        of_each = dict(zip((EXACT, NEAR), _representatives(stretches, folder, out), strict=True))
        for_others = [of[of != np.arange(len(of))] for of in of_each.values()]
        names = _names(stretches, np.unique(np.concatenate(for_others)))
        sources = Sources(stretches)
        append = stack.enter_context(table_writer(out, pa.schema([*TABLE_SCHEMA, *sources.schema])))
        append_steps = stack.enter_context(table_writer(steps_out, STEPS_SCHEMA)) if steps_out else None
        for stretch in stretches:
            table = read_stretch(stretch)
            whole = table.drop_columns(["keys", "steps"])
            for name, of in of_each.items():
                alike = np.full(len(table), "", object)
                here = of[health.num_rows : health.num_rows + len(table)]
                others = np.flatnonzero(here != health.num_rows + np.arange(len(table)))
                alike[others] = [names[row] for row in here[others].tolist()]
                whole = whole.append_column(name, pa.array(alike, pa.string()))
            append(sources.beside(whole))
            if append_steps:
                append_steps(_steps(table))
            health.add(whole)
    return health


class Sources:
    """Where documents come from: looked up in the indexes of their shards.

    Attributes:
        schema: `SOURCE`, and the columns that were kept, of all shards.
    """

    def __init__(self, stretches: Iterable[Stretch]):
        doc_ids = (read_stretch(stretch, ["doc_id"])["doc_id"] for stretch in stretches)
        shards = dict.fromkeys(shard for each in doc_ids for shard in pc.unique(_place(each, "shard")).to_pylist())
        indexes = filter(Path.exists, map(_index, shards))
        kept = [(index, kept_schema(index)) for index in indexes]

        def checked(schema: pa.Schema) -> pa.Schema:
            for index, own in kept:
                if not own.equals(schema):  # types differ between shards: do they hold all values?
                    as_schema(read_index(index, own.names)[0], schema)
            return schema

        known = with_fitting(without_nulls(common_schema([own for _, own in kept])), checked)
        self.schema = pa.schema([*SOURCE, *known])
        self._read = lru_cache(maxsize=1)(self._read)

    def beside(self, table: pa.Table) -> pa.Table:
        """The same rows with these columns added; nulls where a shard has no index."""
        shards, starts = _place(table["doc_id"], "shard"), _place(table["doc_id"], "start").cast(pa.int64()).to_numpy()
        found, order, schema = [], [], pa.schema([*table.schema, *self.schema])
        for shard in pc.unique(shards).to_pylist():
            order.append(np.flatnonzero(pc.equal(shards, shard)))
            known, sources = self._read(shard)
            rows = np.searchsorted(known, starts[order[-1]])
            found.append(sources.take(pa.array(rows, mask=np.full(len(rows), not len(known)))))
        if not found:
            return pa.table([*table.columns, *self.schema.empty_table().columns], schema=schema)
        together = pa.concat_tables(found).take(np.argsort(np.concatenate(order)))
        return pa.table([*table.columns, *together.columns], schema=schema)

    def _read(self, shard: str) -> tuple[np.ndarray, pa.Table]:
        """Where the documents of a shard start, int64, and their sources."""
        if not _index(shard).exists():
            return np.empty(0, np.int64), as_schema(pa.table({"": [None]}), self.schema)
        table, _ = read_index(_index(shard))
        return table["start"].to_numpy(), as_schema(table, self.schema)


def _index(shard: str) -> Path:
    return as_path(shard + INDEX_SUFFIX)


def _place(doc_ids: pa.ChunkedArray, part: str) -> pa.ChunkedArray:
    """The shard, start or end of each document."""
    return pc.struct_field(pc.extract_regex(doc_ids, DOC_ID_PATTERN), part)


def _representatives(stretches: Sequence[Stretch], folder: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """As `guards.representatives`, for all documents in the parts; of copies, the one that repeats least."""
    repetition, not_finite = [], []
    with ExitStack() as stack:
        spills = [stack.enter_context((folder / f"keys{number}").open("wb")) for number in range(NUM_KEYS)]
        for stretch in stretches:
            table = read_stretch(stretch, ["AI_Score", "repetition", "keys"])
            repetition.append(table["repetition"].to_numpy())
            not_finite.append(~np.isfinite(table["AI_Score"].to_numpy()))
            keys = np.frombuffer(b"".join(table["keys"].to_pylist()), np.uint64).reshape(-1, NUM_KEYS)
            for spill, column in zip(spills, keys.T, strict=True):
                spill.write(column.tobytes())
    if not sum(map(len, repetition)):
        raise InputError(f"{out}: no document in the data has two or more tokens, so there are no scores to write")
    order = np.lexsort((np.concatenate(repetition), np.concatenate(not_finite)))
    return representatives([np.memmap(spill.name, np.uint64, "r") for spill in spills], order)


def _names(stretches: Sequence[Stretch], rows: np.ndarray) -> dict[int, str]:
    """The doc_ids of some rows, ascending."""
    names, first = {}, 0
    for stretch in stretches:
        doc_ids = read_stretch(stretch, ["doc_id"])["doc_id"]
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(doc_ids))]
        names.update(zip(here.tolist(), doc_ids.take(here - first).to_pylist(), strict=True))
        first += len(doc_ids)
    return names


def _steps(table: pa.Table) -> pa.Table:
    """The steps of a part's documents, one per row; `doc_id` is the step's own, so step 6 can show and rank it."""
    table = table.combine_chunks()
    lists = table["steps"].combine_chunks()
    parents, steps = pc.list_parent_indices(lists), pa.Table.from_struct_array(lists.flatten())
    documents = table.take(parents)
    places = pc.extract_regex(documents["doc_id"], DOC_ID_PATTERN)
    begins = pc.struct_field(places, "start").cast(pa.int64())
    starts, ends = pc.add(begins, steps["start"]), pc.add(begins, steps["end"])
    span = pc.binary_join_element_wise(starts.cast(pa.string()), ends.cast(pa.string()), "-")
    numbers = np.arange(len(steps)) - np.searchsorted(parents, parents)
    columns = {
        "doc_id": pc.binary_join_element_wise(pc.struct_field(places, "shard"), span, ":"),
        "domain": documents["domain"],
        "num_tokens": pc.subtract(ends, starts),
        **{name: steps[name] for name, _ in SCORES},
        "document": documents["doc_id"],
        "step": pa.array(numbers),
    }
    return pa.table(columns, schema=STEPS_SCHEMA)
