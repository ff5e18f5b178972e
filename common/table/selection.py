"""The record of a selection, `top20.json`: what was asked for, and what each domain holds and gave.

    {"scores": "data/ai_scores.tsv", "percent": 20.0, "end": "best", "by": "documents",
     "max_repetition": 0.3, "dedup": "near", "num_rows": 420, "num_not_finite": 0,
     "domains": {"plays": {"left_out": {"duplicates": 1}, "documents": 69, "tokens": 28827, "mean_score": 0.1626,
                           "threshold": 0.2020, "selected_documents": 14, "selected_tokens": 6712}, …}}

`documents` to `threshold` are of the documents that were ranked, without those left out.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import InputError
from common.files import atomic, read_json, write_json
from common.table.ranking import Domain, Ranking
from common.table.schema import SLICES_SCHEMA
from common.table.tables import table_writer, with_slices

MAKE_SELECTION = "make it with rank_scores.py"


@dataclass(frozen=True)
class DomainRecord:
    """One domain: its ranked documents, and the selected ones. A score is None if there is none."""

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

    @classmethod
    def of(cls, domain: Domain) -> "DomainRecord":
        """The record of a ranked domain."""
        return cls(
            dict(domain.left_out),
            domain.num_documents,
            domain.num_tokens,
            domain.score_sum / domain.num_documents if domain.num_documents else None,
            domain.threshold if math.isfinite(domain.threshold) else None,
            domain.num_selected,
            domain.selected_tokens,
        )


@dataclass(frozen=True)
class SelectionRecord:
    """A selection: the options of rank_scores.py, the rows of the table it read, and its domains by name."""

    scores: str
    percent: float
    end: str
    by: str
    max_repetition: float
    dedup: str
    num_rows: int
    num_not_finite: int
    domains: dict[str, DomainRecord]


def write_selection(ranking: Ranking, out: Path) -> SelectionRecord:
    """Write the selected documents to `out` (TSV), its parquet and its record; returns the record.

    Call it as the sole writer of `out`.

    Raises:
        InputError: as in `Ranking.selected`.
    """
    # The record gets its name last, so that it never describes tables that are not there.
    with atomic(out.with_suffix(".json")) as tmp, table_writer(out, SLICES_SCHEMA) as append:
        for table in ranking.selected():
            append(with_slices(table))
        record = SelectionRecord(
            str(ranking.path),
            ranking.percent,
            "lowest" if ranking.lowest else "best",
            ranking.by,
            **asdict(ranking.limits),
            num_rows=ranking.num_rows,
            num_not_finite=ranking.num_not_finite,
            domains={name: DomainRecord.of(domain) for name, domain in ranking.domains.items()},
        )
        write_json(tmp, asdict(record))
    return record


def read_selection_record(selection: Path) -> SelectionRecord:
    """The record next to a selection's table; InputError if there is none, or it is damaged."""
    path = selection.with_suffix(".json")
    for file in (selection, path):
        if not file.exists():
            raise InputError(f"{file}: no such file; a selection has a table and a record, {MAKE_SELECTION}")
    record = read_json(path)
    try:
        domains = {name: DomainRecord(**domain) for name, domain in record["domains"].items()}
        return SelectionRecord(**{**record, "domains": domains})
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the record of a selection ({error}); {MAKE_SELECTION}") from None
