"""Units: cut at the same places of a shard, whatever is scored already."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.scoring.units import MAX_UNIT_TOKENS, MIN_UNIT_TOKENS, UNITS, Piece, Unit, cut, tokens_per_unit
from common.shards.reader import Shard


def shard_of(*lengths: int) -> Shard:
    """A shard with documents of these lengths; each token is its own offset."""
    ends = np.cumsum([0, *lengths])
    count = len(lengths)
    spans = np.stack([ends[:-1], ends[1:]], axis=1)
    domains = [f"domain {row}" for row in range(count)]
    return Shard("data/x", np.arange(ends[-1]), 0, spans, domains, [None] * count, -1, True, None, None)


def rows(units) -> list[list[int]]:
    """The rows of each unit."""
    return [list(range(unit.first, unit.last)) for unit in units]


@pytest.mark.parametrize(
    ("wanted", "size", "expected"),
    [
        # the documents start at 0, 4, 8, 12, 16
        (range(5), 10, [[0, 1, 2], [3, 4]]),
        (range(1, 4), 10, [[1, 2], [3]]),
        (range(2, 5), 10, [[2], [3, 4]]),
        (range(3, 5), 10, [[3, 4]]),
        (range(4, 5), 10, [[4]]),
        (range(5), 8, [[0, 1], [2, 3], [4]]),
        (range(5), 1, [[0], [1], [2], [3], [4]]),
        (range(5), 4, [[0], [1], [2], [3], [4]]),
        (range(5), 16, [[0, 1, 2, 3], [4]]),
        (range(5), 17, [[0, 1, 2, 3, 4]]),
        (range(5), 10**9, [[0, 1, 2, 3, 4]]),
    ],
)
def test_documents_of_4_tokens_are_cut_by_hand(wanted, size, expected):
    assert rows(cut(shard_of(4, 4, 4, 4, 4), wanted, size)) == expected


def test_a_document_longer_than_a_unit_stays_whole():
    units = list(cut(shard_of(3, 35, 1, 1), range(4), 10))
    assert rows(units) == [[0, 1], [2, 3]]
    assert [sum(map(len, unit.documents)) for unit in units] == [38, 2]


def test_of_a_document_that_is_read_in_part_only_this_counts_unless_units_would_not_fit_memory(monkeypatch):
    shard = replace(shard_of(100, 100, 100, 4, 4), score_tokens=4)
    assert rows(cut(shard, range(5), 16)) == [[0, 1], [2, 3, 4]]
    monkeypatch.setattr("common.scoring.units.HELD_PER_READ", 10)
    assert rows(cut(shard, range(5), 16)) == [[0, 1], [2, 3], [4]]


def test_a_unit_holds_its_documents():
    shard = shard_of(4, 4, 4, 4, 4)
    first, second = cut(shard, range(1, 4), 10)
    assert (first.first, first.last, first.shard_name) == (1, 3, "data/x")
    assert [document.doc_id for document in first.documents] == ["data/x:4-8", "data/x:8-12"]
    assert [document.doc_id for document in second.documents] == ["data/x:12-16"]
    assert first.document(2).token_ids.tolist() == [8, 9, 10, 11]
    assert first.document(2).domain == "domain 2"
    # so that it does not take the whole shard along to a worker
    assert not any(np.shares_memory(document.token_ids, shard.tokens) for document in first.documents)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 60), st.data())
def test_the_edges_of_units_do_not_depend_on_the_rows_that_are_wanted(lengths, size, data):
    shard = shard_of(*lengths)
    start = data.draw(st.integers(0, len(lengths) - 1))
    wanted = range(start, data.draw(st.integers(start + 1, len(lengths))))
    whole = rows(cut(shard, range(len(lengths)), size))
    expected = [[row for row in unit if row in wanted] for unit in whole]
    assert rows(cut(shard, wanted, size)) == [unit for unit in expected if unit]
    assert [row for unit in whole for row in unit] == list(range(len(lengths)))
    for unit in whole:
        assert len({sum(lengths[:row]) // size for row in unit}) == 1


def test_the_rest_of_a_unit_is_what_comes_after_a_piece():
    [unit] = cut(shard_of(4, 4, 4, 4, 4), range(1, 5), 10**9)
    rest = unit.rest_after(Piece(1, 3, []))
    assert isinstance(rest, Unit)
    assert (rest.first, rest.last) == (3, 5)
    assert [document.doc_id for document in rest.documents] == ["data/x:12-16", "data/x:16-20"]
    last = rest.rest_after(Piece(3, 4, []))
    assert [document.doc_id for document in last.documents] == ["data/x:16-20"]
    assert last.rest_after(Piece(4, 5, [])) is None
    assert unit.rest_after(Piece(1, 5, [])) is None
    assert unit.rest_after(Piece(2, 4, [])).first == 4
    assert len(unit.rest_after(Piece(2, 4, [])).documents) == 1
    [unit] = cut(shard_of(4, 4, 4), range(3), 10**9, range(5, 7))
    assert unit.rest_after(Piece(0, 1, [])).hashes == unit.hashes == range(5, 7)


def test_units_of_some_documents_are_cut_by_the_tokens_of_these():
    shard = shard_of(*[4] * 50).only(np.arange(0, 50, 10))
    assert rows(cut(shard, range(5), 8)) == [[0, 1], [2, 3], [4]]
    assert rows(cut(shard, range(1, 4), 8)) == [[1], [2, 3]]
    [unit] = cut(shard, range(3, 5), 10**9)
    assert [document.doc_id for document in unit.documents] == ["data/x:120-124", "data/x:160-164"]
    assert unit.document(4).domain == "domain 40"


@pytest.mark.parametrize(
    ("num_tokens", "device", "size"),
    [
        (0, "cpu", 8192),
        (16_777_216, "cpu", 8192),  # 2048 units of 8192 tokens
        (16_779_264, "cpu", 8193),
        (2_048_000_000, "cpu", 1_000_000),
        (10**12, "cpu", 1_048_576),
        (0, "cuda", 1_048_576),
        (10**12, "cuda", 1_048_576),
        (10**6, "mps", 1_048_576),
    ],
)
def test_the_tokens_of_a_unit(num_tokens, device, size):
    assert (MIN_UNIT_TOKENS, MAX_UNIT_TOKENS, UNITS) == ({"cpu": 8192, "cuda": 1_048_576}, 1_048_576, 2048)
    assert tokens_per_unit(num_tokens, device) == size
