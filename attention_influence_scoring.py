"""Step 5: score every document by how much its loss rises without the retrieval heads.

    python attention_influence_scoring.py --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model \\
        --data 'data/fineweb10B/fineweb_train_*.bin' --seq_len 4096

Reads   the shards of step 4, or shards of llm.c and modded-nanogpt with --eot_id 50256
Writes  data/ai_scores.parquet and data/ai_scores.tsv, a row per document:

        doc_id                                         domain  num_tokens  L_base  L_ref  AI_Score
        data/finewebsample/fineweb_train_000001:0-214  plays   214         3.4121  3.6106  0.0582

L_base and L_ref are mean nats per predicted token, AI_Score = (L_ref - L_base) / L_base. Documents longer than
--seq_len are scored in windows. Finished work is kept in data/ai_scores.parts/ every 30 seconds and behind each shard;
a run that was stopped goes on from there with the same command.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from common import cli
from common.batches import Window
from common.corpus import expand
from common.documents import Shard, check_tokenizer, is_scorable, open_shard, windows
from common.errors import InputError
from common.files import claim, refuse_folder
from common.loss import TokenLosses
from common.options import add_pair_flags, add_separator_flags, pair_options
from common.reference import Pair, load_pair
from common.scores import Parts, merge_parts
from common.shards import check_vocabulary
from common.tokenization import TextTokenizer, load_tokenizer

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


def score_documents(shard: Shard, pair: Pair, seq_len: int, rows: range, parts: Parts, bar) -> None:
    """Score documents of one shard, and write a part every 30 seconds and at the end."""
    domains, scored, first, started = shard.domains, [], rows.start, time.monotonic()
    losses_of = groupby(pair.scorer.stream(all_windows(shard, rows, seq_len, pair.tokenizer.bos_id)), itemgetter(0))
    for row, windows_of_row in losses_of:
        losses = TokenLosses(*np.concatenate([losses for _, losses in windows_of_row], axis=1))
        start, end = map(int, shard.spans[row])
        scored.append((shard.doc_id(start, end), domains[row], end - start, *losses.means()))
        bar.update(end - start)
        if time.monotonic() - started > SECONDS_PER_PART:
            parts.write(shard.name, first, row + 1, scored)
            scored, first, started = [], row + 1, time.monotonic()
    if first < rows.stop:
        parts.write(shard.name, first, rows.stop, scored)


def all_windows(shard: Shard, rows: range, seq_len: int, bos_id: int | None) -> Iterator[Window]:
    """The windows of the documents in `rows` that have something to predict, each with its document's row."""
    for row in rows:
        start, end = map(int, shard.spans[row])
        token_ids = shard.tokens[start:end]
        if is_scorable(token_ids, shard.separator_id):
            yield from ((row, window) for window in windows(token_ids, seq_len, bos_id))


def score(
    pair: Pair, work: list[Work], seq_len: int, open_one: Callable[[Path], Shard], out: Path, overwrite: bool
) -> None:
    """Score what is not scored yet and put the table together."""
    parts = Parts(out.with_suffix(".parts"))
    settings = {**pair.identity, "seq_len": seq_len, "shards": {str(w.path): w.digest for w in work}}
    claim(parts.folder / "run.json", settings, overwrite, "*.parquet")
    print(f"{out}: {pair.summary}")
    finished, num_documents = [], 0
    with cli.progress(sum(w.num_tokens for w in work), "scoring") as bar:
        for item in work:
            shard = open_one(item.path)
            covered = parts.of_shard(shard.name)[1]
            if covered < item.num_documents:
                check_vocabulary(item.path, shard.tokens, pair.vocab_size)
            cli.skip(bar, int(shard.spans[covered - 1, 1]) if covered else 0)
            score_documents(shard, pair, seq_len, range(covered, item.num_documents), parts, bar)
            done, covered = parts.of_shard(shard.name)
            finished += done
            num_documents += covered
    num_rows = merge_parts(finished, out)
    print(f"wrote {num_rows:,} scores to {out} and {out.with_suffix('.parquet')}")
    if num_rows < num_documents:
        print(f"skipped {num_documents - num_rows:,} documents of no or one token: nothing to predict from context")
    print(f"next: python rank_scores.py --scores {out} --top_pct 20")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.suffix != ".tsv":
        raise InputError(f"--out {args.out}: end it with .tsv; the .parquet is written beside it")
    refuse_folder(args.out)
    tokenizer = load_tokenizer(args.base_model, args.trust_remote_code)
    open_one = partial(open_shard, eot_id=args.eot_id, eot_side=args.eot_side)
    work = plan(expand(args.data), tokenizer, open_one, args.max_tokens)
    score(load_pair(pair_options(args)), work, args.seq_len, open_one, args.out, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
