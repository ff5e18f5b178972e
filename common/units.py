"""Units of work: stretches of a shard's documents that are scored, lost and scored again as one.

Units are cut at the same places whoever scores them, so their batches are the same and so are their scores.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.batches import Document
from common.documents import Shard, is_scorable, windows
from common.options import PairOptions
from common.reference import load_pair

# A unit's tokens: the least, which is a few batches, and the most; and how many units there should be where that leaves
# a choice.
MIN_TOKENS, MAX_TOKENS, UNITS = {"cpu": 2**13, "cuda": 2**17}, 2**19, 2048


class Piece(NamedTuple):
    """Scores of documents [first, last) of a shard, by row; those with nothing to predict have none.

    Attributes:
        scores: (row, L_base, L_ref, AI_Score) of each.
    """

    first: int
    last: int
    scores: list[tuple[int, float, float, float]]


@dataclass(frozen=True)
class Unit:
    """Successive documents of one shard, with their tokens: who scores them needs no file.

    Attributes:
        shard_name: path of the shard without suffix.
        first: row of the first document in the shard.
        tokens: of these documents, shape [num_tokens].
        spans: where the documents lie in the shard, int64, shape [num_documents, 2].
        domains: one for each document.
        separator_id: the token between documents.
    """

    shard_name: str
    first: int
    tokens: np.ndarray
    spans: np.ndarray
    domains: list[str]
    separator_id: int

    @property
    def last(self) -> int:
        """The row behind the last document."""
        return self.first + len(self.spans)

    def span(self, row: int) -> tuple[int, int]:
        """Where a document lies in the shard."""
        start, end = self.spans[row - self.first]
        return int(start), int(end)

    def num_tokens(self, first: int, last: int) -> int:
        """Tokens of the documents in rows [first, last)."""
        return self.span(last - 1)[1] - self.span(first)[0] if first < last else 0

    def behind(self, piece: Piece) -> "Unit | None":
        """The documents behind a piece, or None where none are left."""
        done = piece.last - self.first
        if piece.last == self.last:
            return None
        tokens = self.tokens[int(self.spans[done, 0] - self.spans[0, 0]) :]
        return Unit(self.shard_name, piece.last, tokens, self.spans[done:], self.domains[done:], self.separator_id)

    def documents(self, seq_len: int, bos_id: int | None) -> Iterator[Document]:
        """The windows of each document that has something to predict, with its row."""
        offset = int(self.spans[0, 0])
        for row in range(self.first, self.last):
            start, end = self.span(row)
            token_ids = self.tokens[start - offset : end - offset]
            if is_scorable(token_ids, self.separator_id):
                yield row, list(windows(token_ids, seq_len, bos_id))


def tokens_per_unit(num_tokens: int, device: str) -> int:
    """How many tokens to put into a unit, of so many in all."""
    least = MIN_TOKENS["cpu" if device == "cpu" else "cuda"]
    return min(max(num_tokens // UNITS, least), MAX_TOKENS)


def cut(shard: Shard, rows: range, size: int) -> Iterator[Unit]:
    """Cut documents of a shard into units, wherever another `size` tokens of the shard have gone by.

    >>> [unit.spans.tolist() for unit in cut(shard, range(1, 4), 10)]  # documents of 4 tokens each
    [[[4, 8], [8, 12]], [[12, 16]]]
    """
    starts = shard.spans[rows.start : rows.stop, 0] // size
    edges = [rows.start, *(rows.start + 1 + np.flatnonzero(np.diff(starts))).tolist(), rows.stop]
    for first, last in pairwise(edges):
        spans = shard.spans[first:last]
        yield Unit(
            shard.name,
            first,
            np.array(shard.tokens[spans[0, 0] : spans[-1, 1]]),
            spans,
            list(shard.domains[first:last]),
            shard.separator_id,
        )


class Facts(NamedTuple):
    """What a run must know of the two models.

    Attributes:
        identity: what the results depend on: digests of both models, and the tokenizer.
        summary: one line on how the reference relates to the base.
        device: what computes: `cpu` or `cuda`, say.
    """

    identity: dict[str, str | int | None]
    vocab_size: int
    summary: str
    device: str


class UnitScorer:
    """Loads a pair of models and scores units with it.

    Args:
        seconds_per_piece: how long to gather scores before they are handed on; 0 hands on what a batch has finished.
    Raises:
        InputError: as `load_pair`.
    """

    def __init__(self, options: PairOptions, seconds_per_piece: float = 0):
        self._pair, self._seq_len, self._seconds = load_pair(options), options.seq_len, seconds_per_piece
        self.facts = Facts(self._pair.identity, self._pair.vocab_size, self._pair.summary, self._pair.device)

    def __call__(self, unit: Unit) -> Iterator[Piece]:
        """Scores of the unit's documents, in order, as they are computed."""
        first, scores, handed = unit.first, [], time.monotonic()
        for finished in self._pair.scorer.stream(unit.documents(self._seq_len, self._pair.tokenizer.bos_id)):
            scores += [(row, *losses.means()) for row, losses in finished]
            if time.monotonic() - handed >= self._seconds:
                yield Piece(first, scores[-1][0] + 1, scores)
                first, scores, handed = scores[-1][0] + 1, [], time.monotonic()
        if first < unit.last:
            yield Piece(first, unit.last, scores)
