"""Units of work: successive documents of a shard that are scored together, and again together if lost.

Units are cut at the same places for every number of workers, so their batches are the same and so are their scores.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from common.scoring.batches import KeyedWindows
from common.scoring.document_steps import Step, score_steps
from common.scoring.loss import Means, PairScorer, TokenLosses
from common.scoring.pair import PairOptions, load_pair
from common.shards.documents import ALL_HASHES, Document
from common.shards.reader import Shard
from common.table.guards import Guards, measure, novel

# Tokens in a unit: at least a few batches, at most MAX_UNIT_TOKENS. In between a run has about UNITS units. A GPU idles
# for a moment after each unit, so its units are as large as allowed.
MIN_UNIT_TOKENS, MAX_UNIT_TOKENS, UNITS = {"cpu": 2**13, "cuda": 2**20}, 2**20, 2048
HELD_PER_READ = 64  # most tokens in memory for each that the models read


class Scored(NamedTuple):
    """The results for one document.

    Attributes:
        row: of the document in its shard.
        novel: means over the scored tokens that do not end an n-gram which the document held before (`guards.novel`);
            NaN if there are none.
        num_scored: how many tokens are scored.
        steps: empty unless steps are wanted; their places count from the document's first token.
    """

    row: int
    means: Means
    novel: Means
    num_scored: int
    guards: Guards
    steps: list[Step]


class Piece(NamedTuple):
    """Scores of the documents [first, last) of a unit's shard; documents without a target have none."""

    first: int
    last: int
    scores: list[Scored]


@dataclass(frozen=True)
class StepOptions:
    """Whether the steps of documents are scored, and the text between them; None is blank lines."""

    wanted: bool = False
    separator: str | None = None


@dataclass(frozen=True)
class Unit:
    """Successive documents of one shard with their tokens, so that a worker needs no file.

    Attributes:
        first: row of the first document, among the shard's documents with these hashes.
        documents: at least one.
    """

    first: int
    documents: list[Document]
    hashes: range = ALL_HASHES

    @property
    def shard_name(self) -> str:
        """As in `Document`."""
        return self.documents[0].shard_name

    @property
    def last(self) -> int:
        """The row after the last document."""
        return self.first + len(self.documents)

    def document(self, row: int) -> Document:
        """The document in a row of the shard."""
        return self.documents[row - self.first]

    def num_read(self, piece: Piece) -> int:
        """Number of tokens that the models read for a piece."""
        return sum(self.document(row).num_read for row in range(piece.first, piece.last))

    def rest_after(self, piece: Piece) -> "Unit | None":
        """The documents after a piece, or None if there are none."""
        if piece.last == self.last:
            return None
        return replace(self, first=piece.last, documents=self.documents[piece.last - self.first :])


def tokens_per_unit(num_tokens: int, device: str) -> int:
    """How many tokens to put into a unit, for a run over `num_tokens`."""
    least = MIN_UNIT_TOKENS["cpu" if device == "cpu" else "cuda"]
    return min(max(num_tokens // UNITS, least), MAX_UNIT_TOKENS)


def cut(shard: Shard, rows: range, size: int, hashes: range = ALL_HASHES) -> Iterator[Unit]:
    """Cut documents of a shard into units, at each multiple of `size` tokens of the shard's documents.

    Of a document that is scored in part, the tokens that the models read count.

    Args:
        hashes: of all the shard's documents.

    For example, rows 1 to 3 of a shard with documents of 4 tokens become, with `size` 10, the rows [1, 2] and [3].
    """
    counted = np.maximum(shard.lengths_read, shard.lengths // HELD_PER_READ)
    starts = (np.cumsum(counted) - counted)[rows.start : rows.stop] // size
    edges = [rows.start, *(rows.start + 1 + np.flatnonzero(np.diff(starts))).tolist(), rows.stop]
    for first, last in pairwise(edges):
        documents = map(shard.document, range(first, last))
        yield Unit(first, [replace(document, token_ids=np.array(document.token_ids)) for document in documents], hashes)


class UnitScorer:
    """A worker that loads a pair of models and scores units.

    Args:
        seconds_per_piece: how long to collect scores before they are yielded; 0 yields the scores of each batch.

    Attributes:
        description: of the pair.

    Raises:
        InputError: as `load_pair`.
    """

    def __init__(self, options: PairOptions, steps: StepOptions = StepOptions(), seconds_per_piece: float = 0):
        self._pair, self._seq_len, self._seconds = load_pair(options), options.seq_len, seconds_per_piece
        self._steps = steps
        self._piece = cache(lambda token_id: self._pair.tokenizer.pieces([token_id])[0])
        self.description = self._pair.description

    def __call__(self, unit: Unit) -> Iterator[Piece]:
        """Scores of the unit's documents, in order, as they are computed; with several references, at the end."""
        first, scores, yielded = unit.first, [], time.monotonic()
        scorers = dict.fromkeys(self._pair.scorer_of(document.domain) for document in unit.documents)
        streams = [scorer.stream(self._windows(unit, scorer)) for scorer in scorers]
        for finished in chain.from_iterable(streams):
            scores += [self._scored(row, unit.document(row), losses) for row, losses in finished]
            if len(streams) == 1 and time.monotonic() - yielded >= self._seconds:
                yield Piece(first, scores[-1].row + 1, scores)
                first, scores, yielded = scores[-1].row + 1, [], time.monotonic()
        if first < unit.last:
            yield Piece(first, unit.last, sorted(scores, key=attrgetter("row")))

    def _windows(self, unit: Unit, scorer: PairScorer) -> Iterator[KeyedWindows]:
        """The windows of each scorable document that this scorer scores, with its row as key."""
        for row, document in enumerate(unit.documents, unit.first):
            if document.is_scorable and self._pair.scorer_of(document.domain) is scorer:
                yield row, list(document.windows(self._seq_len, self._pair.tokenizer.bos_id))

    def _scored(self, row: int, document: Document, losses: TokenLosses) -> Scored:
        """The results for a document. On a GPU its guards are measured while the next batch is computed.

        They are not measured in the scorer's thread, because two busy threads would wait for each other.
        """
        text = document.token_ids[document.whole.scored()]
        text = text[text != document.separator_id]
        guards, steps = measure(text, self._pair.tokenizer.decode(text.tolist())), []
        if self._steps.wanted:
            # The separator has no text, so that it is never a step of its own.
            ids = document.token_ids.tolist()
            pieces = ["" if token_id == document.separator_id else self._piece(token_id) for token_id in ids]
            steps = score_steps(document, losses, pieces, self._steps.separator)
        places, losses = losses.scored(document)
        without_copies = losses.of(novel(document.token_ids)[places]).means()
        return Scored(row, losses.means(), without_copies, len(places), guards, steps)
