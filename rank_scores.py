"""Step 6: select the best documents of each domain by AI_Score.

    python rank_scores.py --scores data/ai_scores.tsv --top_pct 20
    python rank_scores.py --scores data/ai_scores.parquet --bottom_pct 20       the other end, for comparison

Reads   data/ai_scores.tsv or .parquet
Writes  data/top20.tsv and data/top20.parquet: the selected rows, best first within each domain, with what a loader
        needs to read each document from its shard: shard, start, end (tokens)

Scores are compared within a domain only, never across.
"""

from pathlib import Path

import pandas as pd

from common import cli
from common.errors import InputError
from common.files import atomic, refuse_inputs, sole_writer
from common.scores import read_scores, select, with_slices


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=Path, default=Path("data/ai_scores.tsv"), help="table of step 5")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top_pct", type=cli.percentage, default=20, help="take the best so many percent")
    which.add_argument("--bottom_pct", type=cli.percentage, help="take the lowest so many percent instead")
    parser.add_argument("--by", choices=["documents", "tokens"], default="documents", help="what the percentage is of")
    parser.add_argument("--out", type=Path, help="the selection (default: data/top20.tsv, or as the percentage is)")
    return parser.parse_args(argv)


def rank(scores_path: Path, percent: float, by: str, lowest: bool, out: Path) -> None:
    """Select within each domain, write the selection, and print a line per domain."""
    refuse_inputs([out, out.with_suffix(".parquet")], [scores_path])
    if scores_path.name:
        refuse_inputs([out], [scores_path.with_suffix(".tsv")])  # the same table, written beside it
    scores = read_scores(scores_path)
    selections, num_ranked, lines = (
        [],
        0,
        [("domain", "documents", "tokens", "mean", "threshold", "selected", "share of tokens")],
    )
    for domain, rows, chosen in select(scores, percent, by, lowest):
        selections.append(chosen)
        num_ranked += len(rows)
        lines.append(
            (
                domain,
                f"{len(rows):,}",
                f"{rows['num_tokens'].sum():,}",
                f"{rows['AI_Score'].mean():.4f}",
                f"{chosen['AI_Score'].iloc[-1]:.4f}",
                f"{len(chosen):,}",
                f"{chosen['num_tokens'].sum() / rows['num_tokens'].sum():.1%}",
            )
        )
    if not selections:
        raise InputError(f"{scores_path}: no row has a finite AI_Score; look at L_base and L_ref in it")
    selected = with_slices(pd.concat(selections, ignore_index=True))
    with sole_writer(out), atomic(out) as tsv, atomic(out.with_suffix(".parquet")) as parquet:
        selected.to_csv(tsv, sep="\t", index=False, float_format="%.10g")
        selected.to_parquet(parquet, index=False)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells))
    dropped = len(scores) - num_ranked
    if dropped:
        print(f"{dropped:,} rows have no finite AI_Score and were not ranked")
    print(f"wrote {len(selected):,} documents to {out} and {out.with_suffix('.parquet')}")
    print(f"next: python validate_docs.py --base_model MODEL --scores {scores_path} --top 1 --bottom 1")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    lowest = args.bottom_pct is not None
    percent = args.bottom_pct if lowest else args.top_pct
    out = args.out or Path("data") / f"{'bottom' if lowest else 'top'}{percent:g}.tsv"
    if out.suffix != ".tsv":
        raise InputError(f"--out {out}: end it with .tsv; the .parquet is written beside it")
    rank(args.scores, percent, args.by, lowest, out)


if __name__ == "__main__":
    cli.run(main)
