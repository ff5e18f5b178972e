"""Step 6: select the best documents of each domain by AI_Score.

    python rank_scores.py --scores data/ai_scores.tsv --top_pct 20
    python rank_scores.py --scores data/ai_scores.parquet --bottom_pct 20       the other end, for comparison

Reads   data/ai_scores.tsv or .parquet
Writes  data/top20.tsv and data/top20.parquet: the selected rows, best first within each domain, with what a loader
        needs to read each document from its shard: shard, start, end (tokens)
        data/top20.json: the options, and for each domain its counts, mean score and threshold
        data/top20.states.parquet: what became of each document of the table; validate_docs.py and report.py read it
        data/top20.png: the distribution of scores in each domain, and its threshold
        data/top20.repetition.png: score against repetition, with the documents that were left out

Scores are compared only within a domain, never across. The score rewards repetition; so before a domain is ranked,
documents that repeat much of themselves, and copies of other documents, are left out: --max_repetition, --dedup.
The percentage of each domain is rounded up. Prints and pictures show the 24 largest domains.
"""

import argparse
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from common import cli
from common.errors import InputError
from common.files import as_path, refuse_inputs, scratch, sole_writer
from common.table.names import beside


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=as_path, default=Path("data/ai_scores.tsv"), help="table of step 5")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top_pct", type=cli.percentage, default=20, help="select the best N percent")
    which.add_argument("--bottom_pct", type=cli.percentage, help="select the lowest N percent instead")
    parser.add_argument("--by", choices=["documents", "tokens"], default="documents", help="what the percentage is of")
    parser.add_argument(
        "--max_repetition",
        type=cli.fraction,
        default=0.3,
        help="leave out documents with a larger share of tokens in 10-grams that occurred before; 1 keeps all",
    )
    parser.add_argument(
        "--dedup",
        choices=["exact", "near", "none"],
        default="near",
        help="of documents that are equal, or nearly equal (most 5-grams in common, by MinHash), keep one",
    )
    parser.add_argument(
        "--out",
        type=as_path,
        help="the selection (default: top20.tsv next to --scores, with the percentage in its name)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the selection from another table at --out")
    return parser.parse_args(argv)


def watch(batches: Iterable, what: str, num_rows: int | None) -> Iterator:
    """The same batches, with a bar that counts their rows."""
    with cli.progress(num_rows, what, unit="rows") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def show_domains(domains: dict) -> None:
    """Print a line for each of the largest `common.table.ranking.Domain`s, and one for all others."""
    from common.table.ranking import lines

    limits = list(dict.fromkeys(limit for domain in domains.values() for limit in domain.left_out))
    rows = [("domain", *limits, "ranked", "tokens", "mean", "threshold", "selected", "share of tokens")]
    for name, domain in lines(domains):
        left_out = (f"{domain.left_out.get(limit, 0):,}" for limit in limits)
        scores = ("" if score is None else f"{score:.4f}" for score in (domain.mean_score, domain.threshold))
        share = f"{domain.share_of_tokens:.1%}" if domain.tokens else ""
        counts = (f"{domain.documents:,}", f"{domain.tokens:,}", *scores, f"{domain.selected_documents:,}", share)
        rows.append((name, *left_out, *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]
        print("  ".join(aligned))


def show_rounding(whole, percent: float, by: str, num_domains: int) -> None:
    """Print a warning if rounding up selects over a tenth too much of `whole`, all domains together."""
    total, selected = getattr(whole, by), getattr(whole, f"selected_{by}")
    if selected > Fraction(str(percent)) / 100 * total * Fraction(11, 10):
        print(
            f"warning: {percent:g} % of the {by} of each domain, rounded up, are {selected:,} of {total:,} {by} "
            f"({selected / total:.1%}), in {num_domains:,} domains; fewer, larger domains come closer to {percent:g} %"
        )


def draw(ranking, out: Path) -> list[Path]:
    """Draw the largest domains of a `common.table.ranking.Ranking`, next to `out`; returns the pictures."""
    from common.pages.pictures import distributions_picture, repetition_picture, save_picture

    spread = {
        name: (drawn.scores, drawn.ranked, drawn.left_out, ranking.domains[name].threshold)
        for name, drawn in ranking.drawn.items()
    }
    figures = {out.with_suffix(".png"): distributions_picture(spread)}
    samples = {name: drawn.sample for name, drawn in ranking.drawn.items()}
    if any(sample["repetition"].notna().any() for sample in samples.values()):
        figures[out.with_suffix(".repetition.png")] = repetition_picture(samples)
    for path, figure in figures.items():
        save_picture(figure, path)
    return list(figures)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.table.ranking import Limits, Ranking, together
    from common.table.selection import STATES_SUFFIX, refuse_selection_of_another_table, write_selection

    lowest = args.bottom_pct is not None
    percent = args.bottom_pct if lowest else args.top_pct
    out = args.out or beside(args.scores, f"{'bottom' if lowest else 'top'}{percent:g}.tsv")
    if out.suffix != ".tsv":
        raise InputError(f"--out {out}: end it with .tsv; the .parquet is written next to it")
    refuse_inputs([out, out.with_suffix(".parquet"), out.with_suffix(STATES_SUFFIX)], [args.scores])
    if args.scores.name:
        refuse_inputs([out], [args.scores.with_suffix(".tsv")])  # the same table, written next to it
    limits = cli.options(Limits, args)
    with sole_writer(out), scratch(out) as folder:
        if not args.overwrite:
            refuse_selection_of_another_table(out, args.scores)
        ranking = Ranking(args.scores, percent, args.by, lowest, folder, limits, watch)
        selection = write_selection(ranking, out)
        pictures = draw(ranking, out)
    show_domains(selection.domains)
    if selection.num_not_finite:
        print(f"{selection.num_not_finite:,} rows have no finite AI_Score and were not ranked")
    whole = together(selection.domains.values())
    num_left_out = sum(whole.left_out.values())
    print(f"left out before ranking: {num_left_out:,} (--max_repetition {args.max_repetition:g} --dedup {args.dedup})")
    show_rounding(whole, percent, args.by, len(selection.domains))
    print(f"wrote {whole.selected_documents:,} documents to {out} and {out.with_suffix('.parquet')}")
    print(f"wrote the counts of each domain to {out.with_suffix('.json')}")
    print(f"wrote what became of each document to {out.with_suffix(STATES_SUFFIX)}")
    print(f"see {' and '.join(map(str, pictures))}")
    both = f"--scores {args.scores} --selection {out.with_suffix('.parquet')}"
    print(f"next: python validate_docs.py {both} --top 1 --bottom 1")
    print(f"then: python report.py {both}")


if __name__ == "__main__":
    cli.run(main)
