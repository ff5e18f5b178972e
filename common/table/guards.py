"""Measures of what the score rewards wrongly: repetition in a document, and copies of it.

The score rises wherever text can be copied, so it rises with repeated phrases and boilerplate. The measures are those
of the large open corpora, computed on tokens:

repetition   share of tokens in n-grams that occurred before in the document, after Gopher's duplicate n-grams (arXiv
             2112.11446, table A1), which counts characters; n = 10
longest_run  tokens in the longest run of one n-gram (n up to 13) three or more times in a row, as in Dolma
             (arXiv 2402.00159)
compression  bytes of the text after zlib by bytes before
keys         hashes: documents that share one are equal, or nearly equal
"""

import hashlib
import zlib
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from datasketch import MinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

REPEATED_NGRAM, NOVEL_NGRAM = 10, 5
MAX_PERIOD, MIN_TIMES = 13, 3
# FineWeb's setting (arXiv 2406.17557): of two documents with 75 % of their 5-grams in common 77 % share a band, of two
# with half of them 5 %.
SHINGLE, BANDS, ROWS_PER_BAND = 5, 14, 8
NUM_KEYS = 1 + BANDS
SHINGLES_AT_ONCE = 2**14  # in memory, each with a number for each row
KEY_BYTES = 8 * NUM_KEYS
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Guards(NamedTuple):
    """The measures of one document; `keys` are `NUM_KEYS` uint64 as bytes, the hash of the whole document first."""

    repetition: float
    longest_run: int
    compression: float
    keys: bytes


def measure(token_ids: np.ndarray, text: str) -> Guards:
    """Measure one document.

    Args:
        token_ids: without the separator, shape [num_tokens].
        text: the same document as text.
    """
    token_ids = np.ascontiguousarray(token_ids, np.int64)
    data = text.encode("utf-8", "surrogatepass")
    return Guards(
        round(repetition(token_ids), 4),
        longest_run(token_ids),
        round(len(zlib.compress(data)) / max(1, len(data)), 4),
        _keys(token_ids).tobytes(),
    )


def repetition(token_ids: np.ndarray, n: int = REPEATED_NGRAM) -> float:
    """Share of tokens in n-grams that occurred before; the first occurrence does not count.

    >>> repetition(np.array([1, 2, 3, 1, 2, 3, 4, 5]), 3)  # the second 1, 2, 3
    0.375
    """
    if len(token_ids) <= n:
        return 0.0
    again = _occurred_before(token_ids, n)
    covered = np.zeros(len(token_ids) + 1, np.int64)
    covered[:-n] += again
    covered[n:] -= again
    return float((covered.cumsum()[:-1] > 0).mean())


def novel(token_ids: np.ndarray, n: int = NOVEL_NGRAM) -> np.ndarray:
    """Which tokens do not end an n-gram that the document held before; bool, shape [num_tokens].

    >>> novel(np.array([1, 2, 3, 1, 2, 3, 4]), 2)  # the second 1, 2 and 2, 3
    array([ True,  True,  True,  True, False, False,  True])
    """
    found = np.ones(len(token_ids), bool)
    if len(token_ids) > n:
        found[n - 1 :] = ~_occurred_before(np.ascontiguousarray(token_ids, np.int64), n)
    return found


def _occurred_before(token_ids: np.ndarray, n: int) -> np.ndarray:
    """Whether each n-gram occurred before; bool, shape [num_tokens - n + 1]."""
    hashes = _ngrams(token_ids, n)
    again = np.ones(len(hashes), bool)
    again[np.unique(hashes, return_index=True)[1]] = False
    return again


def longest_run(token_ids: np.ndarray) -> int:
    """Tokens in the longest run of one n-gram, n up to 13, that occurs three or more times in a row.

    >>> longest_run(np.array([9, 1, 2, 1, 2, 1, 2, 1, 8]))
    7
    """
    longest = 0
    for period in range(1, min(MAX_PERIOD, len(token_ids) // MIN_TIMES) + 1):
        same = token_ids[period:] == token_ids[:-period]
        edges = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
        stretch = int(np.diff(edges).max()) - 1 + period
        if stretch >= MIN_TIMES * period:
            longest = max(longest, stretch)
    return longest


def representatives(keys: Sequence[np.ndarray], order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each document, the document that represents all equal ones, and the one that represents all near copies.

    Two documents are near copies if they share the key of a band, or if a chain of such pairs connects them. A document
    without copies represents itself.

    Args:
        keys: `NUM_KEYS` columns, uint64, shape [num_documents] each; may be memory maps.
        order: all rows, int64; of copies, the first in this order represents the others.
    Returns:
        Two arrays of rows, int64, shape [num_documents].
    """
    rows, later, first = np.arange(len(order)), [], []
    for bands in keys[1:]:
        earliest = _first_of_each(bands, rows)
        later.append(rows[earliest != rows])
        first.append(earliest[later[-1]])
    links = np.concatenate(later), np.concatenate(first)
    graph = coo_array((np.ones(len(links[0]), np.int8), links), shape=(len(rows), len(rows)))
    labels = connected_components(graph, directed=False)[1]
    return _first_of_each(keys[0], order), _first_of_each(labels, order)


def _first_of_each(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each row, the row of the same value that comes first in `order`."""
    _, first, value_of = np.unique(values[order], return_index=True, return_inverse=True)
    found = np.empty(len(order), np.int64)
    found[order] = order[first[value_of]]
    return found


def _ngrams(token_ids: np.ndarray, n: int) -> np.ndarray:
    """A hash of each n-gram, uint64."""
    last = len(token_ids) - n + 1
    hashes = np.zeros(last, np.uint64)
    for place in range(n):
        hashes = (hashes + token_ids[place : last + place].astype(np.uint64) + np.uint64(1)) * MULTIPLIER
    return hashes


def _keys(token_ids: np.ndarray) -> np.ndarray:
    """A hash of the whole document, and one for each band of its MinHash signature; uint64, shape [NUM_KEYS]."""
    whole = np.frombuffer(hashlib.blake2b(token_ids.tobytes(), digest_size=8).digest(), np.uint64)
    shingles = _ngrams(token_ids, min(SHINGLE, len(token_ids))) >> np.uint64(32)
    shingles, signature = np.unique(shingles), _empty_signature().copy()
    for start in range(0, len(shingles), SHINGLES_AT_ONCE):
        signature.update_batch(shingles[start : start + SHINGLES_AT_ONCE])
    bands = signature.hashvalues.astype(np.uint64).reshape(BANDS, ROWS_PER_BAND)
    keys = np.zeros(BANDS, np.uint64)
    for row in bands.T:
        keys = (keys + row + np.uint64(1)) * MULTIPLIER
    return np.concatenate([whole, keys])


@cache
def _empty_signature() -> MinHash:
    return MinHash(BANDS * ROWS_PER_BAND, hashfunc=int)
