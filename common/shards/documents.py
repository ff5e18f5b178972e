"""A document as tokens: its place, the windows in which it is scored, and which of its tokens are scored."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from common.shards.doc_id import format_doc_id

ALL_HASHES = range(2**32)


def token_hash(token_ids: np.ndarray, separator_id: int) -> int:
    """A document's number in `ALL_HASHES`, from its tokens without separators: it says in which samples it is.

    Parts of scores rely on it, so it must never change.

    >>> token_hash(np.array([5, 6, 0]), 0) == token_hash(np.array([0, 5, 6], np.uint16), 0)
    True
    """
    ids = token_ids[token_ids != separator_id].astype("<u4")
    return int.from_bytes(hashlib.blake2b(ids, digest_size=4).digest(), "little")


@dataclass(frozen=True)
class Document:
    """A document of a shard.

    Attributes:
        shard_name: path of the shard without its suffix.
        start: where the document begins in the shard, in tokens.
        token_ids: with the separator, shape [num_tokens].
        separator_id: the token between documents.
        domain: documents are ranked within their domain.
        answers: the only tokens that are scored, as half-open spans counted from the first token of the document,
            int64, shape [num_answers, 2]; None if all are.
        passages: the only stretches that the models read, half-open and ascending; None: all of it.
    """

    shard_name: str
    start: int
    token_ids: np.ndarray
    separator_id: int
    domain: str
    answers: np.ndarray | None = None
    passages: tuple[tuple[int, int], ...] | None = None

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    @property
    def num_read(self) -> int:
        """Number of tokens that the models read."""
        return len(self._read)

    @property
    def end(self) -> int:
        """Where the document ends in the shard, in tokens."""
        return self.start + len(self)

    @property
    def doc_id(self) -> str:
        """`path/of/shard:start-end`."""
        return format_doc_id(self.shard_name, self.start, self.end)

    @property
    def is_scorable(self) -> bool:
        """Whether it has at least two tokens besides the separator, and a scored token after the first."""
        return int(np.count_nonzero(self.token_ids != self.separator_id)) >= 2 and len(self.scored(1)) > 0

    def scored(self, first: int = 0) -> np.ndarray:
        """The places, from `first` on, of the tokens that are scored; int64, counted from the document's first token.

        >>> answers = np.array([[0, 3], [5, 7]])
        >>> Document("shard", 100, np.arange(9), 0, "chats", answers).scored(1)
        array([1, 2, 5, 6])
        """
        places = self._read
        places = places[places >= first]
        if self.answers is None:
            return places
        return places[((places >= self.answers[:, :1]) & (places < self.answers[:, 1:])).any(0)]

    def targets(self, count: int) -> np.ndarray:
        """The places of its `count` targets: what the models read, without the first token if nothing precedes it."""
        return self._read[len(self._read) - count :]

    @property
    def _read(self) -> np.ndarray:
        return np.concatenate([np.arange(*each) for each in self.passages or [(0, len(self))]])

    def in_part(self, score_tokens: int) -> "Document":
        """The same document, of which the models read its first tokens and as many from a random place after them.

        A document with up to twice as many tokens stays whole. Its tokens alone decide on the place.

        >>> Document("shard", 0, np.arange(1, 101), 0, "plays").in_part(10).passages
        ((0, 10), (32, 42))
        """
        room = len(self) - 2 * score_tokens
        if room <= 0:
            return self
        draw = random.Random(token_hash(self.token_ids, self.separator_id)).random()
        start = score_tokens + int(draw * (room + 1))
        return replace(self, passages=((0, score_tokens), (start, start + score_tokens)))

    @property
    def whole(self) -> "Document":
        """The same document, which the models read from its first token to its last."""
        return replace(self, passages=None)

    def within(self, start: int, end: int) -> "Document":
        """The same document with only its tokens [start, end) scored, counted from its first token."""
        answers = np.array([[0, len(self)]]) if self.answers is None else self.answers
        return replace(self, answers=answers.clip(start, end))

    def windows(self, seq_len: int, bos_id: int | None) -> Iterator[np.ndarray]:
        """Cut the document, or each of its passages, into windows of one context token and up to `seq_len` targets.

        The first token of a window is context, all others are targets. Each token that is read is a target exactly
        once, except the document's first token if nothing comes before it.

        Args:
            bos_id: the BOS that the tokenizer itself adds, or None. With a BOS, each window begins with it. Without,
                the first window begins with the document's first token and each later one with the token before it.

        >>> document = Document("shard", 0, np.array([5, 6, 7, 8, 0]), 0, "plays")
        >>> [window.tolist() for window in document.windows(2, bos_id=1)]
        [[1, 5, 6], [1, 7, 8], [1, 0]]
        >>> [window.tolist() for window in document.windows(2, bos_id=None)]
        [[5, 6, 7], [7, 8, 0]]
        """
        token_ids = np.asarray(self.token_ids, dtype=np.int64)
        first_target = int(bos_id is None or token_ids[:1].tolist() == [bos_id])
        for begin, end in self.passages or [(0, len(self))]:
            for start in range(max(begin, first_target), end, seq_len):
                context = token_ids[start - 1 : start] if bos_id is None else [bos_id]
                yield np.concatenate([context, token_ids[start : min(start + seq_len, end)]])
