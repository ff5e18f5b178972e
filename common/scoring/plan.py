"""The plan of a run: which documents to score, which are left, and their units."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.scoring.pair import PairDescription
from common.scoring.units import Unit, cut, tokens_per_unit
from common.shards.doc_id import shard_name
from common.shards.documents import ALL_HASHES
from common.shards.format import check_vocabulary
from common.shards.reader import Shard, ShardReader
from common.shards.tokenizing import RECORD
from common.table.parts import Parts, Stretch
from common.text.prefiltered import Facts, facts_in


@dataclass(frozen=True)
class ShardPlan:
    """The documents of one shard to score: of those with some hashes, the first `num_documents`.

    Attributes:
        tokens_in_shard: that the models read of all documents with these hashes.
        num_tokens: that they read of the documents to score.
        num_held: tokens of these documents, read or not.
        end: where the first document begins that is beyond `--max_tokens`, in tokens; None if there is none.
        rows: the documents with these hashes, by row in the shard; None: all.
    """

    path: Path
    tokens_in_shard: int
    num_documents: int
    num_tokens: int
    num_held: int
    digest: str
    hashes: range = ALL_HASHES
    end: int | None = None
    rows: np.ndarray | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The shard's name, as in a doc_id."""
        return shard_name(self.path)

    def open(self, reader: ShardReader) -> Shard:
        """The shard with the documents that have these hashes."""
        shard = reader.open(self.path)
        return shard if self.rows is None else shard.only(self.rows)

    def missing(self, parts: Parts) -> list[range]:
        """The documents that are in no part, counted among those with these hashes."""
        return parts.missing(self.name, self.num_documents, self.hashes)


def ranges_of_hashes(sample: float | None, parts: Parts) -> list[range]:
    """The hashes of the documents to score: the ranges of the parts, and what a larger share adds.

    Raises:
        InputError: the parts hold a larger share.

    >>> from fractions import Fraction
    >>> [Fraction(hashes.stop, ALL_HASHES.stop) for hashes in ranges_of_hashes(0.5, Parts(Path("none")))]
    [Fraction(1, 2)]
    """
    stop = max(1, round((sample or 1) * ALL_HASHES.stop))
    larger = [edge for edge in parts.edges if edge > stop]
    if larger and stop not in parts.edges:
        raise InputError(
            f"--sample {sample}: {parts.folder} holds a larger share, {min(larger) / ALL_HASHES.stop:.9g}, and a share "
            "can only grow; give that one or more, or another --out"
        )
    return [range(*each) for each in pairwise(sorted({0, stop, *parts.edges} - {*larger}))]


def make_plan(
    paths: Iterable[Path], reader: ShardReader, max_tokens: int | None, ranges: Sequence[range] = (ALL_HASHES,)
) -> list[ShardPlan]:
    """Check all shards, and choose documents with hashes in the ranges up to the one that reaches `max_tokens`.

    Args:
        ranges: ascending, without gaps, from 0. A shard has an item in the plan for each.
    Raises:
        InputError: a shard cannot be read, or no document has such a hash.
    """
    plan, left, sampled = [], max_tokens or float("inf"), list(ranges) != [ALL_HASHES]
    for path in paths:
        shard = reader.open(path)
        hashes = shard.verified().hashes() if sampled else np.zeros(len(shard.spans), int)
        digest, lengths = shard.digest(), np.where(hashes < ranges[-1].stop, shard.lengths_read, 0)
        count = int(np.searchsorted(np.cumsum(lengths) - lengths, left))
        end = int(shard.spans[count, 0]) if count < len(shard.spans) else None
        for each in ranges:
            rows = np.flatnonzero((hashes >= each.start) & (hashes < each.stop))
            chosen = rows[rows < count]
            tokens, num_tokens = int(lengths[rows].sum()), int(lengths[chosen].sum())
            rows = rows if sampled else None
            held = int(shard.lengths[chosen].sum())
            plan.append(ShardPlan(path, tokens, len(chosen), num_tokens, held, digest, each, end, rows))
            left -= num_tokens
    if sampled and not any(item.num_documents for item in plan):
        raise InputError("--sample: no document of the data is in a sample as small as this; give a larger share")
    return plan


def prefilter_of(paths: Iterable[Path]) -> Facts | None:
    """What a prefilter kept of the corpus that these shards are of; None without one.

    Raises:
        InputError: they went through different prefilters, so that a domain's size is not known.
    """
    folders = {path.parent.resolve(): path.parent for path in paths}  # one may be named in two ways
    (first, facts), *others = ((each, facts_in(each / RECORD)) for each in folders.values())
    for folder, other in others:
        together = facts.and_of(other) if facts and other else None
        if together is None and (facts or other):
            raise InputError(
                f"--data: {first} and {folder} went through different prefilters, or one through none (by their "
                f"{RECORD}); score them by two runs, each with its own --out"
            )
        facts = together
    return facts


def documents_missing(plan: Sequence[ShardPlan], parts: Parts) -> int:
    """Documents that are not scored yet."""
    return sum(len(gap) for item in plan for gap in item.missing(parts))


def tokens_missing(item: ShardPlan, parts: Parts, reader: ShardReader) -> int:
    """Tokens that the models have still to read of a shard's documents."""
    gaps = item.missing(parts)
    if gaps in ([], [range(item.num_documents)]):
        return item.num_tokens if gaps else 0
    lengths = item.open(reader).lengths_read
    return int(sum(lengths[gap.start : gap.stop].sum() for gap in gaps))


def units(
    plan: Sequence[ShardPlan], parts: Parts, reader: ShardReader, checked: bool, models: PairDescription
) -> Iterator[Unit]:
    """The documents that are not scored yet, in units.

    Args:
        checked: the shards are checked already; otherwise each is checked before its first unit.
    """
    for item in plan:
        if gaps := item.missing(parts):
            shard = item.open(reader)
            if not checked:
                check_vocabulary(item.path, shard.verified().tokens, models.vocabulary)
            size = unit_tokens(plan, item.hashes, models)
            for gap in gaps:
                yield from cut(shard, gap, size, item.hashes)


def unit_tokens(plan: Sequence[ShardPlan], hashes: range, models: PairDescription) -> int:
    """Tokens in a unit. Without the other hashes of the plan, so that a larger share changes no unit of a smaller."""
    return tokens_per_unit(sum(item.tokens_in_shard for item in plan if item.hashes == hashes), models.device)


def stretches(plan: Sequence[ShardPlan], parts: Parts) -> list[Stretch]:
    """The parts that hold documents of the plan; where a shard has several ranges of hashes, together."""
    found = []
    for _, items in groupby(plan, key=attrgetter("path")):
        items = list(items)
        paths = [part.path for item in items if item.num_documents for part in parts.of_shard(item.name, item.hashes)]
        together = [paths] if len(items) > 1 and paths else [[path] for path in paths]
        found += [Stretch(each, items[0].end) for each in together]
    return found
