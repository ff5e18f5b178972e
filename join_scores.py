"""After step 5: put the scores beside the files of the corpus.

    python join_scores.py --scores data/ai_scores.parquet --out_dir data/joined
    python join_scores.py --scores data/ai_scores.parquet --format dolma --out_dir corpus/attributes/attention_influence

Reads   data/ai_scores.parquet, and the files of the corpus
Writes  data/joined/: for each file with a scored row a parquet of the same rows in the same order, with `id` and the
        columns of the score table, null for rows without a score. The names are those of the files, from the folder
        that holds them all
        data/joined/.join.json: how many there are

--format dolma writes attribute files for Dolma's mixer instead, from the folder `documents` in the paths on. Each
number is a span over the whole text: attention_influence__AI_Score: [[0, 1234, 0.2]].

A document that has changed since it was scored gets nulls, is counted and named, and the exit status is 3. The folder
appears when it is complete. One of another table or format is replaced only with --overwrite.
"""

import argparse
from pathlib import Path

from common import cli, flags
from common.files import as_path, sole_writer


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--scores", type=as_path, default=Path("data/ai_scores.parquet"), help="table of step 5")
    parser.add_argument("--format", choices=["parquet", "dolma"], default="parquet", help="what to write")
    parser.add_argument("--out_dir", type=as_path, default=Path("data/joined"), help="the folder to write")
    flags.add_corpus_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the join of another table in --out_dir")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.export.join import JoinOptions, join_scores

    with sole_writer(args.out_dir):
        join_scores(cli.options(JoinOptions, args))


if __name__ == "__main__":
    cli.run(main)
