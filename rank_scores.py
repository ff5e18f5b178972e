"""Step 6: select the best documents of each domain by AI_Score.

    python rank_scores.py --scores data/ai_scores.tsv --top_pct 20
    python rank_scores.py --scores data/ai_scores.parquet --bottom_pct 20       the other end, for comparison

Reads   data/ai_scores.tsv or .parquet
Writes  data/top20.tsv and data/top20.parquet: the selected rows, best first within each domain, with what a loader
        needs to read each document from its shard: shard, start, end (tokens)
        data/top20.png: how the scores of each domain are spread, and its threshold
        data/top20.repetition.png: how score and repetition go together, and what was left out for it

Scores are compared within a domain only, never across. The score rewards repetition, so before a domain is ranked,
documents that repeat much of themselves and copies of others are left out of it: --max_repetition, --dedup.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from common import cli
from common.errors import InputError
from common.files import as_path, refuse_inputs, scratch, sole_writer
from common.pages.pictures import distributions_picture, repetition_picture, save
from common.table.ranking import Domain, Limits, Ranking
from common.table.scores import SLICES_SCHEMA, table_writer, with_slices


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=as_path, default=Path("data/ai_scores.tsv"), help="table of step 5")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top_pct", type=cli.percentage, default=20, help="take the best so many percent")
    which.add_argument("--bottom_pct", type=cli.percentage, help="take the lowest so many percent instead")
    parser.add_argument("--by", choices=["documents", "tokens"], default="documents", help="what the percentage is of")
    parser.add_argument(
        "--max_repetition",
        type=cli.fraction,
        default=0.3,
        help="leave out documents that hold a larger share of tokens in 10-grams that they held before; 1 for none",
    )
    parser.add_argument(
        "--dedup",
        choices=["exact", "near", "none"],
        default="near",
        help="of documents that are equal, or nearly (most of their 5-grams in common, by MinHash), keep one",
    )
    parser.add_argument("--out", type=as_path, help="the selection (default: data/top20.tsv, or as the percentage is)")
    return parser.parse_args(argv)


def rank(scores_path: Path, percent: float, by: str, lowest: bool, limits: Limits, out: Path) -> None:
    """Select within each domain, write the selection, draw it, and print a line per domain."""
    refuse_inputs([out, out.with_suffix(".parquet")], [scores_path])
    if scores_path.name:
        refuse_inputs([out], [scores_path.with_suffix(".tsv")])  # the same table, written beside it
    with sole_writer(out), scratch(out) as folder:
        ranking = Ranking(scores_path, percent, by, lowest, folder, limits, watch)
        with table_writer(out, SLICES_SCHEMA) as append:
            for table in ranking.selected():
                append(with_slices(table))
        pictures = draw(ranking.domains, lowest, out)
    show(ranking.domains)
    domains = ranking.domains.values()
    if ranking.num_not_finite:
        print(f"{ranking.num_not_finite:,} rows have no finite AI_Score and were not ranked")
    num_dropped = sum(sum(domain.dropped.values()) for domain in domains)
    print(
        f"left out before ranking: {num_dropped:,} (--max_repetition {limits.max_repetition:g} --dedup {limits.dedup})"
    )
    num_selected = sum(domain.num_selected for domain in domains)
    print(f"wrote {num_selected:,} documents to {out} and {out.with_suffix('.parquet')}")
    print(f"look at {' and '.join(map(str, pictures))}")
    print(f"next: python validate_docs.py --base_model MODEL --scores {scores_path} --top 1 --bottom 1")
    print(f"then: python report.py --base_model MODEL --scores {scores_path} --selection {out.with_suffix('.parquet')}")


def watch(batches: Iterable[pa.Table], what: str, num_rows: int | None) -> Iterator[pa.Table]:
    """The same batches, with a bar that counts their rows."""
    with cli.progress(num_rows, what, unit="rows") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def show(domains: dict[str, Domain]) -> None:
    """Print a line per domain."""
    limits = list(dict.fromkeys(limit for domain in domains.values() for limit in domain.dropped))
    lines = [("domain", *limits, "ranked", "tokens", "mean", "threshold", "selected", "share of tokens")]
    for name, domain in domains.items():
        lines.append(
            (
                name,
                *(f"{domain.dropped[limit]:,}" for limit in limits),
                f"{domain.num_documents:,}",
                f"{domain.num_tokens:,}",
                f"{domain.score_sum / domain.num_documents:.4f}" if domain.num_documents else "",
                f"{domain.threshold:.4f}",
                f"{domain.num_selected:,}",
                f"{domain.selected_tokens / domain.num_tokens:.1%}" if domain.num_tokens else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        aligned = [name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]
        print("  ".join(aligned))


def draw(domains: dict[str, Domain], lowest: bool, out: Path) -> list[Path]:
    """Draw the largest domains, beside `out`; returns the pictures."""
    largest = {name: domain for name, domain in domains.items() if domain.sample is not None}
    spread = {name: (*domain.histogram(lowest), domain.threshold) for name, domain in largest.items()}
    figures = {out.with_suffix(".png"): distributions_picture(spread)}
    samples = {name: domain.sample for name, domain in largest.items()}
    if any(sample["repetition"].notna().any() for sample in samples.values()):
        figures[out.with_suffix(".repetition.png")] = repetition_picture(samples)
    for path, figure in figures.items():
        save(figure, path)
    return list(figures)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    lowest = args.bottom_pct is not None
    percent = args.bottom_pct if lowest else args.top_pct
    out = args.out or Path("data") / f"{'bottom' if lowest else 'top'}{percent:g}.tsv"
    if out.suffix != ".tsv":
        raise InputError(f"--out {out}: end it with .tsv; the .parquet is written beside it")
    rank(args.scores, percent, args.by, lowest, Limits(args.max_repetition, args.dedup), out)


if __name__ == "__main__":
    cli.run(main)
