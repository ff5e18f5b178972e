"""Step 5: score every document by how much its loss rises without the retrieval heads.

    python attention_influence_scoring.py --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model \\
        --data 'data/fineweb10B/fineweb_train_*.bin' --seq_len 4096

Reads   the shards of step 4, or tokens of other programs: shards of llm.c and modded-nanogpt with --eot_id 50256,
        Megatron's .bin with its .idx, OLMo-core's .npy
Writes  data/ai_scores.parquet and data/ai_scores.tsv, a row per document:

        doc_id                                         domain  num_tokens  L_base  L_ref  AI_Score  repetition  …
        data/finewebsample/fineweb_train_000001:0-221  plays   221         2.8812  3.6813  0.2777   0.3091      …

        data/ai_scores.json, how they were made: models, machine, versions, time
        with --granularity step also data/ai_scores.steps.parquet and .tsv, a row per step of each document

L_base and L_ref are mean nats per predicted token (of a chat: per token of the answers), and
AI_Score = (L_ref - L_base) / L_base. The other columns measure what the score rewards wrongly: repetition in the
document (repetition, longest_run, compression), and copies (duplicate_of, near_duplicate_of: the document that
represents all its copies). Documents longer than --seq_len are scored in windows. Finished work is saved in
data/ai_scores.parts/ every 30 seconds and when the run is stopped; the same command continues from there. For many
GPUs: --engine ray.

--estimate scores for half a minute, writes nothing, and says how long all of it takes and how much disk. --sample 1%
scores a fair sample of the documents; a later run with a larger share, or with all documents, continues from it.
--reference_model default=reference-model code=reference-code scores the documents of the domain code under heads of
their own; all masked copies run with one set of weights.

--score_tokens 128 scores longer documents in part, on their first 128 tokens and on 128 from a random place. They score
lower than whole ones: select with rank_scores.py --within num_tokens:10.
"""

import argparse
import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from common import cli, flags
from common.errors import InputError
from common.files import as_path, expand, refuse_folder, sole_writer

SECONDS_PER_PIECE = 1  # from a worker of a cluster, which may have hundreds
WORKERS = 8  # for which --estimate shows the time


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
        "--max_tokens",
        type=cli.positive_int,
        help="score up to this many tokens, to the end of a document; with --score_tokens those alone that are scored",
    )
    parser.add_argument(
        "--sample",
        type=cli.share,
        metavar="SHARE",
        help="score only this share of the documents, 1%% or 0.01, chosen by a hash of their tokens; with --max_tokens "
        "the beginning of the sample",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="score for half a minute, write nothing, and say how long all of it takes and how much disk; with "
        f"--engine ray one worker in this process is measured, for --num_workers of them, or {WORKERS}",
    )
    parser.add_argument("--out", type=as_path, default=Path("data/ai_scores.tsv"), help="the table; also as .parquet")
    parser.add_argument("--overwrite", action="store_true", help="delete another run's work at --out")
    flags.add_engine_flags(parser, "with --engine ray (default: one for each GPU; without GPUs, one for each machine)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.checkpoints import Runtime, load_model_tokenizer
    from common.scoring.estimate import estimate
    from common.scoring.known import known_flags
    from common.scoring.pair import PairOptions
    from common.scoring.plan import make_plan, prefilter_of, ranges_of_hashes
    from common.scoring.run import Job, parts_folder, score_corpus
    from common.scoring.units import StepOptions, Unit, UnitScorer
    from common.shards.reader import ShardReader
    from common.table.parts import Parts
    from common.workers.team import EngineOptions, workers

    check_args(args)
    vars(args).update(known_flags(vars(args)))
    engine = cli.options(EngineOptions, args)
    if args.estimate:
        engine = EngineOptions()  # one worker is measured
    pair = cli.options(PairOptions, args, runtime=cli.options(Runtime, args))
    separator = args.step_separator
    steps = StepOptions(args.granularity == "step", separator and separator.replace("\\n", "\n"))
    tokenizer = load_model_tokenizer(args.base_model, pair.runtime)
    reader = cli.options(ShardReader, args, model_tokenizer=tokenizer)
    make = partial(UnitScorer, pair, steps, SECONDS_PER_PIECE if engine.engine == "ray" else 0)
    on_gpu = not args.device.startswith("cpu")
    with nullcontext() if args.estimate else sole_writer(args.out):
        ranges = ranges_of_hashes(args.sample, Parts(parts_folder(args.out), args.overwrite))
        paths = expand(args.data)
        reader.require_domains(args.reference_of, paths, "--reference_model")
        prefilter = prefilter_of(paths)
        plan = make_plan(paths, reader, args.max_tokens, ranges)
        job = cli.options(Job, args, pair=pair, steps=steps, plan=plan, reader=reader, prefilter=prefilter)
        job.warn_of_another_pilot()
        with workers(engine, make, Unit.rest_after, on_gpu) as team:
            if args.estimate:
                estimate(team, job, args.num_workers or WORKERS, command_without_estimate(argv))
            else:
                score_corpus(team, job)


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError for flags that do not go together."""
    if args.out.suffix != ".tsv":
        raise InputError(f"--out {args.out}: end it with .tsv; the .parquet is written next to it")
    refuse_folder(args.out)
    if args.num_workers and args.engine == "local":
        raise InputError("--num_workers: only --engine ray has workers to count; give both or neither")
    if args.step_separator is not None and (args.granularity != "step" or not args.step_separator):
        raise InputError("--step_separator: some text, and only with --granularity step")
    if args.score_tokens and args.granularity == "step":
        raise InputError("--score_tokens: scores parts of a document, so not with --granularity step; leave one out")
    if args.engine == "ray" and ":" in args.device:
        raise InputError(f"--device {args.device}: with --engine ray each worker gets a GPU; give cuda or auto")


def command_without_estimate(argv: list[str] | None) -> str:
    """The command that scores what `--estimate` measures."""
    given = sys.argv[1:] if argv is None else argv
    kept = [each for each in given if not (each.startswith("--es") and "--estimate".startswith(each))]  # or cut short
    return shlex.join(["python", "attention_influence_scoring.py", *kept])


if __name__ == "__main__":
    cli.run(main)
