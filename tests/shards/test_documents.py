"""Windows of a document, and whether it is scored."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.shards.documents import token_hash
from tests.conftest import document_of


def predictions(document, seq_len, bos_id):
    """What each window predicts from what: (visible tokens, target) of every target, one by one, by the rule."""
    document = list(document)
    if bos_id is not None and document[:1] == [bos_id]:
        document = document[1:]
    out = []
    first_target = 0 if bos_id is not None else 1
    for place in range(first_target, len(document)):
        in_window = (place - first_target) % seq_len
        window_start = place - in_window
        before = [bos_id] if bos_id is not None else [document[window_start - 1]]
        out.append((before + document[window_start:place], document[place]))
    return out


@pytest.mark.parametrize("bos_id", [None, 0, 1, 9])
@pytest.mark.parametrize(
    "document",
    [
        [5],
        [9],
        [0],
        [5, 9],
        [9, 5],
        [0, 5],
        [1, 5, 9],
        [5, 6, 7, 8, 9],
        [9, 5, 6, 7, 8],
        [0, 5, 6, 0],
        [5, 5, 9, 0, 1, 0, 9],
        [0, 0, 0, 0],
    ],
)
def test_every_token_is_a_target_once_in_windows_of_seq_len(document, bos_id):
    for seq_len in range(1, len(document) + 2):
        cut = [window.tolist() for window in document_of(np.array(document, np.uint16)).windows(seq_len, bos_id)]
        assert all(2 <= len(window) <= seq_len + 1 for window in cut)
        found = [(window[:i], window[i]) for window in cut for i in range(1, len(window))]
        assert found == predictions(document, seq_len, bos_id)


@pytest.mark.parametrize(
    ("document", "seq_len", "bos_id", "expected"),
    [
        ([5, 6, 7, 8, 9], 2, None, [[5, 6, 7], [7, 8, 9]]),
        ([5, 6, 7, 9], 2, None, [[5, 6, 7], [7, 9]]),
        ([5, 6, 7, 9], 2, 1, [[1, 5, 6], [1, 7, 9]]),
        ([5, 6, 7, 9], 4, 1, [[1, 5, 6, 7, 9]]),
        ([5, 6, 7, 9], 3, None, [[5, 6, 7, 9]]),
        # BOS, end of text and separator are one id, and it is 0
        ([5, 6, 0], 2, 0, [[0, 5, 6], [0, 0]]),
        ([0, 5, 6], 1, 0, [[0, 5], [0, 6]]),
        ([0, 5, 6], 1, None, [[0, 5], [5, 6]]),
        ([5], 4, None, []),
        ([5], 4, 0, [[0, 5]]),
        ([0], 4, 0, []),
    ],
)
def test_windows_by_hand(document, seq_len, bos_id, expected):
    assert [
        window.tolist() for window in document_of(np.array(document, np.uint16)).windows(seq_len, bos_id)
    ] == expected


@pytest.mark.parametrize("bos_id", [None, 0, 1])
def test_a_document_without_tokens_has_no_windows(bos_id):
    assert list(document_of(np.array([], np.uint16)).windows(4, bos_id)) == []


@pytest.mark.parametrize("bos_id", [None, 100_000])
def test_windows_are_int64_as_embeddings_need(bos_id):
    (window,) = document_of(np.array([5, 6], np.uint16)).windows(4, bos_id)
    assert window.dtype == np.int64
    assert window.tolist()[-2:] == [5, 6]
    assert bos_id is None or window[0] == bos_id


def test_a_document_needs_two_tokens_that_are_not_separators_to_be_scored():
    assert document_of(np.array([5, 6]), 0).is_scorable
    assert document_of(np.array([0, 5, 5]), 0).is_scorable
    assert document_of(np.array([5, 5, 0]), 0).is_scorable
    assert not document_of(np.array([5, 0]), 0).is_scorable
    assert not document_of(np.array([0, 0, 0]), 0).is_scorable
    assert not document_of(np.array([], np.uint16), 0).is_scorable


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 20), st.sampled_from([None, 0, 3]))
def test_every_token_is_a_target_once_and_windows_are_full(ids, seq_len, bos_id):
    cut = list(document_of(np.array(ids)).windows(seq_len, bos_id))
    targets = [token for window in cut for token in window[1:].tolist()]
    assert targets == (ids[1:] if bos_id in (None, ids[0]) else ids)
    assert all(len(window) == seq_len + 1 for window in cut[:-1])
    if bos_id is not None:
        assert all(window[0] == bos_id for window in cut)


ANSWERS = np.array([[0, 2], [4, 6]])


def test_only_the_tokens_of_answers_are_scored():
    document = document_of([5, 6, 7, 8, 9, 5, 0], 0, ANSWERS)
    assert document.scored().tolist() == [0, 1, 4, 5]
    assert document.scored(1).tolist() == [1, 4, 5]
    assert document.within(1, 5).scored().tolist() == [1, 4]
    assert document.within(2, 4).scored().tolist() == []
    assert document_of([5, 6, 7]).scored(1).tolist() == [1, 2]
    assert document_of([5, 6, 7]).within(1, 3).scored().tolist() == [1, 2]


@pytest.mark.parametrize(("answers", "scorable"), [([[0, 1]], False), ([[0, 2]], True), ([[2, 3]], True), ([], False)])
def test_a_chat_needs_a_token_of_an_answer_after_the_first_token(answers, scorable):
    assert document_of([5, 6, 7], 0, np.array(answers).reshape(-1, 2)).is_scorable == scorable


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4), st.integers(0, 12))
def test_scored_tokens_are_those_of_a_plain_loop(spans, first):
    found = document_of(list(range(10)), -1, np.array(spans, int).reshape(-1, 2)).scored(first)
    assert found.tolist() == [place for place in range(first, 10) if any(start <= place < end for start, end in spans)]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(2, 12), st.sampled_from([None, 0, 3]))
def test_a_long_document_is_read_at_its_beginning_and_at_a_place_behind_it(ids, score_tokens, bos_id):
    document = document_of(ids, 9).in_part(score_tokens)
    if len(ids) <= 2 * score_tokens:
        assert document.passages is None
        return
    (first, start), (begin, end) = document.passages
    assert (first, start, end - begin) == (0, score_tokens, score_tokens) and score_tokens <= begin <= end <= len(ids)
    assert document.num_read == 2 * score_tokens
    cut = list(document.windows(5, bos_id))
    targets = document.targets(sum(len(window) - 1 for window in cut)).tolist()
    skipped = int(bos_id in (None, ids[0]))
    assert targets == [*range(skipped, score_tokens), *range(begin, end)]
    assert [token for window in cut for token in window[1:].tolist()] == [ids[place] for place in targets]
    firsts = np.cumsum([0, *(len(window) - 1 for window in cut[:-1])])
    before = [ids[targets[place] - 1] if bos_id is None else bos_id for place in firsts]
    assert [window[0] for window in cut] == before
    assert document.whole.num_read == len(ids)


def test_places_depend_on_the_text_alone_and_are_spread_over_all_of_it_also_in_a_sample():
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 400, 104) for _ in range(2000)]
    sample = [ids for ids in documents if token_hash(ids, 0) < 2**32 // 8]
    for some in (documents, sample):
        starts = [document_of(ids, 0).in_part(10).passages[1][0] for ids in some]
        assert np.histogram(starts, 5, (10, 95))[0] == pytest.approx(len(some) / 5, rel=0.35)
    assert min(starts) < 15 and max(starts) > 89
    assert replace(document_of(some[0], 0), shard_name="other", start=7).in_part(10).passages[1][0] == starts[0]


@pytest.mark.parametrize(
    ("ids", "number"),
    [([1, 2, 3, 9], 1052736275), ([9, 1, 9, 2, 3], 1052736275), ([70_000], 1129069126), ([9], 634351890)],
)
@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i8"])
def test_the_hash_that_chooses_samples_never_changes(ids, number, dtype):
    if max(ids) < 2**16 or dtype != "<u2":
        assert token_hash(np.array(ids, dtype), 9) == number
