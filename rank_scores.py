"""Step 6: select the best documents of each domain by AI_Score, or by another score.

    python rank_scores.py --scores data/ai_scores.tsv --top_pct 20
    python rank_scores.py --scores data/ai_scores.parquet --bottom_pct 20       the other end, for comparison
    python rank_scores.py --where 'language_score > 0.8 and num_tokens >= 64' --within num_tokens:10
    python rank_scores.py --score '0.5 * pct(AI_Score) + 0.5 * pct(edu_score)' --budget 70e9 --shares code=0.2

Reads   data/ai_scores.tsv or .parquet
Writes  data/top20.tsv and data/top20.parquet: the selected rows, best first within each domain, with what a loader
        needs to read each document from its shard: shard, start, end (tokens); with --score also rank_score
        data/top20.json: the options, and for each domain its counts, mean score and threshold
        data/top20.states.parquet: what became of each document of the table; validate_docs.py and report.py read it
        data/top20.png: the distribution of scores in each domain, and its threshold
        data/top20.repetition.png: score against repetition, with the documents that were left out
        With --bottom_pct 20 the name is bottom20, with --budget 70e9 it is budget70B.

Scores are compared only within a domain, never across. The score rewards repetition; so before a domain is ranked,
documents that repeat much of themselves, and copies of other documents, are left out: --max_repetition, --dedup.
The percentage of each domain is rounded up. Prints and pictures show the 24 largest domains.

--where, --score and --within take expressions: SQL of DuckDB over the columns of the table, also those that step 4 kept
of the source. A column whose name is not a plain word stands in double quotes. Only --score knows pct(x): the rank of x
among the ranked documents of its domain, from 0 to 1; of equal values the mean of their ranks.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from common import cli
from common.errors import InputError
from common.files import as_path, refuse_inputs, scratch, sole_writer
from common.table.names import beside, record_of

UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=as_path, default=Path("data/ai_scores.tsv"), help="table of step 5")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top_pct", type=cli.percentage, default=20, help="select the best N percent")
    which.add_argument("--bottom_pct", type=cli.percentage, help="select the lowest N percent instead")
    which.add_argument("--budget", type=num_tokens, help="select the best documents with as many tokens, such as 70e9")
    parser.add_argument(
        "--shares",
        type=share,
        nargs="+",
        default=[],
        metavar="DOMAIN=SHARE",
        help="with --budget: a domain's part of it, such as code=0.2 (default: as the tokens of the domains are)",
    )
    parser.add_argument("--by", choices=["documents", "tokens"], help="what the percentage is of (default: documents)")
    parser.add_argument("--score", default="AI_Score", help="rank by this number, an expression")
    parser.add_argument("--where", help="rank only documents for which this is true, an expression")
    parser.add_argument(
        "--within",
        type=groups,
        metavar="COLUMN:N",
        help="take the percentage inside each of N equally large groups of a domain, by rank of a column",
    )
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
    parser.add_argument("--memory", type=memory, default="1GB", help="most that DuckDB uses; the rest goes to disk")
    return parser.parse_args(argv)


def num_tokens(text: str) -> int:
    """Argument type: a whole number of tokens, also as 70e9 or 70B (K, M, B, T).

    >>> num_tokens("1.5B"), num_tokens("70_000"), num_tokens("7e3")
    (1500000000, 70000, 7000)
    """
    digits, unit = (text[:-1], text[-1]) if text[-1:].upper() in UNITS else (text, "")
    number = Fraction(str(cli.positive_float(digits))) * UNITS.get(unit.upper(), 1)
    return cli.positive_int(str(number))


def short(number: int) -> str:
    """A number of tokens for a file's name.

    >>> short(70 * 10**9), short(1_500), short(1_234_567)
    ('70B', '1500', '1234567')
    """
    unit = max((unit for unit in UNITS if number % UNITS[unit] == 0), key=UNITS.get, default="")
    return f"{number // UNITS.get(unit, 1)}{unit}"


def share(text: str) -> tuple[str, float]:
    """Argument type: `code=0.2`."""
    name, equals, value = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not DOMAIN=SHARE")
    return name, cli.fraction(value)


def groups(text: str) -> tuple[str, int]:
    """Argument type: `num_tokens:10`."""
    column, _, number = text.rpartition(":")
    if not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN:N, such as num_tokens:10")
    return column, cli.positive_int(number)


def memory(text: str) -> str:
    """Argument type: `1GB`; from 200 MB, with less DuckDB ranks nothing."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MGT])i?B", text)
    if not size or float(size[1]) * {"M": 1, "G": 1000, "T": 10**6}[size[2]] < 200:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 200MB, such as 1GB")
    return text


def watch(batches: Iterable, what: str, num_rows: int | None) -> Iterator:
    """The same batches, with a bar that counts their rows."""
    with cli.progress(num_rows, what, unit="rows") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def show_domains(domains: dict) -> None:
    """Print a line for each of the largest `common.table.domains.Domain`s, and one for all others."""
    from common.table.domains import lines

    limits = list(dict.fromkeys(limit for domain in domains.values() for limit in domain.left_out))
    rows = [("domain", *limits, "ranked", "tokens", "mean", "threshold", "selected", "share of tokens")]
    for name, domain in lines(domains):
        left_out = (f"{domain.left_out.get(limit, 0):,}" for limit in limits)
        scores = ("" if score is None else f"{score:.4f}" for score in (domain.mean_score, domain.threshold))
        share = f"{domain.share_of_tokens:.1%}" if domain.tokens else ""
        counts = (f"{domain.documents:,}", f"{domain.tokens:,}", *scores, f"{domain.selected_documents:,}", share)
        rows.append((name, *left_out, *counts))
    show_table(rows)


def show_goes_with(found: dict) -> None:
    """Print how far the score goes with simpler measures: `common.table.domains.goes_with` of each domain."""
    from common.table.domains import SIMPLER
    from common.table.schema import NO_DOMAIN

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    print("rank correlation of the score with other measures, before and after the guards, and the share of the")
    print("selection that as many documents of lowest loss, greatest length or most repetition would hold, too:")
    titles = ("L_base", "length", "repetition")
    rows = [("domain", *(title for name in titles for title in (name, "guarded", "overlap")))]
    for domain, measures in found.items():
        forms = (("all", "+.2f"), ("ranked", "+.2f"), ("overlap", ".0%"))
        cells = (shown(measures[name][what], form) for name in SIMPLER for what, form in forms)
        rows.append((domain or NO_DOMAIN, *cells))
    show_table(rows)


def show_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]
        print("  ".join(aligned))


def show_cascade(selection) -> None:
    """Print what a `common.table.selection.SelectionRecord` is of, if a prefilter chose what was scored."""
    from common.table.selection import KEPT_BY

    if selection.cascade:
        print(f"{KEPT_BY}: {dict(selection.facts())[KEPT_BY]}")
        print(
            f"the selection is of about {selection.total:,} {selection.by}: the ranked ones, and their share of those "
            "that the prefilter left out"
        )


def show_amount(selection) -> None:
    """Print a line if far more is selected than asked for, or less, of a `common.table.selection.SelectionRecord`."""
    from common.errors import few
    from common.table.domains import together

    whole, num_domains, by = together(selection.domains.values()), len(selection.domains), selection.by
    total, selected = selection.total, getattr(whole, f"selected_{by}")
    wanted = Fraction(str(selection.percent)) / 100 * total if selection.percent else selection.budget
    asked = f"{selection.percent:g} % of the {by} of each domain" if selection.percent else f"{wanted:,} tokens"
    if selected > wanted * Fraction(11, 10):
        print(
            f"warning: {asked}, rounded up, are {selected:,} of {total:,} {by} ({selected / total:.1%}), in "
            f"{num_domains:,} domains; fewer, larger domains come closer to it"
        )
    short = {name: d for name, d in selection.domains.items() if d.selected_tokens < (d.wanted_tokens or 0)}
    if short:
        held, wanted = (sum(getattr(d, f"{what}_tokens") for d in short.values()) for what in ("selected", "wanted"))
        print(f"warning: {few(list(short))}: all {held:,} tokens are selected, but {wanted:,} were wanted")
    empty = [name for name, d in selection.domains.items() if not d.documents and "filtered" in d.left_out]
    if empty:
        print(f"warning: {few(empty)}: no document is left to rank after --where and the guards")


def draw(ranking, out: Path) -> list[Path]:
    """Draw the largest domains of a `common.table.ranking.Ranking`, next to `out`; returns the pictures."""
    from common.pages.pictures import distributions_picture, repetition_picture, save_picture

    spread = {
        name: (drawn.scores, drawn.ranked, drawn.left_out, ranking.domains[name].threshold)
        for name, drawn in ranking.drawn.items()
    }
    score = ranking.goal.score
    figures = {out.with_suffix(".png"): distributions_picture(spread, score)}
    samples = {name: drawn.sample for name, drawn in ranking.drawn.items()}
    if any(sample["repetition"].notna().any() for sample in samples.values()):
        figures[out.with_suffix(".repetition.png")] = repetition_picture(samples, score)
    for path, figure in figures.items():
        save_picture(figure, path)
    return list(figures)


def check_goal(args: argparse.Namespace) -> None:
    """Raise InputError for flags that do not go together."""
    if args.budget is None and args.shares:
        raise InputError("--shares: shares of a budget; give --budget too")
    if args.budget is not None and args.by == "documents":
        raise InputError("--by documents: a budget is of tokens; leave --by out")
    if len(dict(args.shares)) < len(args.shares):
        raise InputError("--shares: a domain twice; give each share once")
    if (together := sum(Fraction(str(value)) for _, value in args.shares)) > 1:
        raise InputError(f"--shares: {float(together):g} together; let them sum to at most 1")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_goal(args)
    from common.table.domains import together
    from common.table.ranking import Goal, Limits, Ranking
    from common.table.selection import STATES_SUFFIX, refuse_selection_of_another_table, write_selection
    from common.text.prefiltered import facts_in

    lowest = args.bottom_pct is not None
    percent = None if args.budget else args.bottom_pct if lowest else args.top_pct
    by = args.by or ("tokens" if args.budget else "documents")
    name = f"budget{short(args.budget)}" if args.budget else f"{'bottom' if lowest else 'top'}{percent:g}"
    out = args.out or beside(args.scores, f"{name}.tsv")
    if out.suffix != ".tsv":
        raise InputError(f"--out {out}: end it with .tsv; the .parquet is written next to it")
    refuse_inputs([out, out.with_suffix(".parquet"), out.with_suffix(STATES_SUFFIX)], [args.scores])
    if args.scores.name:
        refuse_inputs([out], [args.scores.with_suffix(".tsv")])  # the same table, written next to it
    limits = cli.options(Limits, args)
    with sole_writer(out), scratch(out) as folder:
        if not args.overwrite:
            refuse_selection_of_another_table(out, args.scores)
        goal = cli.options(Goal, args, shares=dict(args.shares))
        prefilter = facts_in(record_of(args.scores))
        ranking = Ranking(args.scores, percent, by, lowest, folder, limits, watch, goal, args.memory, prefilter)
        selection = write_selection(ranking, out)
        pictures = draw(ranking, out)
    show_domains(selection.domains)
    show_goes_with(selection.goes_with)
    if selection.num_not_finite:
        print(f"{selection.num_not_finite:,} rows have no finite {args.score} and were not ranked")
    whole = together(selection.domains.values())
    num_left_out = sum(whole.left_out.values())
    where = f" --where {args.where!r}" if args.where else ""
    limited = f"--max_repetition {args.max_repetition:g} --dedup {args.dedup}{where}"
    print(f"left out before ranking: {num_left_out:,} ({limited})")
    show_cascade(selection)
    show_amount(selection)
    print(f"wrote {whole.selected_documents:,} documents to {out} and {out.with_suffix('.parquet')}")
    print(f"wrote the counts of each domain to {out.with_suffix('.json')}")
    print(f"wrote what became of each document to {out.with_suffix(STATES_SUFFIX)}")
    print(f"see {' and '.join(map(str, pictures))}")
    both = f"--scores {args.scores} --selection {out.with_suffix('.parquet')}"
    print(f"next: python validate_docs.py {both} --top 1 --bottom 1")
    print(f"then: python report.py {both}")


if __name__ == "__main__":
    cli.run(main)
