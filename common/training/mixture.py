"""Training sequences from several streams of documents by token share, read from the shards; nothing is copied.

    from common.training.mixture import DocumentStream, Mixture

    streams = {
        "selected": DocumentStream.of_selection("data/top20.parquet"),
        "baseline": DocumentStream.of_shards(["data/fineweb10B/fineweb_train_*.bin"]),
    }
    mixture = Mixture(streams, {"selected": 0.7, "baseline": 0.3}, seq_len=4096)
    loader = torch.utils.data.DataLoader(mixture, batch_size=8, sampler=range(rank, len(mixture), world_size))

A sequence depends only on its number, so ranks and loader workers with different numbers never overlap, and a run that
has seen `n` sequences continues with number `n`. The order is already shuffled: use the numbers in ascending order.
"""

import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from common.errors import InputError
from common.files import expand
from common.shards.format import check_vocabulary
from common.shards.index import ShardInfo
from common.shards.reader import Shard, ShardReader
from common.table.places import Places
from common.text.tokenization import Vocabulary

READER = ShardReader()
BLOCK = 1024  # sequences in a block, the last one may be shorter; in each each stream has its share, up to rounding


class DocumentStream:
    """The documents of shards as an endless stream of tokens, in an order that is shuffled again for each epoch.

    Args:
        shards: the tokens of each shard.
        shard_of: for each document, the number of its shard, shape [num_documents].
        spans: for each document, its place in the shard, int64, shape [num_documents, 2].
        made_by: how the tokens were made, None if that is not known.
        digests: of the shards.
        names: of the shards, as in `Shard`.

    Attributes:
        num_documents, num_tokens: in an epoch.
        made_by, names: as above.
    """

    def __init__(
        self,
        shards: Sequence[np.ndarray],
        shard_of: np.ndarray,
        spans: np.ndarray,
        made_by: ShardInfo | None = None,
        digests: Sequence[str] = (),
        names: Sequence[str] = (),
    ):
        self.made_by, self.names = made_by, names
        self._shards, self._shard_of, self._digests = shards, shard_of, digests
        self._starts, self._lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
        self.num_documents, self.num_tokens = len(spans), int(self._lengths.sum())
        self._orders: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def of_shards(cls, patterns: Sequence[str], reader: ShardReader = READER) -> "DocumentStream":
        """All documents of some shards; InputError as in `expand` and `ShardReader.open`."""
        shards = [reader.open(path) for path in expand(patterns)]
        counts = [len(shard.spans) for shard in shards]
        shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        return cls._of(shards, shard_of, np.concatenate([shard.spans for shard in shards]), " ".join(patterns))

    @classmethod
    def of_selection(cls, path: str | Path, reader: ShardReader = READER) -> "DocumentStream":
        """The documents of a selection, the `.parquet` that rank_scores.py writes.

        Raises:
            InputError: it is no selection, or a shard of it is damaged or has other documents.
        """
        places = Places.read(path)
        shards = [places.open(number, reader) for number in range(len(places.shards))]
        return cls._of(shards, places.shard_of, places.spans, str(path))

    @classmethod
    def _of(cls, shards: Sequence[Shard], shard_of: np.ndarray, spans: np.ndarray, name: str) -> "DocumentStream":
        if len({shard.info and shard.info.fingerprint for shard in shards}) > 1:
            raise InputError(f"{name}: shards of different tokenizers, or some without an index; train on one kind")
        made_by = shards[0].info if shards else None
        digests, names = [shard.digest() for shard in shards], [shard.name for shard in shards]
        found = cls([shard.tokens for shard in shards], shard_of, spans, made_by, digests, names)
        if not found.num_tokens:
            raise InputError(f"{name}: no tokens in it")
        return found

    def require_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Raise InputError for tokens outside a vocabulary; reads them unless their tokenizer has no others."""
        if self.made_by and self.made_by.vocab_size <= vocabulary.size:
            return
        where = f"shards made with {self.made_by.tokenizer}" if self.made_by else "a shard without an index"
        for tokens in self._shards:
            check_vocabulary(where, tokens, vocabulary)

    def digest(self) -> str:
        """A short hash of the shards, and of the places of the documents in them."""
        digest = hashlib.sha256("".join(self._digests).encode())
        for array in (self._shard_of, self._starts, self._lengths):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def read(self, first: int, count: int, seed: int) -> np.ndarray:
        """Tokens [first, first + count) of the endless stream, int64, shape [count]."""
        tokens, filled = np.empty(count, np.int64), 0
        while filled < count:
            epoch, offset = divmod(first + filled, self.num_tokens)
            order, ends = self._order(seed, epoch)
            place = int(np.searchsorted(ends, offset, side="right"))
            while filled < count and place < len(order):
                row, left = order[place], int(ends[place]) - offset
                taken = min(count - filled, left)
                start = int(self._starts[row] + self._lengths[row]) - left
                tokens[filled : filled + taken] = self._shards[self._shard_of[row]][start : start + taken]
                filled, offset, place = filled + taken, offset + taken, place + 1
        return tokens

    def _order(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of an epoch in their order, and where each ends in the epoch's tokens."""
        if (seed, epoch) not in self._orders:
            order = np.random.default_rng([seed, epoch]).permutation(len(self._lengths))
            kept = list(self._orders.items())[-1:]  # a sequence may begin in one epoch and end in the next
            self._orders = dict([*kept, ((seed, epoch), (order, np.cumsum(self._lengths[order])))])
        return self._orders[seed, epoch]


class Mixture(torch.utils.data.Dataset):
    """Packed sequences of tokens, each from one stream, in the given shares.

    Args:
        streams: by name.
        shares: of the tokens, by the same names; they need not add up to 1.
        seq_len: tokens in a sequence; documents continue across its edges.
        num_sequences: how many there are; default: as many as there are before the first stream starts its next epoch.

    >>> whole = DocumentStream([np.arange(100)], np.zeros(2, int), np.array([[0, 60], [60, 100]]))
    >>> Mixture({"all": whole}, {"all": 1}, seq_len=25)[0]["input_ids"].shape
    torch.Size([25])
    """

    def __init__(
        self,
        streams: dict[str, DocumentStream],
        shares: dict[str, float],
        seq_len: int,
        seed: int = 0,
        num_sequences: int | None = None,
    ):
        if streams.keys() != shares.keys() or not streams:
            raise InputError(f"the mix has shares for {', '.join(shares)}, but the streams are {', '.join(streams)}")
        whole = sum(Fraction(str(share)) for share in shares.values())
        self._shares = {name: Fraction(str(shares[name])) / whole for name in streams if shares[name] >= 0 and whole}
        if len(self._shares) < len(shares) or min(self._shares.values()) * BLOCK < 1:
            raise InputError(f"the mix: a share is below 1/{BLOCK} of all; leave that one out")
        self._streams, self.seq_len, self._seed = streams, seq_len, seed
        fitting = min(streams[name].num_tokens / (share * seq_len) for name, share in self._shares.items())
        self._num_sequences = max(1, int(fitting)) if num_sequences is None else num_sequences
        self._block: tuple[int, np.ndarray, list[int]] = (-1, np.empty(0), [])

    def sources(self) -> Iterator[str]:
        """A line for each stream: its size, and how often it is read."""
        for name, drawn in self.drawn().items():
            stream = self._streams[name]
            part, epochs = drawn / self.num_tokens, drawn / stream.num_tokens
            yield (
                f"{name}: {stream.num_documents:,} documents, {stream.num_tokens:,} tokens; "
                f"{part:.0%} of the training, {drawn:,} tokens, {epochs:.2g} epochs"
            )

    def drawn(self) -> dict[str, int]:
        """How many tokens are read of each stream."""
        counts = self._counts(len(self))
        return {name: count * self.seq_len for name, count in zip(self._streams, counts, strict=True)}

    def __len__(self) -> int:
        return self._num_sequences

    @property
    def num_tokens(self) -> int:
        """In all sequences."""
        return len(self) * self.seq_len

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, both the same int64 tokens, as causal models of transformers expect."""
        if not 0 <= number < self._num_sequences:
            raise IndexError(number)
        name, index = self.place(number)
        stream = self._streams[name].read(index * self.seq_len, self.seq_len, self._seed)
        tokens = torch.from_numpy(stream)
        return {"input_ids": tokens, "labels": tokens}

    def place(self, number: int) -> tuple[str, int]:
        """The stream of a sequence, and the number of earlier sequences from that stream."""
        block, position = divmod(int(number), BLOCK)
        if self._block[0] != block:
            before, after = self._counts(block * BLOCK), self._counts(min((block + 1) * BLOCK, len(self)))
            which = np.repeat(np.arange(len(before)), np.subtract(after, before))
            self._block = (block, np.random.default_rng([self._seed, block]).permutation(which), before)
        _, which, before = self._block
        stream = int(which[position])
        return list(self._streams)[stream], before[stream] + int(np.count_nonzero(which[:position] == stream))

    def _counts(self, number: int) -> list[int]:
        """How many of the first `number` sequences are from each stream."""
        edges, total = [0], Fraction(0)
        for share in self._shares.values():
            total += share
            edges.append(int(total * number))
        return [last - first for first, last in pairwise(edges)]
