"""Units of work: stretches of a shard's documents that are scored, lost and scored again as one.

Units are cut at the same places whoever scores them, so their batches are the same and so are their scores.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.flags import PairOptions
from common.scoring.batches import Document
from common.scoring.loss import TokenLosses
from common.scoring.pair import load_pair
from common.scoring.steps import Step, score_steps
from common.shards.documents import Shard, is_scorable, scored_targets, windows
from common.table.guards import Guards, measure

# A unit's tokens: the least, which is a few batches, and the most; and how many units there should be where that leaves
# a choice.
MIN_TOKENS, MAX_TOKENS, UNITS = {"cpu": 2**13, "cuda": 2**18}, 2**20, 2048


class Scored(NamedTuple):
    """What is known of one document.

    Attributes:
        row: of the document in its shard.
        means: L_base, L_ref, AI_Score.
        steps: where steps are wanted; their places count from the document's first token.
    """

    row: int
    means: tuple[float, float, float]
    guards: Guards
    steps: list[Step]


class Piece(NamedTuple):
    """Scores of documents [first, last) of a shard; those with nothing to predict have none."""

    first: int
    last: int
    scores: list[Scored]


@dataclass(frozen=True)
class StepOptions:
    """Whether the steps of documents are scored, and what stands between them; None for blank lines."""

    wanted: bool = False
    separator: str | None = None


@dataclass(frozen=True)
class Unit:
    """Successive documents of one shard, with their tokens: who scores them needs no file.

    Attributes:
        shard_name: path of the shard without suffix.
        first: row of the first document in the shard.
        tokens: of these documents, shape [num_tokens].
        spans: where the documents lie in the shard, int64, shape [num_documents, 2].
        domains: one for each document.
        answers: of each document, which of its tokens alone are scored; None for all of them.
        separator_id: the token between documents.
    """

    shard_name: str
    first: int
    tokens: np.ndarray
    spans: np.ndarray
    domains: Sequence[str]
    answers: Sequence[np.ndarray | None]
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
        return replace(
            self,
            first=piece.last,
            tokens=self.tokens[int(self.spans[done, 0] - self.spans[0, 0]) :],
            spans=self.spans[done:],
            domains=self.domains[done:],
            answers=self.answers[done:],
        )

    def token_ids(self, row: int) -> np.ndarray:
        """The tokens of a document."""
        start, end = self.span(row)
        offset = int(self.spans[0, 0])
        return self.tokens[start - offset : end - offset]


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
            shard.domains[first:last],
            shard.answers[first:last],
            shard.separator_id,
        )


class UnitScorer:
    """Loads a pair of models and scores units with it.

    Args:
        seconds_per_piece: how long to gather scores before they are handed on; 0 hands on what a batch has finished.
    Raises:
        InputError: as `load_pair`.
    """

    def __init__(self, options: PairOptions, steps: StepOptions = StepOptions(), seconds_per_piece: float = 0):
        self._pair, self._seq_len, self._seconds = load_pair(options), options.seq_len, seconds_per_piece
        self._steps = steps
        self._piece = cache(lambda token_id: self._pair.tokenizer.pieces([token_id])[0])
        self.facts = self._pair.facts

    def __call__(self, unit: Unit) -> Iterator[Piece]:
        """Scores of the unit's documents, in order, as they are computed."""
        first, scores, handed, guards = unit.first, [], time.monotonic(), {}
        for finished in self._pair.scorer.stream(self._documents(unit, guards)):
            scores += [self._scored(unit, row, losses, guards.pop(row)) for row, losses in finished]
            if time.monotonic() - handed >= self._seconds:
                yield Piece(first, scores[-1].row + 1, scores)
                first, scores, handed = scores[-1].row + 1, [], time.monotonic()
        if first < unit.last:
            yield Piece(first, unit.last, scores)

    def _documents(self, unit: Unit, guards: dict[int, Guards]) -> Iterator[Document]:
        """The windows of each document that has something to predict, with its row; its guards go into `guards`.

        The scorer reads ahead in a thread, so the guards are measured while the models compute.
        """
        tokenizer = self._pair.tokenizer
        for row in range(unit.first, unit.last):
            token_ids = unit.token_ids(row)
            answers = unit.answers[row - unit.first]
            if is_scorable(token_ids, unit.separator_id, answers):
                scored = token_ids[scored_targets(0, len(token_ids), answers)]
                scored = scored[scored != unit.separator_id]
                guards[row] = measure(scored, tokenizer.decode(scored.tolist()))
                yield row, list(windows(token_ids, self._seq_len, tokenizer.bos_id))

    def _scored(self, unit: Unit, row: int, losses: TokenLosses, guards: Guards) -> Scored:
        token_ids, answers = unit.token_ids(row), unit.answers[row - unit.first]
        (places, losses), steps = losses.scored(len(token_ids), answers), []
        if self._steps.wanted:
            # The separator is no text, so that it never is a step of its own.
            pieces = ["" if token_id == unit.separator_id else self._piece(token_id) for token_id in token_ids.tolist()]
            spans = [(0, len(pieces))] if answers is None else answers.tolist()
            steps = score_steps(losses, places, pieces, self._steps.separator, spans)
        return Scored(row, losses.means(), guards, steps)
