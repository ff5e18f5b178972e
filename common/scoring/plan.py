"""What a run is to score: which documents of which shards, what of them is not scored yet, and that in units."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.scoring.units import Unit, cut, tokens_per_unit
from common.shards.documents import Shard, check_tokenizer
from common.shards.format import check_vocabulary
from common.table.scores import Parts
from common.text.tokenization import TextTokenizer


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
