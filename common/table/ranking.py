"""The best documents of each domain, from tables of any length: DuckDB sorts, on disk if memory is too small."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import duckdb
import pyarrow as pa

from common.errors import InputError, few
from common.files import remove
from common.table.cascade import check_rows, refuse_unscored, set_wholes
from common.table.domains import Domain, Drawn, goes_with, largest, sample_limit, together
from common.table.expressions import PCT, PCT_LATER, checked, finite
from common.table.schema import EXACT, LEFT_OUT, NEAR, RANK_SCORE, states_schema
from common.table.tables import (
    BATCH_ROWS,
    MAKE_SCORES,
    MOST_TOKENS,
    as_parquet,
    broken_row,
    duckdb_errors,
    source_view,
)
from common.text.prefiltered import Facts

FEW = 20  # documents, which may well be each a domain of its own
COPY_OF = {"exact": EXACT, "near": NEAR}


@dataclass(frozen=True)
class Limits:
    """Which documents are left out before a domain is ranked.

    Attributes:
        max_repetition: documents that repeat more than this share of their tokens.
        dedup: copies of another document with a finite score, `exact` or `near`; or `none`.
        where: an expression; documents for which it is not true count as if they were not in the table.
    """

    max_repetition: float = 1.0
    dedup: str = "none"
    where: str | None = None


@dataclass(frozen=True)
class Goal:
    """By what documents are ranked, and how many tokens are selected if it is no percentage.

    Attributes:
        score: an expression, in which `pct(x)` is the rank of x in its domain, from 0 to 1.
        within: an expression and a number: ranking is inside so many groups of a domain, equally large, by its rank.
        budget: as many tokens are selected, from all domains together.
        shares: of the budget, by domain; the others share the rest by their tokens.
    """

    score: str = "AI_Score"
    within: tuple[str, int] | None = None
    budget: int | None = None
    shares: dict[str, float] = field(default_factory=dict)


class Ranking:
    """The best (or the `lowest`) documents of each domain: `percent` of them, or those of the goal's budget.

    Args:
        path: a score table; rows without a finite score are never selected.
        by: `documents` takes that percentage of the domain's documents, rounded up; `tokens` takes documents until
            they hold that percentage of its tokens.
        limits: the documents that are left out before.
        goal: by what documents are ranked, and how many are selected.
        scratch: an empty folder for data that does not fit into memory.
        watch: called with batches of rows, the name of the step and the number of rows (None if unknown); returns the
            batches, and may show progress.
        memory: of DuckDB, such as `1GB`.
        prefilter: what a prefilter kept, so that the percentage is of the whole corpus; the table holds only that.
            Documents that it left out are taken to pass the limits as often as those that it kept.

    Attributes:
        domains: by name, in order; complete when `selected` is exhausted.
        drawn: the same for the `SHOWN` largest domains.
        num_rows: of the table.
        num_not_finite: rows without a finite score, of those for which `limits.where` is true.
    """

    def __init__(
        self,
        path: Path,
        percent: float | None,
        by: str,
        lowest: bool,
        scratch: Path,
        limits: Limits = Limits(),
        watch: Callable = lambda batches, *_: batches,
        goal: Goal = Goal(),
        memory: str = "1GB",
        prefilter: Facts | None = None,
    ):
        self.path, self.percent, self.by, self.lowest, self.limits, self.goal = path, percent, by, lowest, limits, goal
        self._scratch, self._watch, self._memory, self.prefilter = scratch, watch, memory, prefilter
        self.domains: dict[str, Domain] = {}
        self.drawn: dict[str, Drawn] = {}
        self.num_rows = self.num_not_finite = 0

    def selected(self) -> Iterator[pa.Table]:
        """The selected rows, domains by name, best first (or lowest), ties in the table's order; some at a time.

        They have the columns of the table, and `rank_score` if the score is another than AI_Score.

        Raises:
            InputError: as in `read_score_batches` and `checked`; no row has a finite score, or all are left out; a
                doc_id is there twice; the table lacks a column for the limits; a share is of no domain; or nearly
                every document is a domain of its own; or a prefilter kept less than what is asked for.
        """
        remove(self._scratch / "ranking.duckdb")
        self._file, schema = as_parquet(self.path, self._scratch, self._watch)
        ranked_by = [] if self.goal.score == "AI_Score" else [RANK_SCORE]
        columns = ["source.* EXCLUDE file_row_number", *(f"chosen.score AS {name}" for name in ranked_by)]
        schema = pa.schema([*schema, *((name, pa.float64()) for name in ranked_by)])
        with self._database() as database:
            self._load(database)
            self._select(database)
            self._draw(database)
            found = database.sql(
                f"SELECT {', '.join(columns)} FROM source JOIN chosen ON chosen.place = source.file_row_number "
                f"ORDER BY chosen.domain, chosen.score {self._direction}, chosen.place"
            )
            batches = found.to_arrow_reader(BATCH_ROWS)
            tables = (self._with_types(batch, schema) for batch in batches)
            yield from self._watch(
                tables, "writing", sum(domain.selected_documents for domain in self.domains.values())
            )

    def states(self) -> Iterator[pa.Table]:
        """What became of each row, in the table's order, as in `states_schema`; call it after `selected`."""
        schema = states_schema(self.goal.score != "AI_Score")
        columns = ", ".join(f"found.score AS {name}" if name == RANK_SCORE else name for name in schema.names)
        with self._database() as database:
            database.sql("UPDATE found SET state = 'selected' WHERE place IN (SELECT place FROM chosen)")
            found = database.sql(f"""
                SELECT {columns} FROM (SELECT doc_id, domain, AI_Score FROM source) POSITIONAL JOIN (SELECT score,
                    CASE WHEN state <> 'not finite' THEN state WHEN state IS NULL THEN 'not selected' END AS state
                FROM found ORDER BY place) AS found
            """)
            for batch in self._watch(found.to_arrow_reader(BATCH_ROWS), "writing states", self.num_rows):
                yield pa.Table.from_batches([batch]).cast(schema)

    def _with_types(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
        """Rows of a query with the names and types of the table."""
        try:
            return pa.Table.from_batches([batch]).rename_columns(schema.names).cast(schema)
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: a column is of a type that cannot be kept ({error}); drop it") from None

    @contextmanager
    def _database(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database on disk, with the table's rows as `source`; what goes wrong in it is an InputError."""
        settings = {
            "memory_limit": self._memory,
            "temp_directory": str(self._scratch / "spilled"),
            "autoinstall_known_extensions": "false",
        }
        where = f"{self.path}: cannot be ranked in {self._scratch}"
        with (
            duckdb_errors(where),
            duckdb.connect(str(self._scratch / "ranking.duckdb"), config=settings) as database,
        ):
            database.sql(source_view(database, self._file))
            database.sql(PCT_LATER)
            yield database

    @property
    def goes_with(self) -> dict[str, dict]:
        """What the score goes with in each domain that is drawn; complete when `selected` is exhausted."""
        return {name: goes_with(drawn.sample, self.lowest) for name, drawn in self.drawn.items()}

    @property
    def _direction(self) -> str:
        return "ASC" if self.lowest else "DESC"

    def _load(self, database: duckdb.DuckDBPyConnection) -> None:
        """Read what ranking needs of each row into `found`; `state` says why a row is not ranked, or is null."""
        source = database.table("source")
        score = checked(source, "--score", self.goal.score, False)
        where = checked(source, "--where", self.limits.where, True) if self.limits.where else "true"
        within = checked(source, "--within", self.goal.within[0], False) if self.goal.within else "NULL"
        copy_of = COPY_OF.get(self.limits.dedup)
        repeats = "repetition" if self.limits.max_repetition < 1 else "0"
        database.sql(f"""
            CREATE TABLE found AS
            SELECT place, domain, num_tokens, L_base, repetition, {finite("raw")} AS score,
                {finite("cut")} AS within_by, hash(doc_id) AS id_hash,
                CASE WHEN other NOT IN ('', doc_id) THEN hash(other) END AS copy_of,
                CASE WHEN NOT fits THEN 'filtered' WHEN score IS NULL THEN 'not finite'
                    WHEN {repeats} > {self.limits.max_repetition} THEN 'repetitive'
                    WHEN copy_of IS NOT NULL THEN 'duplicates' END AS state,
                CASE WHEN NOT fits OR score IS NULL THEN NULL WHEN other IS NULL THEN '{copy_of}'
                    WHEN {finite(repeats)} IS NULL THEN 'repetition' END AS unknown,
                num_tokens IS NULL OR num_tokens NOT BETWEEN 1 AND {MOST_TOKENS} OR doc_id IS NULL OR
                    CASE WHEN regexp_matches(text, '[^ -~]') THEN regexp_matches(text, '\\pC') ELSE false END AS broken
            FROM (SELECT file_row_number AS place, doc_id, domain, num_tokens, L_base, repetition,
                {copy_of or "''"} AS other,
                {score} AS raw, {within} AS cut, coalesce({where}, false) AS fits,
                concat(doc_id, domain, {EXACT}, {NEAR}) AS text FROM source)
        """)
        self._check(database)
        check_rows(source, self.prefilter, self.path)
        if copy_of:
            self._replace_absent(database)
        if "pct(" in score:
            self._rank_by_ranks(database, score)
        counts = "SELECT count(*), count(*) FILTER (state = 'not finite') FROM found"
        self.num_rows, self.num_not_finite = database.sql(counts).fetchone()

    def _check(self, database: duckdb.DuckDBPyConnection) -> None:
        """Raise InputError for a broken row, one that lacks what a limit needs, and a doc_id that is there twice."""
        [broken] = database.sql("SELECT min(place) FROM found WHERE broken").fetchone()
        if broken is not None:
            raise broken_row(self.path, broken)
        if unknown := database.sql("SELECT unknown FROM found WHERE unknown IS NOT NULL LIMIT 1").fetchone():
            without = "--max_repetition 1" if unknown[0] == "repetition" else "--dedup none"
            raise InputError(
                f"{self.path}: some rows have no {unknown[0]}; score again with attention_influence_scoring.py, or "
                f"rank without it: {without}"
            )
        twice = "SELECT id_hash FROM found GROUP BY id_hash HAVING count(*) > 1"
        hashes = [str(row[0]) for row in database.sql(twice).fetchmany(1000)]  # two ids may share a hash, rarely
        alike = f"SELECT doc_id FROM source WHERE hash(doc_id) IN ({', '.join(hashes)})"
        if hashes and (repeated := database.sql(f"{alike} GROUP BY doc_id HAVING count(*) > 1 LIMIT 1").fetchone()):
            raise InputError(f"{self.path}: doc_id {repeated[0]} is there twice; {MAKE_SCORES}")

    def _replace_absent(self, database: duckdb.DuckDBPyConnection) -> None:
        """Of copies whose document is not there, or has no finite score, keep the one that repeats least."""
        database.sql("""
            UPDATE found SET state = NULL WHERE place IN (
                SELECT place FROM found AS copies
                    ANTI JOIN (FROM found WHERE state NOT IN ('filtered', 'not finite') OR state IS NULL) AS others
                    ON copies.copy_of = others.id_hash
                WHERE state = 'duplicates'
                QUALIFY row_number() OVER (PARTITION BY copy_of ORDER BY repetition, place) = 1
            )
        """)

    def _rank_by_ranks(self, database: duckdb.DuckDBPyConnection, score: str) -> None:
        """Compute scores from ranks among the documents that are ranked; others have no score."""
        database.sql(PCT)
        database.sql(f"""
            CREATE TABLE scored AS SELECT place, {finite("raw")} AS score FROM (
                SELECT file_row_number AS place, {score} AS raw
                FROM source SEMI JOIN (FROM found WHERE state IS NULL) AS ranked ON ranked.place = file_row_number);
            CREATE OR REPLACE TABLE found AS SELECT found.* REPLACE (scored.score AS score,
                    CASE WHEN scored.score IS NULL AND state IS NULL THEN 'not finite' ELSE state END AS state)
                FROM found LEFT JOIN scored USING (place) ORDER BY place;
            DROP TABLE scored
        """)

    def _select(self, database: duckdb.DuckDBPyConnection) -> None:
        """Count the documents of each domain, and put the rows to select into the database's `chosen`."""
        self._count(database)
        weight = "1" if self.by == "documents" else "num_tokens"
        group = "0"
        if self.goal.within:
            group = f"""CASE WHEN within_by IS NULL THEN 0 ELSE ntile({self.goal.within[1]})
                OVER (PARTITION BY domain, within_by IS NULL ORDER BY within_by, place) END"""
        # Names as numbers sort faster.
        database.sql(f"""
            CREATE TYPE names AS ENUM (SELECT DISTINCT domain FROM found ORDER BY domain);
            CREATE TEMP TABLE ranked AS SELECT domain::names AS domain, {group} AS part, score, place, num_tokens
            FROM found WHERE state IS NULL ORDER BY domain::names, part, score {self._direction}, place
        """)
        parts = f"SELECT domain, part, sum({weight}) FROM ranked GROUP BY ALL ORDER BY domain, part"
        rates, first, limits = self._rates(), 0, []
        for name, part, total in database.sql(parts).fetchall():
            limits.append((name, part, first, math.ceil(rates[name] * int(total))))
            first += int(total)
        database.register("limits", pa.table(list(zip(*limits, strict=True)), ["domain", "part", "first", "most"]))
        # The order is that of the table, so that the sum needs no second sort.
        before = "rowid" if self.by == "documents" else "sum(num_tokens) OVER (ROWS UNBOUNDED PRECEDING) - num_tokens"
        database.sql(f"""
            CREATE TABLE chosen AS SELECT ranked.domain, score, place, num_tokens
            FROM (SELECT *, {before} AS before FROM ranked) AS ranked
                JOIN limits ON ranked.domain = limits.domain::names AND ranked.part = limits.part
            WHERE before - first < most
        """)
        last = "max" if self.lowest else "min"
        totals = database.sql(f"SELECT domain, count(*), sum(num_tokens), {last}(score) FROM chosen GROUP BY domain")
        for name, documents, tokens, threshold in totals.fetchall():
            domain = self.domains[name]
            domain.selected_documents, domain.selected_tokens, domain.threshold = documents, int(tokens), threshold

    def _count(self, database: duckdb.DuckDBPyConnection) -> None:
        """Fill `domains`, all but what is selected."""
        counts = database.sql("""
            SELECT domain, count(*) FILTER (state = 'filtered'), count(*) FILTER (state = 'repetitive'),
                count(*) FILTER (state = 'duplicates'), count(*) FILTER (state IS NULL),
                coalesce(sum(num_tokens) FILTER (state IS NULL), 0), favg(score) FILTER (state IS NULL)
            FROM found WHERE state IS NULL OR state <> 'not finite' GROUP BY domain ORDER BY domain
        """)
        for name, *left_out, documents, tokens, mean_score in counts.fetchall():
            left_out = {limit: count for limit, count in zip(LEFT_OUT, left_out, strict=True) if count}
            self.domains[name] = Domain(left_out, documents, int(tokens), mean_score, None, 0, 0)
        whole = together(self.domains.values())
        if not self.domains:
            raise InputError(f"{self.path}: no row has a finite {self.goal.score}; check L_base and L_ref in it")
        if not whole.documents:
            raise InputError(
                f"{self.path}: all rows are left out; change --where, raise --max_repetition, or use --dedup none"
            )
        self._refuse_tiny_domains()

    def _rates(self) -> dict[str, Fraction]:
        """The share of the ranked part of each domain that is selected; sets `whole` and `wanted_tokens`."""
        whole = set_wholes(self.domains, self.by, self.prefilter, self.path)
        if self.goal.budget is None:
            rate = Fraction(str(self.percent)) / 100
            rates = {name: rate * times for name, times in whole.items()}
        else:
            rates = self._rates_of_budget(whole)
        if self.prefilter:
            refuse_unscored(self.domains, self.prefilter, rates, self.lowest, self.path)
        return {name: min(Fraction(1), rate) for name, rate in rates.items()}

    def _rates_of_budget(self, whole: dict[str, Fraction]) -> dict[str, Fraction]:
        """The wanted tokens of each domain per token that is ranked; sets `wanted_tokens`."""
        shares = {name: Fraction(str(share)) for name, share in self.goal.shares.items()}
        if absent := shares.keys() - self.domains.keys():
            raise InputError(f"--shares: no domain {min(absent)!r} in {self.path}, only {few(list(self.domains))}")
        rest = 1 - sum(shares.values())
        left = sum(d.tokens * whole[name] for name, d in self.domains.items() if name not in shares)
        if rest and not left:
            raise InputError(f"--shares: all domains have one, together {float(1 - rest):g}; let them sum to 1")
        rates = {}
        for name, domain in self.domains.items():
            wanted = self.goal.budget * shares.get(name, rest * domain.tokens * whole[name] / (left or 1))
            domain.wanted_tokens = math.ceil(wanted)
            rates[name] = wanted / domain.tokens if domain.tokens else Fraction(0)
        return rates

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
        shown = {name: sample_limit(sizes[name]) for name in largest(sizes)}
        database.register("shown", pa.table([list(shown), pa.array(shown.values(), pa.uint64())], ["domain", "most"]))
        digits = "CAST(2 - floor(log10(greatest(abs(score), 1e-300))) AS INT)"
        histograms = database.sql(f"""
            SELECT domain, round(score, {digits}) AS rounded, count(*) FILTER (state IS NULL) AS ranked,
                count(*) FILTER (state IS NOT NULL) AS left_out
            FROM found SEMI JOIN shown USING (domain) WHERE score IS NOT NULL GROUP BY ALL ORDER BY ALL
        """).df()
        samples = database.sql("""
            SELECT domain, repetition, score AS AI_Score, L_base, num_tokens, state IS NULL AS kept,
                place IN (SELECT place FROM chosen) AS selected
            FROM found JOIN shown USING (domain) WHERE id_hash < most AND score IS NOT NULL ORDER BY place
        """).df()
        for name in shown:
            histogram, sample = (rows[rows["domain"] == name].drop(columns="domain") for rows in (histograms, samples))
            columns = (histogram[column].to_numpy() for column in histogram)
            self.drawn[name] = Drawn(*columns, sample.reset_index(drop=True))
