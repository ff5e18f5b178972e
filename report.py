"""One page about a run: its facts, its heads, its scores and thresholds, and its documents to search and to read.

    python report.py --base_model data/SmolLM2-135M-Instruct
    python report.py --scores data/ai_scores.parquet --selection data/top20.parquet --out data/report.html

Reads   data/ai_scores.parquet, with data/ai_scores.json beside it if that is there; data/top20.parquet;
        data/retrieval_heads.tsv; the record in the reference model's folder; the shards of the documents shown
Writes  data/report.html, which holds all that it shows and asks no network for anything. No model runs.

Up to --max_docs documents are on the page: all, or else of each domain the best, the lowest and some of the rest.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from common import cli
from common.errors import InputError
from common.files import as_path, sole_writer
from common.flags import DEFAULT_MODEL, Runtime, add_separator_flags, add_trust_flag
from common.model.checkpoints import load_model_tokenizer
from common.model.heads import Head, read_scores
from common.pages.facts import facts, notes
from common.pages.origins import Origins, texts
from common.pages.overview import (
    DOMAINS_DRAWN,
    GUARDS,
    Overview,
    choose,
    columns_of,
    read_overview,
    read_rows,
    read_selection,
    sources,
    thresholds,
)
from common.pages.page import check_page, picture, write_page
from common.pages.pictures import distributions_picture, heads_picture
from common.scoring.pair import read_record


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=as_path, default=Path("data/ai_scores.parquet"), help="table of step 5")
    parser.add_argument("--selection", type=as_path, default=Path("data/top20.parquet"), help="table of step 6")
    parser.add_argument(
        "--retrieval_heads", type=Path, default=Path("data/retrieval_heads.tsv"), help="every head's score, of step 2"
    )
    parser.add_argument("--reference_model", default="reference-model", help="its masked copy from step 3")
    parser.add_argument(
        "--data_dir", nargs="+", type=as_path, help="folders that an id may lead into (default: the current folder)"
    )
    parser.add_argument("--base_model", default=DEFAULT_MODEL, help="the model whose tokenizer made the shards")
    parser.add_argument("--tokenizer", help="model name or folder, or tiktoken:gpt2 (default: the base model's)")
    parser.add_argument("--max_docs", type=cli.positive_int, default=5000, help="most documents on the page")
    parser.add_argument("--max_chars", type=cli.positive_int, default=20_000, help="where a longer text is cut")
    parser.add_argument("--out", type=as_path, default=Path("data/report.html"), help="the page")
    add_trust_flag(parser)
    add_separator_flags(parser)
    return parser.parse_args(argv)


def pictures(overview: Overview, limits: list[tuple], scores: np.ndarray, heads: list[Head]) -> dict[str, str]:
    """The two drawings, as HTML."""
    threshold_of = {name: math.nan if limit is None else limit for name, *_, limit, _ in limits}
    largest = sorted(overview.of_domains, key=lambda item: -len(item[1]))[:DOMAINS_DRAWN]
    domains = {
        name: (*np.unique(overview.scores[rows], return_counts=True), threshold_of[name])
        for name, rows in sorted(largest, key=lambda item: item[0])
    }
    both = (False, True)
    return {
        "heads_picture": picture(
            *(heads_picture(scores, heads, dark) for dark in both),
            "The retrieval score of every head, by layer; the masked heads are outlined",
        ),
        "distributions_picture": picture(
            *(distributions_picture(domains, dark) for dark in both),
            "How the scores of each domain are spread, and where its threshold lies",
        ),
    }


def report(
    scores: Path,
    selection: Path,
    retrieval_heads: Path,
    base_model: str,
    reference_model: str,
    folders: list[Path],
    read_texts: Callable,
    max_docs: int,
    max_chars: int,
    out: Path,
) -> None:
    """Gather what the page shows, and write it; `read_texts` gives the texts of doc_ids, as `origins.texts`."""
    head_scores, chosen = read_scores(retrieval_heads)
    masked, record_path = read_record(reference_model), scores.with_suffix(".json")
    mask, heads = masked or (None, chosen)
    overview = read_overview(scores, Origins(folders))
    shown = choose(overview, max_docs)
    table = read_rows(scores, overview.rows[shown])
    doc_ids = table["doc_id"].to_pylist()
    selected, among_shown = read_selection(selection, set(doc_ids))
    limits = thresholds(overview, selected, selection)
    if len(doc_ids) == len(overview.rows) and len(among_shown) < sum(s.num_documents for s in selected.values()):
        raise InputError(f"{selection}: it is of another table than {scores}; select from that with rank_scores.py")
    source_of = overview.sources.take(overview.source_of[shown]).to_pylist()
    with cli.progress(len(doc_ids), "reading", "documents", read_texts(doc_ids)) as reading:
        documents = columns_of(table, reading, among_shown, source_of, max_chars)
    data = {
        "facts": facts({"base_model": base_model, "reference_model": reference_model}, record_path, mask, heads),
        "notes": notes(overview, len(shown), record_path, masked, reference_model, chosen),
        "thresholds": limits,
        "guards": [name for name in GUARDS if name in documents],
        "sources": sources(overview),
        "max_chars": max_chars,
        "documents": documents,
    }
    write_page(out, "report.html", data, **pictures(overview, limits, head_scores, heads))
    print(f"wrote {out}; open it in a browser")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_page(args.out)
    runtime = Runtime(tokenizer=args.tokenizer, trust_remote_code=args.trust_remote_code)
    tokenizer = load_model_tokenizer(args.base_model, runtime)
    read_texts = partial(texts, tokenizer=tokenizer, eot_id=args.eot_id, eot_side=args.eot_side)
    with sole_writer(args.out):
        report(
            args.scores,
            args.selection,
            args.retrieval_heads,
            args.base_model,
            args.reference_model,
            args.data_dir or [Path()],
            read_texts,
            args.max_docs,
            args.max_chars,
            args.out,
        )


if __name__ == "__main__":
    cli.run(main)
