"""The plan of a run: which documents to score, which are left, and their units."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.scoring.pair import PairDescription
from common.scoring.units import Unit, cut, tokens_per_unit
from common.shards.format import check_vocabulary
from common.shards.reader import ShardReader
from common.table.parts import Parts


@dataclass(frozen=True)
class ShardPlan:
    """The documents of one shard to score: the first `num_documents`, together `num_tokens`."""

    path: Path
    tokens_in_shard: int
    num_documents: int
    num_tokens: int
    digest: str

    @property
    def name(self) -> str:
        """The shard's name, as in a doc_id."""
        return str(self.path.with_suffix(""))


def make_plan(paths: Iterable[Path], reader: ShardReader, max_tokens: int | None) -> list[ShardPlan]:
    """Check all shards, and choose documents up to the one that reaches `max_tokens`."""
    plan, left = [], max_tokens or float("inf")
    for path in paths:
        shard = reader.open(path)
        ends = np.concatenate([[0], shard.spans[:, 1]])
        count = min(int(np.searchsorted(ends, max(left, 0))), len(shard.spans))
        plan.append(ShardPlan(path, len(shard.tokens), count, int(ends[count]), shard.digest()))
        left -= int(ends[count])
    return plan


def tokens_missing(item: ShardPlan, parts: Parts, reader: ShardReader) -> int:
    """Tokens of a shard's documents that are not scored yet."""
    gaps = parts.missing(item.name, item.num_documents)
    if gaps in ([], [range(item.num_documents)]):
        return item.num_tokens if gaps else 0
    spans = reader.open(item.path).spans
    return int(sum(spans[gap.stop - 1, 1] - spans[gap.start, 0] for gap in gaps))


def units(
    plan: list[ShardPlan], parts: Parts, reader: ShardReader, checked: bool, models: PairDescription
) -> Iterator[Unit]:
    """The documents that are not scored yet, in units.

    Args:
        checked: the shards are checked already; otherwise each is checked before its first unit.
    """
    size = tokens_per_unit(sum(item.tokens_in_shard for item in plan), models.device)
    for item in plan:
        if gaps := parts.missing(item.name, item.num_documents):
            shard = reader.open(item.path)
            if not checked:
                check_vocabulary(item.path, shard.verified().tokens, models.vocabulary)
            for gap in gaps:
                yield from cut(shard, gap, size)
