"""Repetition, runs and copies: measures against plain loops."""

import zlib
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.table.guards import NUM_KEYS, longest_run, measure, novel, repetition, representatives

tokens = st.lists(st.integers(0, 3), max_size=40)


@given(tokens, st.integers(1, 12))
def test_repetition_is_that_of_a_loop_over_ngrams(ids, n):
    seen, covered = set(), set()
    for start in range(len(ids) - n + 1):
        ngram = tuple(ids[start : start + n])
        if ngram in seen:
            covered |= set(range(start, start + n))
        seen.add(ngram)
    assert repetition(np.array(ids, np.int64), n) == pytest.approx(len(covered) / len(ids) if ids else 0)


@given(tokens, st.integers(1, 12))
def test_a_token_is_novel_unless_it_ends_an_ngram_that_was_there(ids, n):
    ngrams = [tuple(ids[max(0, place - n + 1) : place + 1]) for place in range(len(ids))]
    expected = [len(ngram) < n or ngram not in ngrams[:place] for place, ngram in enumerate(ngrams)]
    assert novel(np.array(ids, np.int64), n).tolist() == expected


@given(tokens)
def test_the_longest_run_is_that_of_a_loop_over_stretches(ids):
    longest = 0
    for start, end in combinations(range(len(ids) + 1), 2):
        for period in range(1, min(13, (end - start) // 3) + 1):
            if all(ids[i] == ids[i - period] for i in range(start + period, end)):
                longest = max(longest, end - start)
    assert longest_run(np.array(ids, np.int64)) == longest


def test_a_document_that_repeats_its_whole_text_once_has_half_repetition():
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)
    assert repetition(ids) == 0
    assert repetition(np.concatenate([ids, ids])) == 0.5
    assert repetition(np.concatenate([ids, ids[:100]])) == pytest.approx(100 / 1100)


def test_the_compression_is_zlibs():
    text = "Größe 多. " * 50
    assert measure(np.arange(9), text).compression == round(len(zlib.compress(text.encode())) / len(text.encode()), 4)


def alike(documents, order=None):
    """The rows that stand for each document, as lists."""
    keys = b"".join(measure(np.array(ids), "").keys for ids in documents)
    columns = np.frombuffer(keys, np.uint64).reshape(-1, NUM_KEYS).T
    return tuple(of.tolist() for of in representatives(columns, np.arange(len(documents)) if order is None else order))


def similarity(one, other) -> float:
    """Of the sets of 5-grams, by Jaccard."""
    sets = [{tuple(ids[i : i + 5]) for i in range(len(ids) - 4)} for ids in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_duplicates_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    found = {True: [], False: []}
    for _ in range(100):
        one = rng.integers(0, 50_000, 600)
        for changes in (6, 90):
            other = one.copy()
            other[rng.choice(600, changes, replace=False)] = 7
            is_near = similarity(one.tolist(), other.tolist()) > 0.85
            equal, near = alike([one, rng.integers(0, 50_000, 600), other])
            assert equal == [0, 1, 2]
            assert near[1] == 1
            found[is_near].append(near[2] == 0)
    assert len(found[True]) == len(found[False]) == 100
    assert np.mean(found[True]) > 0.97
    assert np.mean(found[False]) < 0.03


def test_one_document_represents_all_that_are_linked():
    keys = np.arange(7 * NUM_KEYS, dtype=np.uint64).reshape(7, NUM_KEYS)
    keys[5, 0] = keys[3, 0]  # equal
    keys[5, 1:] = keys[3, 1:]
    keys[4, 2] = keys[1, 2]  # 1 and 4 share a band, 4 and 6 another
    keys[6, 9] = keys[4, 9]
    equal, near = representatives(keys.T, np.arange(7))
    assert equal.tolist() == [0, 1, 2, 3, 4, 3, 6]
    assert near.tolist() == [0, 1, 2, 3, 1, 3, 1]
    equal, near = representatives(keys.T, np.array([6, 5, 4, 3, 2, 1, 0]))
    assert equal.tolist() == [0, 1, 2, 5, 4, 5, 6]
    assert near.tolist() == [0, 6, 2, 5, 6, 5, 6]


def test_documents_of_a_few_tokens_are_alike_only_when_they_are_equal():
    equal, near = alike([[1, 2], [1, 3], [1, 2], [1], [2], [1, 2, 3, 4, 5], [1]])
    assert equal == near == [0, 1, 0, 3, 4, 5, 3]


def test_a_long_document_is_measured_in_parts_to_the_same_keys(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 50_000, 5000)
    whole = measure(ids, "").keys
    monkeypatch.setattr("common.table.guards.SHINGLES_AT_ONCE", 700)
    assert measure(ids, "").keys == whole


def test_the_measures_stay_the_same_from_run_to_run():
    """They are kept in parts, by which a run goes on in another process."""
    found = measure(np.arange(50) % 30, "text")
    assert found[:3] == (0.4, 0, 3.0)
    assert found.keys[:24].hex() == KNOWN_KEYS


KNOWN_KEYS = "44c6c53d5cc42f74ec0e9796f56cf07048096de310f2d13e"
