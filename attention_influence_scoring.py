"""Step 5: score every document by how much its loss rises without the retrieval heads.

    python attention_influence_scoring.py --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model \\
        --data 'data/fineweb10B/fineweb_train_*.bin' --seq_len 4096

Reads   the shards of step 4, or shards of llm.c and modded-nanogpt with --eot_id 50256
Writes  data/ai_scores.parquet and data/ai_scores.tsv, a row per document:

        doc_id                                         domain  num_tokens  L_base  L_ref  AI_Score
        data/finewebsample/fineweb_train_000001:0-214  plays   214         3.4121  3.6106  0.0582

L_base and L_ref are mean nats per predicted token, AI_Score = (L_ref - L_base) / L_base. Documents longer than
--seq_len are scored in windows. Finished work is kept in data/ai_scores.parts/ every 30 seconds and when the run is
stopped; the same command goes on from there. On many GPUs: --engine ray.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import cli
from common.checkpoints import load_model_tokenizer
from common.corpus import expand
from common.documents import Shard, check_tokenizer, open_shard
from common.engine import Here, add_engine_flags, engine_options, workers
from common.errors import InputError
from common.files import as_path, claim, refuse_folder, sole_writer
from common.options import add_pair_flags, add_separator_flags, pair_options
from common.read_ahead import read_ahead
from common.scores import Parts, merge_parts
from common.shards import check_vocabulary
from common.tokenization import TextTokenizer
from common.units import Piece, Unit, UnitScorer, cut, tokens_per_unit
from common.visible import one_line

SECONDS_PER_PIECE = 1  # from a worker of a cluster, which may have hundreds
INCOMPLETE = 3  # exit status


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    add_pair_flags(parser)
    add_separator_flags(parser)
    parser.add_argument(
        "--data", nargs="+", default=["data/fineweb10B/fineweb_train_*.bin"], help="shards, as files or globs"
    )
    parser.add_argument("--max_tokens", type=cli.positive_int, help="score up to the document that reaches so many")
    parser.add_argument("--out", type=as_path, default=Path("data/ai_scores.tsv"), help="the table; .parquet beside it")
    parser.add_argument("--overwrite", action="store_true", help="delete what another run left beside --out")
    add_engine_flags(parser)
    parser.add_argument(
        "--num_workers", type=cli.positive_int, help="with --engine ray (default: one for each GPU, or else machine)"
    )
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Work:
    """The documents of one shard that are to be scored: the first `num_documents`, of `num_tokens` in all."""

    path: Path
    tokens_in_shard: int
    num_documents: int
    num_tokens: int
    digest: str

    @property
    def name(self) -> str:
        """The shard's name, as in a doc_id."""
        return str(self.path.with_suffix(""))


def plan(
    paths: Iterable[Path],
    tokenizer: TextTokenizer,
    open_one: Callable[[Path], Shard],
    max_tokens: int | None,
) -> list[Work]:
    """Check every shard against the tokenizer, and choose documents up to the one that reaches `max_tokens`."""
    work, left = [], max_tokens or float("inf")
    for path in paths:
        shard = open_one(path)
        check_tokenizer(shard, tokenizer)
        ends = np.concatenate([[0], shard.spans[:, 1]])
        count = min(int(np.searchsorted(ends, max(left, 0))), len(shard.spans))
        work.append(Work(path, len(shard.tokens), count, int(ends[count]), shard.digest()))
        left -= int(ends[count])
    return work


def tokens_missing(item: Work, parts: Parts, open_one: Callable[[Path], Shard]) -> int:
    """Tokens of a shard's documents that are not scored yet."""
    gaps = parts.missing(item.name, item.num_documents)
    if gaps in ([], [range(item.num_documents)]):
        return item.num_tokens if gaps else 0
    spans = open_one(item.path).spans
    return int(sum(spans[gap.stop - 1, 1] - spans[gap.start, 0] for gap in gaps))


def units(
    work: list[Work],
    parts: Parts,
    open_one: Callable[[Path], Shard],
    checked: bool,
    vocab_size: int,
    device: str,
) -> Iterator[Unit]:
    """What is not scored yet, cut into units; a shard is read whole and checked before its first, unless it was."""
    size = tokens_per_unit(sum(item.tokens_in_shard for item in work), device)
    for item in work:
        if gaps := parts.missing(item.name, item.num_documents):
            shard = open_one(item.path)
            if not checked:
                check_vocabulary(item.path, shard.verified().tokens, vocab_size)
            for gap in gaps:
                yield from cut(shard, gap, size)


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
        for row, *scores in piece.scores:
            start, end = unit.span(row)
            doc_id = f"{unit.shard_name}:{start}-{end}"
            rows.append((doc_id, unit.domains[row - unit.first], end - start, *scores))
            if not self.found_not_finite and not math.isfinite(sum(scores)):
                self.found_not_finite = True
                cli.warn(f"{doc_id}: its loss is not finite; more of the kind are counted at the end")
        self.parts.add(unit.shard_name, piece.first, piece.last, rows)
        self.num_documents += piece.last - piece.first
        self.bar.set_postfix_str(f"{self.num_documents:,} documents{self.status()}", refresh=False)
        self.bar.update(unit.num_tokens(piece.first, piece.last))


def score(
    team: Here, seq_len: int, work: list[Work], open_one: Callable[[Path], Shard], out: Path, overwrite: bool
) -> None:
    """Have the team score what is not scored yet, and put the table together.

    Raises:
        SystemExit: with status 3, once the table is written, if some documents could not be scored.
    """
    facts, folder = team.facts, out.with_suffix(".parts")
    settings = {**facts.identity, "seq_len": seq_len, "shards": {str(item.path): item.digest for item in work}}
    if overwrite:  # what is wrong with the shards should show before the old work is gone
        for item in work:
            check_vocabulary(item.path, open_one(item.path).verified().tokens, facts.vocab_size)
    claim(folder / "run.json", settings, overwrite, "*.parquet")
    print(one_line(f"{out}: {facts.summary}"))
    with Parts(folder) as parts, cli.progress(sum(item.num_tokens for item in work), "scoring") as bar:
        cli.skip(bar, sum(item.num_tokens - tokens_missing(item, parts, open_one) for item in work))
        covered = sum(last - first for item in work for first, last, _ in parts.of_shard(item.name))
        tally = Tally(parts, bar, team.status, covered)
        left = units(work, parts, open_one, overwrite, facts.vocab_size, facts.device)
        for _, unit, piece in team.run(read_ahead(left, 2 * team.num_workers)):
            tally.take(unit, piece)
    for unit, reason in team.set_aside:
        start, end = unit.spans[0, 0], unit.spans[-1, 1]
        print(
            f"set aside: {len(unit.spans)} documents, {unit.shard_name}:{start}-{end}, whose worker was lost three "
            f"times ({reason})",
            file=sys.stderr,
        )
    # Behind the documents that are wanted there may be parts of a run that wanted more, with gaps between them.
    finished = [part for item in work for part in parts.of_shard(item.name) if part[0] < item.num_documents]
    if team.set_aside and not finished:
        sys.exit(INCOMPLETE)
    health = merge_parts([path for *_, path in finished], out)
    print(f"wrote {health.num_rows:,} scores to {out} and {out.with_suffix('.parquet')}")
    if skipped := sum(last - first for first, last, _ in finished) - health.num_rows:
        print(f"skipped {skipped:,} documents of no or one token: nothing to predict from context")
    for warning in health.warnings(facts.vocab_size):
        print(f"warning: {warning}")
    if team.set_aside:
        print("not all documents are scored; the same command tries those that were set aside again")
        sys.exit(INCOMPLETE)
    print(f"next: python rank_scores.py --scores {out} --top_pct 20")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.suffix != ".tsv":
        raise InputError(f"--out {args.out}: end it with .tsv; the .parquet is written beside it")
    refuse_folder(args.out)
    engine, options = engine_options(args), pair_options(args)
    if engine.num_workers and engine.engine == "local":
        raise InputError("--num_workers: only --engine ray has workers to count; give both or neither")
    if engine.engine == "ray" and ":" in options.runtime.device:
        raise InputError(
            f"--device {options.runtime.device}: with --engine ray each worker gets a GPU; give cuda or auto"
        )
    tokenizer = load_model_tokenizer(args.base_model, options.runtime)
    open_one = partial(open_shard, eot_id=args.eot_id, eot_side=args.eot_side)
    work = plan(expand(args.data), tokenizer, open_one, args.max_tokens)
    on_gpu = not options.runtime.device.startswith("cpu")
    make = partial(UnitScorer, options, SECONDS_PER_PIECE if engine.engine == "ray" else 0)
    with sole_writer(args.out), workers(engine, make, Unit.behind, on_gpu) as team:
        score(team, args.seq_len, work, open_one, args.out, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
