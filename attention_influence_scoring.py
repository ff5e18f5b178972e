"""Step 5: score every document by how much its loss rises without the retrieval heads.

    python attention_influence_scoring.py --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model \\
        --data 'data/fineweb10B/fineweb_train_*.bin' --seq_len 4096

Reads   the shards of step 4, or shards of llm.c and modded-nanogpt with --eot_id 50256
Writes  data/ai_scores.parquet and data/ai_scores.tsv, a row per document:

        doc_id                                         domain  num_tokens  L_base  L_ref  AI_Score  repetition  …
        data/finewebsample/fineweb_train_000001:0-214  plays   214         3.4121  3.6106  0.0582   0.0421      …

        data/ai_scores.json, what made them: models, machine, versions, time
        with --granularity step also data/ai_scores.steps.parquet and .tsv, a row per step of each document

L_base and L_ref are mean nats per predicted token, AI_Score = (L_ref - L_base) / L_base; of chats, per token of the
answers. Behind them stand measures of what the score rewards wrongly: how much a document repeats itself (repetition,
longest_run, compression), and which document stands for it and its copies (duplicate_of, near_duplicate_of).
Documents longer than --seq_len are scored in windows. Finished work is kept in data/ai_scores.parts/ every 30 seconds
and when the run is stopped; the same command goes on from there. On many GPUs: --engine ray.
"""

import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from common import cli
from common.errors import InputError, one_line
from common.files import as_path, claim, read_json, refuse_folder, sole_writer, write_json
from common.flags import PairOptions, add_pair_flags, add_separator_flags, pair_options
from common.model.checkpoints import load_model_tokenizer
from common.scoring.plan import Work, plan, tokens_missing, units
from common.scoring.units import Piece, StepOptions, Unit, UnitScorer
from common.shards.documents import Shard, open_shard
from common.shards.format import check_vocabulary
from common.table.scores import PART_SCHEMA, Health, Parts, merge_parts
from common.text.corpus import expand
from common.workers.engine import Here, add_engine_flags, engine_options, workers
from common.workers.read_ahead import read_ahead

SECONDS_PER_PIECE = 1  # from a worker of a cluster, which may have hundreds
INCOMPLETE = 3  # exit status
TIMES = "time.json"


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    add_pair_flags(parser)
    add_separator_flags(parser)
    parser.add_argument(
        "--data", nargs="+", default=["data/fineweb10B/fineweb_train_*.bin"], help="shards, as files or globs"
    )
    parser.add_argument(
        "--granularity",
        choices=["document", "step"],
        default="document",
        help="step scores the steps of each document too, from the same forward pass, into a table of their own",
    )
    parser.add_argument(
        "--step_separator", help="text between steps, \\n for a line break (default: one or more blank lines)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="fuse the models' small operations by torch.compile: faster, slower to start",
    )
    parser.add_argument("--max_tokens", type=cli.positive_int, help="score up to the document that reaches so many")
    parser.add_argument("--out", type=as_path, default=Path("data/ai_scores.tsv"), help="the table; .parquet beside it")
    parser.add_argument("--overwrite", action="store_true", help="delete what another run left beside --out")
    add_engine_flags(parser)
    parser.add_argument(
        "--num_workers", type=cli.positive_int, help="with --engine ray (default: one for each GPU, or else machine)"
    )
    return parser.parse_args(argv)


@dataclass
class Tally:
    """What a run has done: kept in its parts, and shown by its bar."""

    parts: Parts
    bar: tqdm
    status: Callable[[], str]
    num_documents: int = 0
    found_not_finite: bool = False

    def take(self, unit: Unit, piece: Piece) -> None:
        """Keep the scores of a piece."""
        rows = []
        for row, means, guards, steps in piece.scores:
            start, end = unit.span(row)
            doc_id = f"{unit.shard_name}:{start}-{end}"
            steps = [step._asdict() for step in steps]
            rows.append((doc_id, unit.domains[row - unit.first], end - start, *means, *guards, steps))
            if not self.found_not_finite and not math.isfinite(sum(means)):
                self.found_not_finite = True
                cli.warn(f"{doc_id}: its loss is not finite; more of the kind are counted at the end")
        self.parts.add(unit.shard_name, piece.first, piece.last, rows)
        self.num_documents += piece.last - piece.first
        self.bar.set_postfix_str(f"{self.num_documents:,} documents{self.status()}", refresh=False)
        self.bar.update(unit.num_tokens(piece.first, piece.last))


def score(
    team: Here,
    settings: dict,
    work: list[Work],
    open_one: Callable[[Path], Shard],
    folder: Path,
    overwrite: bool,
) -> list[tuple[int, int, Path]]:
    """Have the team score what is not scored yet, into `folder`; returns the parts that hold what is wanted."""
    facts = team.facts
    if overwrite:  # what is wrong with the shards should show before the old work is gone
        for item in work:
            check_vocabulary(item.path, open_one(item.path).verified().tokens, facts.vocab_size)
    claim(folder / "run.json", settings, overwrite, "*.parquet")
    before = {} if overwrite else spent(folder)
    begun = time.monotonic()
    with Parts(folder) as parts, cli.progress(sum(item.num_tokens for item in work), "scoring") as bar:
        cli.skip(bar, sum(item.num_tokens - tokens_missing(item, parts, open_one) for item in work))
        covered = sum(last - first for item in work for first, last, _ in parts.of_shard(item.name))
        tally = Tally(parts, bar, team.status, covered)
        left = units(work, parts, open_one, overwrite, facts.vocab_size, facts.device)
        try:
            for _, unit, piece in team.run(read_ahead(left, 2 * team.num_workers)):
                tally.take(unit, piece)
        finally:
            if scored := bar.n - bar.initial:
                now = {
                    "tokens": before.get("tokens", 0) + scored,
                    "seconds": round(before.get("seconds", 0) + time.monotonic() - begun, 1),
                    "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
                }
                write_json(folder / TIMES, now)
    # Behind the documents that are wanted there may be parts of a run that wanted more, with gaps between them.
    return [part for item in work for part in parts.of_shard(item.name) if part[0] < item.num_documents]


def spent(folder: Path) -> dict:
    """What scoring into `folder` has taken so far: tokens, seconds, and when it ended; empty if nothing was scored."""
    return read_json(folder / TIMES) if (folder / TIMES).exists() else {}


def write(parts: list[tuple[int, int, Path]], out: Path, steps_out: Path | None, vocab_size: int) -> Health:
    """Put the tables together, and say what is in them."""
    health = merge_parts([path for *_, path in parts], out, steps_out)
    print(f"wrote {health.num_rows:,} scores to {out} and {out.with_suffix('.parquet')}")
    if steps_out:
        print(f"wrote the scores of their steps to {steps_out} and {steps_out.with_suffix('.parquet')}")
        print(f"select from those: python rank_scores.py --scores {steps_out} --max_repetition 1 --dedup none")
    if skipped := sum(last - first for first, last, _ in parts) - health.num_rows:
        print(f"skipped {skipped:,} documents with nothing to predict: of no or one token, or chats without an answer")
    for warning in health.warnings(vocab_size):
        print(f"warning: {warning}")
    return health


def run(
    team: Here,
    options: PairOptions,
    steps: StepOptions,
    data: list[str],
    work: list[Work],
    open_one: Callable[[Path], Shard],
    out: Path,
    overwrite: bool,
) -> None:
    """Score, write the tables, and beside them what made them.

    Raises:
        SystemExit: with status 3, once the table is written, if some documents could not be scored.
    """
    facts, folder = team.facts, out.with_suffix(".parts")
    settings = {
        **facts.identity,
        "seq_len": options.seq_len,
        "columns": PART_SCHEMA.names,
        "steps": [steps.wanted, steps.separator],
        "shards": {str(item.path): item.digest for item in work},
    }
    print(one_line(f"{out}: {facts.summary}"))
    parts = score(team, settings, work, open_one, folder, overwrite)
    for unit, reason in team.set_aside:
        start, end = unit.spans[0, 0], unit.spans[-1, 1]
        print(
            f"set aside: {len(unit.spans)} documents, {unit.shard_name}:{start}-{end}, whose worker was lost three "
            f"times ({reason})",
            file=sys.stderr,
        )
    if team.set_aside and not parts:
        sys.exit(INCOMPLETE)
    steps_out = out.with_suffix(".steps.tsv")
    if overwrite and not steps.wanted:
        for old in (steps_out, steps_out.with_suffix(".parquet")):
            old.unlink(missing_ok=True)
    health = write(parts, out, steps_out if steps.wanted else None, facts.vocab_size)
    made_by = {
        "base_model": options.base_model,
        "reference_model": options.reference_model,
        "summary": facts.summary,
        "data": data,
        "num_shards": len(work),
        "tokenizer": options.runtime.tokenizer or options.base_model,
        "seq_len": options.seq_len,
        "steps": steps.wanted,
        "step_separator": steps.separator,
        "device": facts.device,
        "dtype": facts.dtype,
        "compiled": options.compiled,
        "num_workers": team.num_workers,
        "num_documents": health.num_rows,
        "num_tokens": health.num_tokens,
        "scoring": spent(folder),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }
    write_json(out.with_suffix(".json"), made_by)
    if team.set_aside:
        print("not all documents are scored; the same command tries those that were set aside again")
        sys.exit(INCOMPLETE)
    print(f"next: python rank_scores.py --scores {out} --top_pct 20")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.suffix != ".tsv":
        raise InputError(f"--out {args.out}: end it with .tsv; the .parquet is written beside it")
    refuse_folder(args.out)
    engine, options = engine_options(args), replace(pair_options(args), compiled=args.compile)
    if engine.num_workers and engine.engine == "local":
        raise InputError("--num_workers: only --engine ray has workers to count; give both or neither")
    separator = args.step_separator
    if separator is not None and (args.granularity != "step" or not separator):
        raise InputError("--step_separator: some text, and only with --granularity step")
    if engine.engine == "ray" and ":" in options.runtime.device:
        raise InputError(
            f"--device {options.runtime.device}: with --engine ray each worker gets a GPU; give cuda or auto"
        )
    tokenizer = load_model_tokenizer(args.base_model, options.runtime)
    open_one = partial(open_shard, eot_id=args.eot_id, eot_side=args.eot_side)
    work = plan(expand(args.data), tokenizer, open_one, args.max_tokens)
    if args.compile:
        print("compiling: up to a minute the first time")
    on_gpu = not options.runtime.device.startswith("cpu")
    steps = StepOptions(args.granularity == "step", separator and separator.replace("\\n", "\n"))
    make = partial(UnitScorer, options, steps, SECONDS_PER_PIECE if engine.engine == "ray" else 0)
    with sole_writer(args.out), workers(engine, make, Unit.behind, on_gpu) as team:
        run(team, options, steps, args.data, work, open_one, args.out, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
