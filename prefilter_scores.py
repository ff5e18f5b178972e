"""Before step 4: let a cheap predictor choose which documents of a large corpus are scored.

    python prefilter_scores.py learn --scores data/pilot/ai_scores.parquet
    python prefilter_scores.py apply --input 'raw/*.jsonl.zst' --domain_column source --keep 0.4
    python prefilter_scores.py apply --input 'raw/*.jsonl.zst' --domain_column source --recall 0.95
    python fineweb.py --input 'raw/*.jsonl.zst' --domain_column source --prefilter data/prefilter

A pilot is a fair sample of the corpus that was scored: attention_influence_scoring.py --sample 1%. Features of the text
alone, of words that repeat, kinds of words, marks and compression, predict the rank of a document within its domain.

learn   reads   the scores of the pilot, and the texts: in the files of the corpus, or --from_tokens in the shards
        writes  data/prefilter/predictor.json, learn.json (all figures), price_list.tsv and price_list.png: the recall
                of the true top P % of each domain if a share of it is scored, with a band, from documents held out

apply   reads   data/prefilter/ and --input, as fineweb.py does: parquet, Arrow, JSON, JSONL or text (also .gz, .zst)
        writes  data/prefilter/kept.parquet, a row for each document: file, row, id, domain, characters, predicted,
                kept; and kept.json, the counts of each domain and the expected recall

--recall takes in each domain the smallest share for which the lower edge of the band reaches the recall. A domain that
the pilot lacks, or with few documents in it, or whose predictor is no better than chance, is kept whole. The same
command continues a stopped apply after its last finished files, and with more files it predicts only the new ones.
"""

import argparse
from pathlib import Path

from common import cli, flags
from common.errors import InputError
from common.files import as_path, refuse_url, sole_writer

DEFAULT = Path("data/prefilter")
EXAMPLE = 0.4  # the share that is printed


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    learn = steps.add_parser("learn", help="a scored pilot to a predictor and its price list")
    learn.add_argument("--scores", type=as_path, required=True, help="score table of the pilot")
    learn.add_argument("--score", default="AI_Score", help="column of the table whose rank is predicted")
    learn.add_argument("--top_pct", type=cli.percentage, default=20.0, help="what step 6 will select of each domain")
    flags.add_corpus_flags(learn)
    learn.add_argument("--from_tokens", action="store_true", help="decode the tokens of the shards")
    learn.add_argument("--tokenizer", help="for --from_tokens (default: the one that the shards name)")
    flags.add_trust_flag(learn)
    apply = steps.add_parser("apply", help="which documents of a corpus are kept")
    apply.add_argument("--input", nargs="+", required=True, help="files, folders, globs or URLs (s3://…)")
    share = apply.add_mutually_exclusive_group(required=True)
    share.add_argument("--keep", type=cli.share, metavar="0.4", help="share of each domain's documents that is kept")
    share.add_argument("--recall", type=cli.share, metavar="0.95", help="share of the true selection to find")
    apply.add_argument("--text_column", default="text", help="column that holds the text")
    apply.add_argument("--id_column", help="column that holds the source's id (default: id, or file and line)")
    apply.add_argument("--domain_column", help="column that holds the domain (default: all one domain)")
    flags.add_bad_row_flag(apply)
    flags.add_engine_flags(apply, "processes (default: one; with --engine ray, one for each machine)")
    for step in (learn, apply):
        step.add_argument("--overwrite", action="store_true", help="replace the work of another run in --prefilter")
        step.add_argument("--prefilter", type=as_path, dest="out_dir", default=DEFAULT, help="folder of the predictor")
    return parser.parse_args(argv)


def learn(args: argparse.Namespace) -> None:
    """Learn from a pilot, and show the price list."""
    from common.export.sources import Counts
    from common.export.text import TextSource
    from common.pages.pictures import recall_picture, save_picture
    from common.prefilter.learning import SCORES, LearnOptions, learn
    from common.prefilter.price_list import write_price_list
    from common.shards.reader import ShardReader
    from common.table.domains import largest, smaller
    from common.table.schema import NO_DOMAIN
    from common.text.corpus import DEFAULT_DOMAIN

    if args.score not in SCORES:
        raise InputError(f"--score {args.score}: not a measure of score tables; name one of {', '.join(SCORES)}")
    counts = Counts()
    source = cli.options(TextSource, args, selection=args.scores)
    learnt = learn(cli.options(LearnOptions, args), source, ShardReader(), counts)
    write_price_list(args.out_dir / "price_list.tsv", learnt.prices)
    shown = largest({name: price.documents for name, price in learnt.prices.items()})
    picture = recall_picture({name: learnt.prices[name] for name in shown}, args.top_pct)
    save_picture(picture, args.out_dir / "price_list.png")
    for name in shown:
        print(f"{name or NO_DOMAIN}: {learnt.prices[name].sentence(EXAMPLE)}")
    if rest := learnt.prices.keys() - shown:
        print(f"{smaller(len(rest))}: see {args.out_dir}/price_list.tsv")
    for name, why in learnt.whole.items():
        print(f"{name or NO_DOMAIN}: {why}; it will be kept whole")
    print(f"wrote {args.out_dir}/: predictor.json, learn.json, price_list.tsv, price_list.png")
    command = cli.command(
        "prefilter_scores.py apply",
        input="raw/*.jsonl.zst",
        keep=EXAMPLE,
        domain_column="source" if {*learnt.prices, *learnt.whole} != {DEFAULT_DOMAIN} else None,
        text_column=args.text_column,
        prefilter=args.out_dir if args.out_dir != DEFAULT else None,
    )
    print("next:", command)
    counts.report()


def apply(args: argparse.Namespace) -> None:
    """Choose what is kept of a corpus."""
    from common.prefilter.applying import ApplyOptions, apply
    from common.table.domains import largest, smaller
    from common.table.schema import NO_DOMAIN
    from common.text.corpus import Columns
    from common.workers.team import EngineOptions

    columns = Columns(args.text_column, args.id_column, args.domain_column)
    domains = apply(cli.options(ApplyOptions, args), columns, cli.options(EngineOptions, args))["domains"]
    shown = largest({name: domain["documents"] for name, domain in domains.items()})
    for name in shown:
        domain, recall = domains[name], domains[name]["recall"]
        expected = "expected recall {estimate:.2f} ({low:.2f} to {high:.2f})".format_map(recall) if recall else "whole"
        part = domain["kept_characters"] / max(domain["characters"], 1)
        counts = f"{domain['kept']:,} of {domain['documents']:,} documents"
        print(f"{name or NO_DOMAIN}: {counts}, {part:.0%} of the text; {expected}")
    if rest := domains.keys() - shown:
        print(f"{smaller(len(rest))}: see {args.out_dir}/kept.json")
    documents, kept = (sum(domain[name] for domain in domains.values()) for name in ("documents", "kept"))
    print(f"wrote {args.out_dir}/kept.parquet: {kept:,} of {documents:,} documents are kept")
    named = {f"{name}_column": value for name, value in vars(columns).items()}
    command = cli.command("fineweb.py", input=args.input, **named, on_bad_row=args.on_bad_row, prefilter=args.out_dir)
    print("next:", command)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    refuse_url(args.out_dir)
    with sole_writer(args.out_dir):
        {"learn": learn, "apply": apply}[args.step](args)


if __name__ == "__main__":
    cli.run(main)
