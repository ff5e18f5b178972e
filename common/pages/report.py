"""The report of a run: what was scored with which models, the heads, the thresholds, and documents to read."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common import cli
from common.model.heads import Head, read_head_scores
from common.model.masking import Masking
from common.model.reference import read_check, read_record
from common.pages.facts import facts, notes, read_run
from common.pages.origins import Origins, texts
from common.pages.overview import (
    Overview,
    choose,
    columns_of,
    count_sources,
    read_overview,
    read_rows,
    seven_digits,
)
from common.pages.page import picture, write_page
from common.pages.pictures import distributions_picture, heads_picture, repetition_picture
from common.pages.verdict import judge
from common.scoring.known import reference_values
from common.shards.reader import ShardReader
from common.table.domains import lines, sample_limit, together
from common.table.schema import NO_DOMAIN, OTHER_MEASURES
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
    tokenizer: str | None = None
    trust_remote_code: bool = False
    eot_id: int | None = None
    eot_side: str = "first"
    token_dtype: str | None = None


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
    heads = masking.heads if masking else chosen
    overview = read_overview(options.scores, options.selection, Origins(options.data_dir))
    shown = choose(overview, options.max_docs)
    run = {"base_model": options.base_model, "reference_model": options.reference_model} | read_run(record_path)
    documents = _documents(overview, shown, options, reader)
    check = read_check(options.reference_model)
    data = {
        "totals": _totals(overview, selection),
        "model": judge(check, head_scores, heads, options.reference_model, _check_command(options, masking)),
        "facts": [*facts(run, record_path, masking, chosen), *selection.facts()],
        "notes": notes(
            overview, len(shown), record_path, options.reference_model, masking, chosen, run.get("reference_of") or ()
        ),
        "thresholds": list(_thresholds(selection)),
        "goes_with": [{"domain": name or NO_DOMAIN} | found for name, found in selection.goes_with.items()],
        "guards": [name for name in OTHER_MEASURES if name in documents],
        "sources": count_sources(overview),
        "max_chars": options.max_chars,
        "lowest": selection.end == "lowest",
        "within": selection.within is not None,
        "command": _token_page_command(options, run),
        "documents": documents,
    }
    drawings = _drawings(overview, selection, head_scores, heads)
    write_page(options.out, "report.html", data, **drawings)
    print(f"wrote {options.out}; open it in a browser")


def _check_command(options: ReportOptions, masking: Masking | None) -> str:
    return cli.command(
        "make_reference_model.py",
        base_model=options.base_model,
        retrieval_heads=options.retrieval_heads.with_suffix(".txt"),
        mask=masking.kind if masking else None,
        probes=options.retrieval_heads.with_name("probes.jsonl"),
        out=options.reference_model,
    )


def _token_page_command(options: ReportOptions, run: dict) -> str:
    """The command that shows a document token by token, without its id."""
    return cli.command(
        "validate_docs.py",
        base_model=run["base_model"],
        reference_model=reference_values(run["reference_model"], run.get("reference_of") or {}),
        seq_len=run.get("seq_len"),
        tokenizer=options.tokenizer,
        trust_remote_code=options.trust_remote_code,
        eot_id=options.eot_id,
        eot_side=None if options.eot_id is None else options.eot_side,
        token_dtype=options.token_dtype,
        score_separator="no" if run.get("score_separator") is False else None,
        score_tokens=run.get("score_tokens"),
        data_dir=None if list(options.data_dir) == [Path()] else list(options.data_dir),
        html=options.out.with_name("tokens.html"),
    )


def _documents(overview: Overview, shown: np.ndarray, options: ReportOptions, reader: ShardReader) -> dict[str, list]:
    table = read_rows(options.scores, options.selection, overview.rows[shown])
    doc_ids = table["doc_id"].to_pylist()
    source_of = overview.sources.take(overview.source_of[shown]).to_pylist()
    with cli.progress(len(doc_ids), "reading", "documents", texts(doc_ids, reader)) as reading:
        return columns_of(table, reading, source_of, options.max_chars)


def _totals(overview: Overview, selection: SelectionRecord) -> dict[str, int]:
    whole = together(selection.domains.values())
    return {
        "documents": len(overview.rows),
        "tokens": int(overview.num_tokens.sum()),
        "domains": len(overview.domains),
        "left out": sum(whole.left_out.values()),
        "selected": whole.selected_documents,
    }


def _thresholds(selection: SelectionRecord) -> Iterator[dict]:
    for name, domain in lines(selection.domains):
        scores = {key: seven_digits(getattr(domain, key)) for key in ("mean_score", "threshold", "share_of_tokens")}
        yield asdict(domain) | scores | {"domain": name, "left_out": sum(domain.left_out.values())}


def _drawings(
    overview: Overview, selection: SelectionRecord, head_scores: np.ndarray, heads: list[Head]
) -> dict[str, str]:
    """The drawings of the page, as HTML."""
    spread, samples = {}, {}
    for name, every in overview.largest_domains:
        rows = every[np.isfinite(overview.scores[every])]
        scores, score_of = np.unique(overview.scores[rows], return_inverse=True)
        ranked = np.bincount(score_of[overview.ranked[rows]], minlength=len(scores))
        left_out = np.bincount(score_of, minlength=len(scores)) - ranked
        spread[name] = (scores, ranked, left_out, selection.domains[name].threshold)
        some = rows[overview.hashes[rows] < sample_limit(max(1, len(rows)))]
        samples[name] = pd.DataFrame(
            {"repetition": overview.repetition[some], "AI_Score": overview.scores[some], "kept": overview.ranked[some]}
        )
    drawings = {
        "heads_picture": picture(
            heads_picture(head_scores, heads),
            "The retrieval score of every head, by layer; the masked heads are outlined",
        ),
        "distributions_picture": picture(
            distributions_picture(spread, selection.score),
            "The distribution of scores in each domain, and its threshold",
        ),
        "repetition_picture": "<p>The table does not say how much its documents repeat.</p>",
    }
    if any(sample["repetition"].notna().any() for sample in samples.values()):
        drawings["repetition_picture"] = picture(
            repetition_picture(samples, selection.score), "Score against repetition in each domain"
        )
    return drawings
