"""One page about a run: whether its model is good enough, its scores and thresholds, its documents to search and read.

    python report.py --base_model data/SmolLM2-135M-Instruct
    python report.py --scores data/ai_scores.parquet --selection data/top20.parquet --out data/report.html

Reads   data/ai_scores.parquet, and data/ai_scores.json next to it if it is there; data/top20.parquet with its record
        data/top20.json and data/top20.states.parquet; data/retrieval_heads.tsv; the record and causal_check.json in the
        reference model's folder; the shards of the documents shown
Writes  data/report.html, a single file that makes no request to any network. No model runs.

The page shows the 24 largest domains, and up to --max_docs documents: all, or of each domain the best, the lowest and
random others.
"""

import argparse
from pathlib import Path

from common import cli, flags
from common.errors import InputError
from common.files import as_path, sole_writer
from common.table.names import beside


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=as_path, default=Path("data/ai_scores.parquet"), help="table of step 5")
    parser.add_argument("--selection", type=as_path, help="table of step 6 (default: top20.parquet next to --scores)")
    parser.add_argument(
        "--retrieval_heads",
        type=Path,
        help="every head's score, of step 2 (default: retrieval_heads.tsv next to --scores, or in data/)",
    )
    parser.add_argument("--reference_model", help="the masked copy (default: from the record of the scores)")
    flags.add_data_dir_flag(parser)
    parser.add_argument("--base_model", help="name or folder (default: from the record of the scores)")
    parser.add_argument("--tokenizer", help="model name or folder, or tiktoken:gpt2 (default: the base model's)")
    parser.add_argument("--max_docs", type=cli.positive_int, default=5000, help="most documents on the page")
    parser.add_argument("--max_chars", type=cli.positive_int, default=20_000, help="longer texts are cut here")
    parser.add_argument("--out", type=as_path, help="the page (default: report.html next to --scores)")
    flags.add_trust_flag(parser)
    flags.add_separator_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.pages.page import check_page
    from common.pages.report import ReportOptions, write_report
    from common.scoring.known import known_flags
    from common.shards.reader import ShardReader
    from common.text.tokenization import load_tokenizer

    if not args.scores.exists():
        raise InputError(f"{args.scores}: no such file; make it with attention_influence_scoring.py")
    vars(args).update(known_flags(vars(args), args.scores))
    heads = args.scores.with_name("retrieval_heads.tsv")
    args.retrieval_heads = args.retrieval_heads or (heads if heads.exists() else Path("data") / heads.name)
    args.selection = args.selection or beside(args.scores, "top20.parquet")
    args.out = args.out or beside(args.scores, "report.html")
    check_page(args.out)
    tokenizer = load_tokenizer(args.tokenizer or args.base_model, args.trust_remote_code)
    reader = cli.options(ShardReader, args, model_tokenizer=tokenizer)
    with sole_writer(args.out):
        write_report(cli.options(ReportOptions, args, data_dir=list(map(as_path, args.data_dir))), reader)


if __name__ == "__main__":
    cli.run(main)
