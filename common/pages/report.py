"""The report of a run: what was scored with which models, the heads, the thresholds, and documents to read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common import cli
from common.errors import InputError
from common.model.heads import Head, read_head_scores
from common.model.reference import read_record
from common.pages.facts import facts, notes
from common.pages.origins import Origins, texts
from common.pages.overview import (
    Overview,
    choose,
    columns_of,
    count_sources,
    read_overview,
    read_rows,
    selected_among,
    seven_digits,
)
from common.pages.page import picture, write_page
from common.pages.pictures import distributions_picture, heads_picture
from common.shards.reader import ShardReader
from common.table.ranking import lines, together
from common.table.schema import GUARD_COLUMNS
from common.table.selection import SelectionRecord, read_selection_record


@dataclass(frozen=True)
class ReportOptions:
    """The files that a report is made of, and its size; as the flags of report.py."""

    scores: Path
    selection: Path
    retrieval_heads: Path
    base_model: str
    reference_model: str
    data_dir: Sequence[Path]
    max_docs: int
    max_chars: int
    out: Path


def write_report(options: ReportOptions, reader: ShardReader) -> None:
    """Gather the data of the page, and write it.

    Args:
        reader: with the tokenizer of the shards.
    Raises:
        InputError: a file is missing or damaged, or the selection is of another table.
    """
    head_scores, chosen = read_head_scores(options.retrieval_heads)
    masking, record_path = read_record(options.reference_model), options.scores.with_suffix(".json")
    selection = read_selection_record(options.selection)
    overview = read_overview(options.scores, Origins(options.data_dir))
    _check_selection(selection, overview, options)
    shown = choose(overview, options.max_docs)
    known = {"base_model": options.base_model, "reference_model": options.reference_model}
    documents = _documents(overview, shown, selection, options, reader)
    data = {
        "totals": _totals(overview, selection),
        "facts": facts(known, record_path, masking, chosen),
        "notes": notes(overview, len(shown), record_path, options.reference_model, masking, chosen),
        "thresholds": list(_thresholds(selection)),
        "guards": [name for name in GUARD_COLUMNS if name in documents],
        "sources": count_sources(overview),
        "max_chars": options.max_chars,
        "documents": documents,
    }
    drawings = _drawings(overview, selection, head_scores, masking.heads if masking else chosen)
    write_page(options.out, "report.html", data, **drawings)
    print(f"wrote {options.out}; open it in a browser")


def _check_selection(selection: SelectionRecord, overview: Overview, options: ReportOptions) -> None:
    sizes = {name: len(rows) for name, rows in overview.of_domains}
    selected_from = {name: domain.num_finite for name, domain in selection.domains.items()}
    if sizes != selected_from or selection.num_rows != overview.num_rows:
        raise InputError(
            f"{options.selection}: selected from another table ({selection.num_rows:,} documents in "
            f"{len(selected_from):,} domains) than {options.scores} ({overview.num_rows:,} in {len(sizes):,}); select "
            "from that with rank_scores.py"
        )


def _documents(
    overview: Overview, shown: np.ndarray, selection: SelectionRecord, options: ReportOptions, reader: ShardReader
) -> dict[str, list]:
    table = read_rows(options.scores, overview.rows[shown])
    doc_ids = table["doc_id"].to_pylist()
    selected = selected_among(options.selection, set(doc_ids))
    num_selected = together(selection.domains.values()).selected_documents
    if len(doc_ids) == len(overview.rows) and len(selected) < num_selected:
        raise InputError(
            f"{options.selection}: selected from another table than {options.scores}; select from that with "
            "rank_scores.py"
        )
    source_of = overview.sources.take(overview.source_of[shown]).to_pylist()
    with cli.progress(len(doc_ids), "reading", "documents", texts(doc_ids, reader)) as reading:
        return columns_of(table, reading, selected, source_of, options.max_chars)


def _totals(overview: Overview, selection: SelectionRecord) -> dict[str, int]:
    return {
        "documents": len(overview.rows),
        "tokens": int(overview.num_tokens.sum()),
        "domains": len(overview.domains),
        "selected": together(selection.domains.values()).selected_documents,
    }


def _thresholds(selection: SelectionRecord) -> Iterator[dict]:
    for name, domain in lines(selection.domains):
        scores = {key: seven_digits(getattr(domain, key)) for key in ("mean_score", "threshold", "share_of_tokens")}
        yield asdict(domain) | scores | {"domain": name, "left_out": sum(domain.left_out.values())}


def _drawings(
    overview: Overview, selection: SelectionRecord, head_scores: np.ndarray, heads: list[Head]
) -> dict[str, str]:
    """The two drawings of the page, as HTML."""
    domains = {}
    for name, rows in overview.largest_domains:
        threshold = selection.domains[name].threshold
        spread = np.unique(overview.scores[rows], return_counts=True)
        domains[name] = (*spread, math.nan if threshold is None else threshold)
    light_and_dark = (False, True)
    return {
        "heads_picture": picture(
            *(heads_picture(head_scores, heads, dark) for dark in light_and_dark),
            "The retrieval score of every head, by layer; the masked heads are outlined",
        ),
        "distributions_picture": picture(
            *(distributions_picture(domains, dark) for dark in light_and_dark),
            "The distribution of scores in each domain, and its threshold",
        ),
    }
