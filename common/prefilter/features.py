"""What the bytes of a text say about it, for many documents at once, at tens of MB/s a core.

Words are runs of letters, digits, underscores and bytes of other alphabets; each other mark is a word of its own. No
loop of Python runs over words: they are hashed and sorted by numpy.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from common.text.rows import zstd

LONGEST = 2**20  # bytes of a document that are looked at
AT_ONCE = 2**19  # bytes that stay in the processor's cache
KINDS = ("mark", "number", "capital", "short", "long")
LONG = 7  # letters of a long word
MARKS = b"\n\t \"'$(),-./:;=[\\]_`{|}"
FEATURES = (
    *("bytes", "word_bytes", "compressed", "entropy", "upper", "digits", "not_ascii"),
    *(f"mark_{mark}" for mark in MARKS),
    *(f"{what}_{kind}" for what in ("all", "distinct") for kind in KINDS),
    *("distinct_words", "distinct_triples"),
)
SPACE, WORD, MARK = range(3)
CLASSES = np.full(256, MARK, np.uint8)
CLASSES[list(b" \t\n\r\v\f")] = SPACE
CLASSES[list(b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = WORD
CLASSES[128:] = WORD
FACTOR, SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
KIND = np.uint64(7)  # the last bits of a word's hash, in place of which its kind is put
FIRST_BYTES = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)


def features_of(texts: Sequence[str]) -> np.ndarray:
    """The `FEATURES` of some texts, float64, shape [num_texts, num_features]; of a long text, of its beginning."""
    encoded = [text[:LONGEST].encode("utf-8", "replace")[:LONGEST] for text in texts]
    parts = np.cumsum([*map(len, encoded)]) // AT_ONCE
    cuts = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(texts)]
    return np.concatenate([_features(encoded[begin:end]) for begin, end in pairwise(cuts)])


def _features(encoded: list[bytes]) -> np.ndarray:
    lengths = np.array([*map(len, encoded)])
    compressor = zstd.ZstdCompressor()
    compressed = [len(compressor.compress(text, zstd.ZstdCompressor.FLUSH_FRAME)) for text in encoded]
    counts = np.array([np.bincount(np.frombuffer(text, np.uint8), minlength=256) for text in encoded])
    shares = counts / np.maximum(lengths, 1)[:, None]
    entropy = -(shares * np.log2(np.where(shares, shares, 1))).sum(axis=1)
    groups = [shares[:, first:last].sum(axis=1) for first, last in ((65, 91), (48, 58), (128, 256))]
    of_words, word_bytes = _words(encoded, lengths)
    first = (np.log1p(lengths), word_bytes, compressed / np.maximum(lengths, 1), entropy)
    return np.column_stack([*first, *groups, shares[:, list(MARKS)], of_words])


def _words(encoded: list[bytes], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the words of each text, in the order of `FEATURES`, and bytes for each word."""
    joined = b"".join([*encoded, bytes(8)])
    data, edges, num_texts = np.frombuffer(joined, np.uint8)[:-8], np.cumsum(lengths), len(lengths)
    classes = CLASSES[data]
    begins = np.append(True, (classes[1:] != classes[:-1]) | (classes[1:] == MARK))[: len(data)]
    begins[edges[edges < len(data)]] = True
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=len(data))
    is_word = classes[starts] != SPACE
    starts, sizes = starts[is_word], sizes[is_word]
    ends = np.searchsorted(starts, edges)
    totals = np.diff(ends, prepend=0)
    documents = np.repeat(np.arange(num_texts), totals)
    kinds = _kinds(data[starts], classes[starts] == MARK, sizes)
    hashes = _hashes(joined, starts, sizes)
    words = (hashes & ~KIND) | kinds
    by_kind = [_by_kind(documents, kinds, num_texts)]
    new = _new(words, ends)
    by_kind.append(_by_kind(documents[new], words[new] & KIND, num_texts))
    triples = _mixed(_mixed(hashes[:-2]) + hashes[1:-1]) + hashes[2:]
    new = _new(np.concatenate([triples, hashes[:2]]), ends, cut=2)
    distinct = by_kind[1].sum(axis=1), np.bincount(documents[new], minlength=num_texts)
    counts = np.column_stack([*by_kind, *distinct])
    totals = np.maximum(totals, 1)
    return counts / totals[:, None], lengths / totals


def _kinds(first: np.ndarray, is_mark: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The place in `KINDS` of words, from their first byte and their bytes; uint64."""
    kinds = np.where(sizes < LONG, 3, 4)
    kinds[(first >= ord("A")) & (first <= ord("Z"))] = 2
    kinds[(first >= ord("0")) & (first <= ord("9"))] = 1
    kinds[is_mark] = 0
    return kinds.astype(np.uint64)


def _by_kind(documents: np.ndarray, kinds: np.ndarray, num_texts: int) -> np.ndarray:
    """How many words of each kind a document has."""
    places = documents * len(KINDS) + kinds.astype(np.int64)
    return np.bincount(places, minlength=num_texts * len(KINDS)).reshape(num_texts, -1)


def _hashes(joined: bytes, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """64 bits of each word, from its first and last 8 bytes and its length."""
    eights = np.ndarray(len(joined) - 7, "<u8", joined, strides=(1,))
    inside = np.minimum(sizes, 8)
    mask = FIRST_BYTES[inside]
    ends = eights[starts + sizes - inside] & mask
    return _mixed((eights[starts] & mask) + _mixed(ends + sizes.astype(np.uint64)))


def _mixed(hashes: np.ndarray) -> np.ndarray:
    hashes = hashes * FACTOR
    return hashes ^ (hashes >> SHIFT)


def _new(keys: np.ndarray, ends: np.ndarray, cut: int = 0) -> np.ndarray:
    """Sort the keys of each document in place; which of them are not equal to the one before, bool.

    Args:
        ends: where each document ends among the keys.
        cut: keys at the end of a document that do not count.
    """
    begins = np.append(0, ends[:-1])
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        keys[begin : max(begin, end - cut)].sort()
    new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    new[begins[begins < ends]] = True
    for place in range(1, cut + 1):
        new[(ends - place)[ends - place >= begins]] = False
    return new
