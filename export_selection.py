"""After step 6: take the selection out, as text or as tokens for a trainer.

    python export_selection.py --selection data/top20.parquet --format parquet --out_dir data/selected
    python export_selection.py --selection data/top20.parquet --format megatron --out_dir data/selected

Reads   data/top20.parquet; for text the files of the corpus, for tokens the shards
Writes  data/selected/, by --format

        parquet, jsonl, jsonl.gz, jsonl.zst
                    text: part-00000.parquet, …, all columns of the corpus and behind them those of the score table, in
                    the order of the files. The same command continues a stopped export. Documents that have changed
                    since they were scored are left out, counted and named, and the exit status is 3
        megatron    for Megatron-LM and NeMo: an .idx for each shard, and a link to the shard next to it. Nothing is
                    copied, so the shards must stay where they are
        olmo        for OLMo-core: the tokens of the documents, .npy, and the places of the documents, .csv.gz
        datatrove   for datatrove and nanotron: the tokens, .ds, with .ds.index and .ds.metadata
        litdata     for LitData: chunks of documents, and index.json

        and for a trainer data/selected/export.json, what was exported, and what to paste into the trainer

For a trainer each document is written once, in the order of its shard. In copies its last token is the separator. The
folder appears when it is complete.
"""

import argparse
from pathlib import Path

from common import cli, flags
from common.files import as_path, sole_writer

TEXT = ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"]
TOKENS = ["megatron", "olmo", "datatrove", "litdata"]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--selection", type=as_path, default=Path("data/top20.parquet"), help="selection of step 6")
    parser.add_argument("--format", required=True, choices=[*TEXT, *TOKENS], help="what to write")
    parser.add_argument("--out_dir", type=as_path, default=Path("data/selected"), help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace another export in --out_dir")
    flags.add_separator_flags(parser)
    text = parser.add_argument_group("text")
    flags.add_corpus_flags(text)
    text.add_argument(
        "--rows_per_file", type=cli.positive_int, default=1_000_000, help="documents of the selection for each file"
    )
    text.add_argument(
        "--from_tokens", action="store_true", help="decode the tokens of the shards, for documents without a file"
    )
    text.add_argument("--tokenizer", help="for --from_tokens (default: the one that the shards name)")
    flags.add_trust_flag(text)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.export.run import export
    from common.export.text import TextOptions, export_text
    from common.shards.reader import ShardReader

    reader = cli.options(ShardReader, args)
    with sole_writer(args.out_dir):
        if args.format in TEXT:
            export_text(cli.options(TextOptions, args), reader)
        else:
            export(args.selection, reader, args.format, args.out_dir, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
