"""The record of a selection, `top20.json`: its options, and the counts of each domain.

    {"scores": "data/ai_scores.tsv", "percent": 20, "end": "best", "by": "documents",
     "max_repetition": 0.3, "dedup": "near", "where": null, "num_rows": 402, "num_not_finite": 0,
     "domains": {"code": {"left_out": {"duplicates": 1}, "documents": 66, "tokens": 7917, "mean_score": 0.1941,
                          "threshold": 0.2371, "selected_documents": 14, "selected_tokens": 1688,
                          "wanted_tokens": null, "whole": null}, …},
     "score": "AI_Score", "within": null, "budget": null, "shares": {}, "cascade": null}

`goes_with` says for each domain how far the score goes with simpler measures (`common.table.domains.goes_with`).
`documents` to `threshold` are of the documents that were ranked, without those left out. `top20.states.parquet` says
what became of each row of the score table, so that every page shows what ranking decided. `cascade` is what a prefilter
kept of the corpus, if there was one.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import InputError, few
from common.files import as_path, atomic, for_pyarrow, read_json, remove, write_json
from common.table.domains import Domain
from common.table.names import beside
from common.table.ranking import Ranking
from common.table.schema import RANK_SCORE, RANKED, STATES, states_schema
from common.table.tables import BATCH_ROWS, read_score_batches, table_writer, with_slices
from common.text.prefiltered import Facts, facts_of

MAKE_SELECTION = "make it with rank_scores.py"
STATES_SUFFIX = ".states.parquet"
KEPT_BY = "kept by the prefilter"  # the name of a fact
ROUNDING = 1e-9  # of scores in a TSV


@dataclass(frozen=True)
class SelectionRecord:
    """A selection: the options of rank_scores.py, the rows of the table it read, and its domains by name."""

    scores: str
    percent: float | None
    end: str
    by: str
    max_repetition: float
    dedup: str
    num_rows: int
    num_not_finite: int
    domains: dict[str, Domain]
    where: str | None = None
    score: str = "AI_Score"
    within: tuple[str, int] | None = None
    budget: int | None = None
    shares: dict[str, float] = field(default_factory=dict)
    goes_with: dict[str, dict] = field(default_factory=dict)
    cascade: Facts | None = None

    def facts(self) -> list[tuple[str, str]]:
        """(name, value) of each option, as text; those that change nothing are left out."""
        amount = f"{self.percent:g} % of the {self.by} of each domain" if self.percent else f"{self.budget:,} tokens"
        within = self.within and f"each of {self.within[1]} groups by {self.within[0]}"
        limits = f"--max_repetition {self.max_repetition:g} --dedup {self.dedup}"
        shares = ", ".join(f"{name} {share:g}" for name, share in self.shares.items())
        found = [
            ("selected", f"the {self.end} {amount}"),
            (KEPT_BY, self.cascade and self.cascade.in_words(self._is_top_of(self.cascade))),
            ("ranked by", self.score),
            ("where", self.where),
            ("inside", within),
            ("shares of the budget", shares),
            ("left out by", limits),
        ]
        return [(name, value) for name, value in found if value]

    @property
    def total(self) -> int:
        """Documents or tokens, as the percentage is of them: those that were ranked, or what they stand for."""
        return sum(getattr(each, self.by) if each.whole is None else each.whole for each in self.domains.values())

    def _is_top_of(self, cascade: Facts) -> bool:
        """Whether it is of the documents that the recall of a prefilter is of."""
        other = self.where or self.within or self.score != cascade.score or self.by != "documents"
        return not other and self.percent == cascade.top_pct


def write_selection(ranking: Ranking, out: Path) -> SelectionRecord:
    """Write the selected documents to `out` (TSV), its parquet, its states and its record; returns the record.

    Call it as the sole writer of `out`.

    Raises:
        InputError: as in `Ranking.selected` and `with_slices`.
    """
    # An old record goes first and the new one comes last, so that a record never describes other tables.
    with (
        atomic(out.with_suffix(".json")) as tmp,
        atomic(out.with_suffix(STATES_SUFFIX)) as states,
        ExitStack() as stack,
    ):
        append = None
        for table in ranking.selected():
            sliced = with_slices(table, f"{ranking.path}: doc_id")
            append = append or stack.enter_context(table_writer(out, sliced.schema))
            append(sliced)
        with pq.ParquetWriter(states, states_schema(ranking.goal.score != "AI_Score")) as writer:
            for table in ranking.states():
                writer.write_table(table)
        record = SelectionRecord(
            str(ranking.path),
            ranking.percent,
            "lowest" if ranking.lowest else "best",
            ranking.by,
            **asdict(ranking.limits),
            num_rows=ranking.num_rows,
            num_not_finite=ranking.num_not_finite,
            domains=ranking.domains,
            **asdict(ranking.goal),
            goes_with=ranking.goes_with,
            cascade=ranking.prefilter,
        )
        write_json(tmp, asdict(record))
        remove(out.with_suffix(".json"))
    return record


def refuse_selection_of_another_table(out: Path, scores: Path) -> None:
    """Raise InputError if there is a selection at `out` that was made from another table than `scores`."""
    path = out.with_suffix(".json")
    if not path.exists():
        return
    before = read_json(path).get("scores")
    if before is None:
        raise InputError(f"{path}: not the record of a selection, so it is not replaced; give another --out")
    if _table(before) != _table(str(scores)):
        raise InputError(f"{out}: a selection from {before}, not from {scores}; give another --out, or --overwrite")


def _table(scores: str) -> Path:
    """A score table, which may be read as TSV or as parquet."""
    return as_path(scores).resolve().with_suffix("")


def read_selection_record(selection: Path) -> SelectionRecord:
    """The record next to a selection's table; InputError if there is none, or it is damaged."""
    path = selection.with_suffix(".json")
    for file in (selection, path):
        if not file.exists():
            raise InputError(f"{file}: no such file; a selection has a table and a record, {MAKE_SELECTION}")
    record = read_json(path)
    try:
        domains = {name: Domain(**domain) for name, domain in record["domains"].items()}
        for d in domains.values():
            counts = (d.documents, d.tokens, d.selected_documents, d.selected_tokens, d.num_finite, record["num_rows"])
            if not all(isinstance(count, int) for count in counts):
                raise TypeError("a count is not a whole number")
            if not all(isinstance(score, float | int | None) for score in (d.mean_score, d.threshold)):
                raise TypeError("a score is not a number")
        cascade = facts_of(record.get("cascade"), path)
        return SelectionRecord(**{**record, "domains": domains, "cascade": cascade})
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the record of a selection ({error}); {MAKE_SELECTION}") from None


def with_states(scores: Path, selection: Path) -> Iterator[pa.Table]:
    """The batches of a score table, with one more column: `state`, one of STATES, or null without a finite score.

    Raises:
        InputError: as in `read_score_batches`; the selection's states are missing, damaged or of another table.
    """
    path = selection.with_suffix(STATES_SUFFIX)
    if not path.exists():
        raise InputError(f"{path}: no such file; a selection has the state of each document there, {MAKE_SELECTION}")
    other = InputError(f"{selection}: selected from another table than {scores}; select from that with rank_scores.py")
    try:
        with pq.ParquetFile(for_pyarrow(path), pre_buffer=False) as file:
            schema = states_schema(RANK_SCORE in (names := file.schema_arrow.names))
            if names != schema.names:
                raise pa.ArrowInvalid(f"its columns are {few(names)}")
            batches, waiting = file.iter_batches(BATCH_ROWS), schema.empty_table()
            for table in read_score_batches(scores):
                while len(waiting) < len(table) and (batch := next(batches, None)) is not None:
                    waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(schema)])
                states, waiting = waiting.slice(0, len(table)), waiting.slice(len(table))
                if not _are_of(states, table):
                    raise other
                for name in schema.names[3:]:
                    table = table.append_column(name, states[name])
                yield table
            if len(waiting) or next(batches, None) is not None:
                raise other
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not the states of a selection ({error}); {MAKE_SELECTION}") from None


def _are_of(states: pa.Table, table: pa.Table) -> bool:
    """Whether these are states of these rows."""
    if not all(states[name].equals(table[name]) for name in ("doc_id", "domain")):
        return False
    before, now = (part["AI_Score"].to_numpy() for part in (states, table))
    known = pc.all(pc.is_in(states["state"], pa.array([*STATES, None]))).as_py()
    return np.allclose(before, now, ROUNDING, 0, equal_nan=True) and known is not False


def read_ranked(scores: Path, selection: Path | None) -> Iterator[pa.Table]:
    """The batches of a score table: the rows that were ranked, or without a selection all."""
    if selection is None:
        yield from read_score_batches(scores)
    else:
        for table in with_states(scores, selection):
            yield table.filter(pc.is_in(table["state"], pa.array(RANKED)))


def selection_next_to(scores: Path) -> Path | None:
    """`top20.parquet` next to a score table, if its record says that it was selected from that table."""
    selection = beside(scores, "top20.parquet")
    if not selection.with_suffix(".json").exists():
        return None
    return selection if _table(read_selection_record(selection).scores) == _table(str(scores)) else None
