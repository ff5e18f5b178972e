"""Step 5: score every document by how much its loss rises without the retrieval heads.

    python attention_influence_scoring.py --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model \\
        --data 'data/fineweb10B/fineweb_train_*.bin' --seq_len 4096

Reads   the shards of step 4, or shards of llm.c and modded-nanogpt with --eot_id 50256
Writes  data/ai_scores.parquet and data/ai_scores.tsv, a row per document:

        doc_id                                         domain  num_tokens  L_base  L_ref  AI_Score  repetition  …
        data/finewebsample/fineweb_train_000001:0-289  plays   289         3.5335  4.1522  0.1751   0.0000      …

        data/ai_scores.json, how they were made: models, machine, versions, time
        with --granularity step also data/ai_scores.steps.parquet and .tsv, a row per step of each document

L_base and L_ref are mean nats per predicted token (of a chat: per token of the answers), and
AI_Score = (L_ref - L_base) / L_base. The other columns measure what the score rewards wrongly: repetition in the
document (repetition, longest_run, compression), and copies (duplicate_of, near_duplicate_of: the document that
represents all its copies). Documents longer than --seq_len are scored in windows. Finished work is saved in
data/ai_scores.parts/ every 30 seconds and when the run is stopped; the same command continues from there. For many
GPUs: --engine ray.
"""

import argparse
from functools import partial
from pathlib import Path

from common import cli, flags
from common.errors import InputError
from common.files import as_path, expand, refuse_folder, sole_writer

SECONDS_PER_PIECE = 1  # from a worker of a cluster, which may have hundreds


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    flags.add_pair_flags(parser)
    flags.add_separator_flags(parser)
    parser.add_argument(
        "--data", nargs="+", default=["data/fineweb10B/fineweb_train_*.bin"], help="shards, as files or globs"
    )
    parser.add_argument(
        "--granularity",
        choices=["document", "step"],
        default="document",
        help="step also scores the steps of each document, from the same forward pass, into a table of their own",
    )
    parser.add_argument(
        "--step_separator", help="text between steps, \\n for a line break (default: one or more blank lines)"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiled",
        help="fuse the models' small operations by torch.compile: faster, slower to start (default: on a GPU, if "
        "torch.compile works there)",
    )
    parser.add_argument(
        "--max_tokens", type=cli.positive_int, help="score up to this many tokens, to the end of a document"
    )
    parser.add_argument("--out", type=as_path, default=Path("data/ai_scores.tsv"), help="the table; also as .parquet")
    parser.add_argument("--overwrite", action="store_true", help="delete another run's work at --out")
    flags.add_engine_flags(parser, "with --engine ray (default: one for each GPU; without GPUs, one for each machine)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.checkpoints import Runtime, load_model_tokenizer
    from common.scoring.known import known_flags
    from common.scoring.pair import PairOptions
    from common.scoring.plan import make_plan
    from common.scoring.run import Job, score_corpus
    from common.scoring.units import StepOptions, Unit, UnitScorer
    from common.shards.reader import ShardReader
    from common.workers.team import EngineOptions, workers

    if args.out.suffix != ".tsv":
        raise InputError(f"--out {args.out}: end it with .tsv; the .parquet is written next to it")
    refuse_folder(args.out)
    vars(args).update(known_flags(vars(args)))
    engine = cli.options(EngineOptions, args)
    pair = cli.options(PairOptions, args, runtime=cli.options(Runtime, args))
    if engine.num_workers and engine.engine == "local":
        raise InputError("--num_workers: only --engine ray has workers to count; give both or neither")
    separator = args.step_separator
    if separator is not None and (args.granularity != "step" or not separator):
        raise InputError("--step_separator: some text, and only with --granularity step")
    if engine.engine == "ray" and ":" in args.device:
        raise InputError(f"--device {args.device}: with --engine ray each worker gets a GPU; give cuda or auto")
    steps = StepOptions(args.granularity == "step", separator and separator.replace("\\n", "\n"))
    tokenizer = load_model_tokenizer(args.base_model, pair.runtime)
    reader = cli.options(ShardReader, args, model_tokenizer=tokenizer)
    plan = make_plan(expand(args.data), reader, args.max_tokens)
    make = partial(UnitScorer, pair, steps, SECONDS_PER_PIECE if engine.engine == "ray" else 0)
    on_gpu = not args.device.startswith("cpu")
    with sole_writer(args.out), workers(engine, make, Unit.rest_after, on_gpu) as team:
        score_corpus(team, cli.options(Job, args, pair=pair, steps=steps, plan=plan, reader=reader))


if __name__ == "__main__":
    cli.run(main)
