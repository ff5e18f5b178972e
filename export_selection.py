"""After step 6: give the selection to a trainer.

    python export_selection.py --selection data/top20.parquet --format megatron --out_dir data/selected

Reads   data/top20.parquet, and the shards of its documents
Writes  data/selected/, by --format:

        megatron    for Megatron-LM and NeMo: an .idx for each shard, and a link to the shard next to it. Nothing is
                    copied, so the shards must stay where they are
        olmo        for OLMo-core: the tokens of the documents, .npy, and the places of the documents, .csv.gz
        datatrove   for datatrove and nanotron: the tokens, .ds, with .ds.index and .ds.metadata
        litdata     for LitData: chunks of documents, and index.json

        and data/selected/export.json, what was exported, and what to paste into the trainer

Each document is written once, in the order of its shard. In copies its last token is the separator. The folder appears
when it is complete.
"""

import argparse
from pathlib import Path

from common import cli, flags
from common.files import as_path, sole_writer


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--selection", type=as_path, default=Path("data/top20.parquet"), help="selection of step 6")
    parser.add_argument(
        "--format", required=True, choices=["megatron", "olmo", "datatrove", "litdata"], help="what to write"
    )
    parser.add_argument("--out_dir", type=as_path, default=Path("data/selected"), help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace another export in --out_dir")
    flags.add_separator_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.export.run import export
    from common.shards.reader import ShardReader

    with sole_writer(args.out_dir):
        export(args.selection, cli.options(ShardReader, args), args.format, args.out_dir, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
