"""Step 5: score every document by how much its loss rises without the retrieval heads.

    python attention_influence_scoring.py --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model \\
        --data 'data/fineweb10B/fineweb_train_*.bin' --seq_len 4096

Reads   the shards of step 4, or shards of llm.c and modded-nanogpt with --eot_id 50256
Writes  data/ai_scores.parquet and data/ai_scores.tsv, a row per document:

        doc_id                                         domain  num_tokens  L_base  L_ref  AI_Score
        data/finewebsample/fineweb_train_000001:0-214  plays   214         3.4121  3.6106  0.0582

L_base and L_ref are mean nats per predicted token, AI_Score = (L_ref - L_base) / L_base. Documents longer than
--seq_len are scored in windows. Finished work is kept in data/ai_scores.parts/ every 30 seconds, behind each shard and
when the run is stopped; the same command goes on from there.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common import cli
from common.batches import Document
from common.checkpoints import load_model_tokenizer
from common.corpus import expand
from common.documents import Shard, check_tokenizer, is_scorable, open_shard, windows
from common.errors import InputError
from common.files import claim, refuse_folder, sole_writer
from common.options import add_pair_flags, add_separator_flags, pair_options, runtime
from common.reference import Pair, load_pair
from common.scores import Parts, merge_parts
from common.shards import check_vocabulary
from common.tokenization import TextTokenizer
from common.visible import one_line

SECONDS_PER_PART = 30


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    add_pair_flags(parser)
    add_separator_flags(parser)
    parser.add_argument(
        "--data", nargs="+", default=["data/fineweb10B/fineweb_train_*.bin"], help="shards, as files or globs"
    )
    parser.add_argument("--max_tokens", type=cli.positive_int, help="score up to the document that reaches so many")
    parser.add_argument("--out", type=Path, default=Path("data/ai_scores.tsv"), help="the table; .parquet beside it")
    parser.add_argument("--overwrite", action="store_true", help="delete what another run left beside --out")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Work:
    """The documents of one shard that are to be scored: the first `num_documents`, of `num_tokens` in all."""

    path: Path
    num_documents: int
    num_tokens: int
    digest: str


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
        work.append(Work(path, count, int(ends[count]), shard.digest()))
        left -= int(ends[count])
    return work


def score_documents(shard: Shard, pair: Pair, seq_len: int, rows: range, parts: Parts, bar, warn) -> None:
    """Score documents of one shard; write a part every 30 seconds, at the end, and when it is stopped."""
    domains, scored, started = shard.domains, [], time.monotonic()
    first = last = rows.start
    try:
        for finished in pair.scorer.stream(documents(shard, rows, seq_len, pair.tokenizer.bos_id)):
            new = []
            for row, losses in finished:
                start, end = map(int, shard.spans[row])
                new.append((shard.doc_id(start, end), domains[row], end - start, *losses.means()))
                bar.update(end - start)
                if not math.isfinite(sum(new[-1][3:])):
                    warn(f"{new[-1][0]}: its loss is not finite; more of the kind are counted at the end")
            scored, last = [*scored, *new], finished[-1][0] + 1
            if time.monotonic() - started > SECONDS_PER_PART:
                parts.write(shard.name, first, last, scored)
                scored, first, started = [], last, time.monotonic()
        last = rows.stop
    finally:
        if first < last:
            parts.write(shard.name, first, last, scored)


def documents(shard: Shard, rows: range, seq_len: int, bos_id: int | None) -> Iterator[Document]:
    """The windows of the documents in `rows` that have something to predict, each with its row."""
    for row in rows:
        start, end = map(int, shard.spans[row])
        token_ids = shard.tokens[start:end]
        if is_scorable(token_ids, shard.separator_id):
            yield row, list(windows(token_ids, seq_len, bos_id))


def score(
    pair: Pair, work: list[Work], seq_len: int, open_one: Callable[[Path], Shard], out: Path, overwrite: bool
) -> None:
    """Score what is not scored yet and put the table together."""
    parts = Parts(out.with_suffix(".parts"))
    settings = {**pair.identity, "seq_len": seq_len, "shards": {str(w.path): w.digest for w in work}}
    if overwrite:  # what is wrong with the shards should show before the old work is gone
        for item in work:
            check_vocabulary(item.path, open_one(item.path).verified().tokens, pair.vocab_size)
    claim(parts.folder / "run.json", settings, overwrite, "*.parquet")
    print(one_line(f"{out}: {pair.summary}"))
    finished, num_documents = [], 0
    with cli.progress(sum(w.num_tokens for w in work), "scoring") as bar:
        warn = cli.once(bar)
        for item in work:
            shard = open_one(item.path)
            covered = parts.of_shard(shard.name)[1]
            if covered < item.num_documents and not overwrite:  # those were looked at above
                check_vocabulary(item.path, shard.verified().tokens, pair.vocab_size)
            cli.skip(bar, int(shard.spans[covered - 1, 1]) if covered else 0)
            score_documents(shard, pair, seq_len, range(covered, item.num_documents), parts, bar, warn)
            done, covered = parts.of_shard(shard.name)
            finished += done
            num_documents += covered
    health = merge_parts(finished, out)
    print(f"wrote {health.num_rows:,} scores to {out} and {out.with_suffix('.parquet')}")
    if health.num_rows < num_documents:
        skipped = num_documents - health.num_rows
        print(f"skipped {skipped:,} documents of no or one token: nothing to predict from context")
    for warning in health.warnings(pair.vocab_size):
        print(f"warning: {warning}")
    print(f"next: python rank_scores.py --scores {out} --top_pct 20")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.suffix != ".tsv":
        raise InputError(f"--out {args.out}: end it with .tsv; the .parquet is written beside it")
    refuse_folder(args.out)
    tokenizer = load_model_tokenizer(args.base_model, runtime(args))
    open_one = partial(open_shard, eot_id=args.eot_id, eot_side=args.eot_side)
    work = plan(expand(args.data), tokenizer, open_one, args.max_tokens)
    with sole_writer(args.out):
        score(load_pair(pair_options(args)), work, args.seq_len, open_one, args.out, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
