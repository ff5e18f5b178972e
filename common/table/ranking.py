"""The best documents of each domain, from tables of any length: DuckDB sorts, on disk if memory is too small."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.table.schema import EXACT, NEAR, NO_DOMAIN, STATES_SCHEMA
from common.table.tables import BATCH_ROWS, count_rows, few, read_score_batches

MEMORY = "1GB"
SHOWN, SAMPLE = 24, 2000  # domains in a table or picture, and documents of each domain in a picture
FEW = 20  # documents, which may well be each a domain of its own
COPY_OF = {"exact": EXACT, "near": NEAR}


@dataclass(frozen=True)
class Limits:
    """Which documents are left out before a domain is ranked.

    Attributes:
        max_repetition: documents that repeat more than this share of their tokens.
        dedup: copies of another document with a finite score, `exact` or `near`; or `none`.
    """

    max_repetition: float = 1.0
    dedup: str = "none"

    def left_out_by(self, path: Path, table: pa.Table) -> pa.Array:
        """For each row, the first limit that leaves it out, or null; InputError if the table lacks its column."""
        found = pa.nulls(len(table), pa.string())
        if self.dedup != "none":
            other = _known(path, table, COPY_OF[self.dedup], "--dedup none")
            is_copy = pc.and_(pc.not_equal(other, ""), pc.not_equal(other, table["doc_id"]))
            found = pc.if_else(is_copy, "duplicates", found)
        if self.max_repetition < 1:
            repetition = _known(path, table, "repetition", "--max_repetition 1")
            found = pc.if_else(pc.greater(repetition, self.max_repetition), "repetitive", found)
        return found


def _known(path: Path, table: pa.Table, column: str, without: str) -> pa.ChunkedArray:
    finite = table.filter(pc.is_finite(table["AI_Score"]))
    if pc.any(pc.is_null(finite[column], nan_is_null=True)).as_py():
        raise InputError(
            f"{path}: some rows have no {column}; score again with attention_influence_scoring.py, or rank without it: "
            f"{without}"
        )
    return table[column]


@dataclass
class Domain:
    """The documents of one domain with a finite score, and the selection from them.

    Attributes:
        left_out: by limit, how many documents it left out; the next four are of the other documents.
        mean_score, threshold: None if there is no document; the threshold is the score of the last selected one.
    """

    left_out: dict[str, int]
    documents: int
    tokens: int
    mean_score: float | None
    threshold: float | None
    selected_documents: int
    selected_tokens: int

    @property
    def num_finite(self) -> int:
        """Documents with a finite score, including those left out."""
        return self.documents + sum(self.left_out.values())

    @property
    def share_of_tokens(self) -> float | None:
        """Selected tokens per ranked token."""
        return self.selected_tokens / self.tokens if self.tokens else None


def together(domains: Iterable[Domain]) -> Domain:
    """The sums of several domains, without a mean or a threshold."""
    counts = [name for name, kind in Domain.__annotations__.items() if kind is int]
    domains = list(domains)
    left_out = sum((Counter(domain.left_out) for domain in domains), Counter())
    sums = {name: sum(getattr(domain, name) for domain in domains) for name in counts}
    return Domain(dict(left_out), mean_score=None, threshold=None, **sums)


def largest(sizes: dict[str, int]) -> list[str]:
    """The `SHOWN` domains with the most documents, in order of their names."""
    return sorted(sorted(sizes, key=sizes.__getitem__, reverse=True)[:SHOWN])


def smaller(count: int) -> str:
    """The name of the domains that have no line of their own."""
    return f"… and {count:,} smaller domain{'s' * (count > 1)}"


def lines(domains: dict[str, Domain]) -> list[tuple[str, Domain]]:
    """What a table has a line for: the largest domains by name, and all others together."""
    names = largest({name: domain.num_finite for name, domain in domains.items()})
    found = [(name or NO_DOMAIN, domains[name]) for name in names]
    if rest := domains.keys() - names:
        found.append((smaller(len(rest)), together(domains[name] for name in rest)))
    return found


class Drawn(NamedTuple):
    """The data of a domain's pictures.

    Attributes:
        scores: scores of documents, rounded to three digits.
        ranked, left_out: the number of documents with each score that were ranked, and that were left out.
        sample: repetition, AI_Score and kept (it was ranked) of about `SAMPLE` documents, chosen by hashes of ids.
    """

    scores: np.ndarray
    ranked: np.ndarray
    left_out: np.ndarray
    sample: pd.DataFrame


def id_hashes(table: pa.Table) -> np.ndarray:
    """A hash of each doc_id, uint64; the same in every run."""
    return pd.util.hash_array(table["doc_id"].to_numpy(), categorize=False)


def sample_limit(size: int) -> int:
    """Of `size` documents, about `SAMPLE` have a hash below this."""
    return min(2**64 - 1, 2**64 * SAMPLE // size)


class Ranking:
    """The best (or the `lowest`) `percent` of each domain by AI_Score.

    Args:
        path: a score table; rows without a finite score are never selected.
        by: `documents` takes that percentage of the domain's documents, rounded up; `tokens` takes documents until
            they hold that percentage of its tokens.
        limits: the documents that are left out before.
        scratch: an empty folder for data that does not fit into memory.
        watch: called with batches of rows, the name of the step and the number of rows (None if unknown); returns the
            batches, and may show progress.

    Attributes:
        domains: by name, in order; complete when `selected` is exhausted.
        drawn: the same for the `SHOWN` largest domains.
        num_rows: of the table.
        num_not_finite: rows without a finite score.
    """

    def __init__(
        self,
        path: Path,
        percent: float,
        by: str,
        lowest: bool,
        scratch: Path,
        limits: Limits = Limits(),
        watch: Callable = lambda batches, *_: batches,
    ):
        self.path, self.percent, self.by, self.lowest, self.limits = path, percent, by, lowest, limits
        self._scratch, self._watch = scratch, watch
        self.domains: dict[str, Domain] = {}
        self.drawn: dict[str, Drawn] = {}
        self.num_rows = self.num_not_finite = 0

    def selected(self) -> Iterator[pa.Table]:
        """The selected rows, domains by name, best first (or lowest), ties in the table's order; some at a time.

        Raises:
            InputError: as in `read_score_batches`; no row has a finite score, or all are left out; a doc_id is there
                twice; the table lacks a column for the limits; or nearly every document is a domain of its own.
        """
        with self._database() as database:
            self._load(database)
            self._select(database)
            self._draw(database)
            found = database.sql(
                "SELECT * EXCLUDE (_place, _left_out, _id_hash) FROM scores SEMI JOIN chosen USING (_place) "
                f"ORDER BY {self._order}"
            )
            batches = found.to_arrow_reader(BATCH_ROWS)
            tables = (pa.Table.from_batches([batch]).cast(self.schema) for batch in batches)
            yield from self._watch(
                tables, "writing", sum(domain.selected_documents for domain in self.domains.values())
            )

    def states(self) -> Iterator[pa.Table]:
        """What became of each row, in the table's order, as in `STATES_SCHEMA`; call it after `selected`."""
        with self._database() as database:
            found = database.sql("""
                SELECT doc_id, domain, AI_Score, CASE WHEN _place IN (SELECT _place FROM chosen) THEN 'selected'
                    WHEN isfinite(AI_Score) THEN coalesce(_left_out, 'not selected') END AS state
                FROM documents ORDER BY _place
            """)
            for batch in self._watch(found.to_arrow_reader(BATCH_ROWS), "writing states", self.num_rows):
                yield pa.Table.from_batches([batch]).cast(STATES_SCHEMA)

    @contextmanager
    def _database(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The rows on disk; a full disk or too little memory is an InputError, an interrupted query the interrupt."""
        settings = {"memory_limit": MEMORY, "temp_directory": str(self._scratch / "spilled")}
        try:
            with duckdb.connect(str(self._scratch / "ranking.duckdb"), config=settings) as database:
                yield database
        except duckdb.OperationalError as error:
            raise InputError(
                f"{self._scratch}: the table cannot be ranked there ({error}); fix that and run the same command again"
            ) from None
        except RuntimeError as error:
            if "nterrupt" not in str(error):
                raise
            raise (error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else KeyboardInterrupt) from None

    @property
    def _order(self) -> str:
        return f"domain, AI_Score {'ASC' if self.lowest else 'DESC'}, _place"

    def _load(self, database: duckdb.DuckDBPyConnection) -> None:
        """Read the table into the database's `documents`; its `scores` are those with a finite score."""
        for batch in self._watch(read_score_batches(self.path), "reading", count_rows(self.path)):
            self.schema = batch.schema
            rows = pa.array(np.arange(self.num_rows, self.num_rows + len(batch)))
            left_out = self.limits.left_out_by(self.path, batch)
            numbered = batch.append_column("_place", rows).append_column("_left_out", left_out)
            numbered = numbered.append_column("_id_hash", pa.array(id_hashes(batch)))
            database.register("batch", numbered)
            create = "INSERT INTO documents" if self.num_rows else "CREATE OR REPLACE TABLE documents AS"
            database.sql(f"{create} SELECT * FROM batch")
            self.num_rows += len(batch)
        groups = "SELECT doc_id FROM documents GROUP BY doc_id"
        if repeated := database.sql(f"{groups} HAVING count(*) > 1 LIMIT 1").fetchone():
            raise InputError(
                f"{self.path}: doc_id {repeated[0]} is there twice; make it with attention_influence_scoring.py"
            )
        database.sql("CREATE OR REPLACE VIEW scores AS SELECT * FROM documents WHERE isfinite(AI_Score)")
        [num_finite] = database.sql("SELECT count(*) FROM scores").fetchone()
        self.num_not_finite = self.num_rows - num_finite
        if self.limits.dedup != "none":
            self._replace_absent(database, COPY_OF[self.limits.dedup])

    def _replace_absent(self, database: duckdb.DuckDBPyConnection, copy_of: str) -> None:
        """Of copies whose document is not there, or has no finite score, keep the one that repeats least."""
        database.sql(f"""
            UPDATE documents SET _left_out = NULL WHERE _place IN (
                SELECT _place FROM scores AS copies ANTI JOIN scores AS others ON copies.{copy_of} = others.doc_id
                WHERE _left_out = 'duplicates'
                QUALIFY row_number() OVER (PARTITION BY {copy_of} ORDER BY repetition, _place) = 1
            )
        """)

    def _select(self, database: duckdb.DuckDBPyConnection) -> None:
        """Count the documents of each domain, and put the rows to select into the database's `chosen`."""
        weight = "1" if self.by == "documents" else "num_tokens"
        counts = database.sql(f"""
            SELECT domain, count(*) FILTER (_left_out = 'repetitive'), count(*) FILTER (_left_out = 'duplicates'),
                count(*) FILTER (_left_out IS NULL), coalesce(sum(num_tokens) FILTER (_left_out IS NULL), 0),
                favg(AI_Score) FILTER (_left_out IS NULL), coalesce(sum({weight}) FILTER (_left_out IS NULL), 0)
            FROM scores GROUP BY domain ORDER BY domain
        """)
        share, limits = Fraction(str(self.percent)) / 100, {}
        for name, repetitive, duplicates, documents, tokens, mean_score, total in counts.fetchall():
            left_out = {"repetitive": repetitive, "duplicates": duplicates}
            left_out = {limit: count for limit, count in left_out.items() if count}
            self.domains[name] = Domain(left_out, documents, int(tokens), mean_score, None, 0, 0)
            limits[name] = math.ceil(share * int(total))
        if not self.domains:
            raise InputError(f"{self.path}: no row has a finite AI_Score; check L_base and L_ref in it")
        if not any(domain.documents for domain in self.domains.values()):
            raise InputError(f"{self.path}: all rows are left out; raise --max_repetition, or use --dedup none")
        self._refuse_tiny_domains()
        database.register("limits", pa.table({"domain": list(limits), "most": list(limits.values())}))
        database.sql(f"""
            CREATE OR REPLACE TABLE chosen AS SELECT _place, domain, num_tokens, AI_Score FROM (
                SELECT _place, domain, num_tokens, AI_Score,
                    sum({weight}) OVER (PARTITION BY domain ORDER BY {self._order} ROWS UNBOUNDED PRECEDING)
                    - {weight} AS before
                FROM scores WHERE _left_out IS NULL
            ) JOIN limits USING (domain) WHERE before < most
        """)
        last = "max" if self.lowest else "min"
        totals = database.sql(f"SELECT domain, count(*), sum(num_tokens), {last}(AI_Score) FROM chosen GROUP BY domain")
        for name, documents, tokens, threshold in totals.fetchall():
            domain = self.domains[name]
            domain.selected_documents, domain.selected_tokens, domain.threshold = documents, int(tokens), threshold

    def _refuse_tiny_domains(self) -> None:
        names = [name for name, domain in self.domains.items() if domain.documents]
        documents = together(self.domains.values()).documents
        if documents >= FEW and 2 * len(names) > documents:
            raise InputError(
                f"{self.path}: {documents:,} documents in {len(names):,} domains ({few(names)}), so the best of "
                "each would be nearly all; put larger domains into its column `domain`, or tokenize again with another "
                "--domain_column"
            )

    def _draw(self, database: duckdb.DuckDBPyConnection) -> None:
        """Read the data for pictures of the largest domains."""
        sizes = {name: domain.num_finite for name, domain in self.domains.items()}
        digits = "CAST(2 - floor(log10(greatest(abs(AI_Score), 1e-300))) AS INT)"
        for name in largest(sizes):
            histogram = database.execute(
                f"SELECT round(AI_Score, {digits}) AS score, count(*) FILTER (_left_out IS NULL) AS ranked, "
                "count(*) FILTER (_left_out IS NOT NULL) AS left_out FROM scores WHERE domain = ? "
                "GROUP BY 1 ORDER BY 1",
                [name],
            ).fetchnumpy()
            sample = database.execute(
                "SELECT repetition, AI_Score, _left_out IS NULL AS kept FROM scores "
                "WHERE domain = ? AND _id_hash < ? ORDER BY _place",
                [name, sample_limit(sizes[name])],
            ).df()
            self.drawn[name] = Drawn(*(histogram[column] for column in ("score", "ranked", "left_out")), sample)


def domain_sizes(batches: Iterable[pa.Table]) -> dict[str, int]:
    """The number of documents with a finite score in each domain, by name."""
    sizes: Counter[str] = Counter()
    for batch in batches:
        counts = pc.value_counts(batch["domain"].filter(pc.is_finite(batch["AI_Score"])))
        sizes.update({count["values"]: count["counts"] for count in counts.to_pylist()})
    return dict(sorted(sizes.items()))


def ends(
    batches: Iterable[pa.Table], domains: Sequence[str], top: int, bottom: int
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """The best and the lowest documents of some domains, in one pass; none is in both.

    Yields:
        (domain, the best, the lowest in descending order), domains by name.
    """
    kept: dict[str, tuple[int, pa.Table, pa.Table]] = {}
    for batch in batches:
        wanted = pc.is_in(batch["domain"], pa.array(domains, pa.string()))
        table = batch.filter(pc.and_(pc.is_finite(batch["AI_Score"]), wanted))
        for name in pc.unique(table["domain"]).to_pylist():
            rows = table.filter(pc.equal(table["domain"], name))
            count, *before = kept.get(name, (0, rows.slice(0, 0), rows.slice(0, 0)))
            best, lowest = (
                t.take(np.argsort(-t["AI_Score"].to_numpy(), kind="stable"))
                for t in (pa.concat_tables([part, rows]) for part in before)
            )
            kept[name] = count + len(rows), best.slice(0, top), lowest.slice(max(0, len(lowest) - bottom))
    for name, (count, best, lowest) in sorted(kept.items()):
        spare = count - len(best)
        yield name, best, lowest.slice(max(0, len(lowest) - spare))
