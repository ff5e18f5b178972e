"""The record of a selection, `top20.json`: its options, and the counts of each domain.

    {"scores": "data/ai_scores.tsv", "percent": 20, "end": "best", "by": "documents",
     "max_repetition": 0.3, "dedup": "near", "num_rows": 420, "num_not_finite": 0,
     "domains": {"code": {"left_out": {"repetitive": 2}, "documents": 68, "tokens": 14983, "mean_score": 0.2453,
                          "threshold": 0.3176, "selected_documents": 14, "selected_tokens": 4207}, …}}

`documents` to `threshold` are of the documents that were ranked, without those left out.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import InputError
from common.files import as_path, atomic, read_json, remove, write_json
from common.table.ranking import Domain, Ranking
from common.table.schema import SLICES_SCHEMA
from common.table.tables import table_writer, with_slices

MAKE_SELECTION = "make it with rank_scores.py"


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
    domains: dict[str, Domain]


def write_selection(ranking: Ranking, out: Path) -> SelectionRecord:
    """Write the selected documents to `out` (TSV), its parquet and its record; returns the record.

    Call it as the sole writer of `out`.

    Raises:
        InputError: as in `Ranking.selected` and `with_slices`.
    """
    # An old record goes first and the new one comes last, so that a record never describes other tables.
    with atomic(out.with_suffix(".json")) as tmp, table_writer(out, SLICES_SCHEMA) as append:
        for table in ranking.selected():
            append(with_slices(table, f"{ranking.path}: doc_id"))
        record = SelectionRecord(
            str(ranking.path),
            ranking.percent,
            "lowest" if ranking.lowest else "best",
            ranking.by,
            **asdict(ranking.limits),
            num_rows=ranking.num_rows,
            num_not_finite=ranking.num_not_finite,
            domains=ranking.domains,
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
    if before is None or _table(before) != _table(str(scores)):
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
        return SelectionRecord(**{**record, "domains": domains})
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the record of a selection ({error}); {MAKE_SELECTION}") from None
