"""Shards are opened, and their documents found by the index or by the separator."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.reader import ShardReader, separated_spans
from tests.shards.conftest import write_pair, write_shard


@pytest.mark.parametrize(
    ("tokens", "side", "spans"),
    [
        ([9, 5, 6, 9, 7], "first", [[0, 3], [3, 5]]),
        ([5, 6, 9, 7, 9], "last", [[0, 3], [3, 5]]),
        # the other shard holds the rest of a document
        ([4, 4, 9, 5, 9, 7], "first", [[0, 2], [2, 4], [4, 6]]),
        ([5, 9, 6, 9, 7, 7], "last", [[0, 2], [2, 4], [4, 6]]),
        # nothing between two separators
        ([9, 9, 5], "first", [[0, 1], [1, 3]]),
        ([5, 9, 9], "last", [[0, 2], [2, 3]]),
        ([5, 9, 9], "first", [[0, 1], [1, 2], [2, 3]]),
        ([9], "first", [[0, 1]]),
        ([9], "last", [[0, 1]]),
        ([5, 6], "first", [[0, 2]]),
        ([5, 6], "last", [[0, 2]]),
        ([], "first", []),
        ([], "last", []),
    ],
)
def test_separators_are_the_edges_of_documents(tokens, side, spans):
    assert separated_spans(np.array(tokens, np.uint16), 9, side).tolist() == spans


def test_a_separator_of_id_0_separates():
    assert separated_spans(np.array([0, 5, 0, 6], np.uint16), 0, "first").tolist() == [[0, 2], [2, 4]]
    assert separated_spans(np.array([5, 0, 6, 0], np.uint32), 0, "last").tolist() == [[0, 2], [2, 4]]


def test_a_separator_beyond_uint16_is_in_no_uint16_shard():
    # 65537 would be 1 in sixteen bits
    assert separated_spans(np.array([5, 1, 6], np.uint16), 65537, "last").tolist() == [[0, 3]]


@given(st.lists(st.integers(0, 4), max_size=40), st.sampled_from(["first", "last"]))
def test_separators_cut_a_shard_into_documents_and_lose_nothing(ids, side):
    spans = separated_spans(np.array(ids, np.uint16), 0, side).tolist()
    documents = [ids[start:end] for start, end in spans]
    assert [token for document in documents for token in document] == ids
    assert all(documents)
    for number, document in enumerate(documents):
        inner = document[1:] if side == "first" else document[:-1]
        assert 0 not in inner
        edge = document[0] if side == "first" else document[-1]
        assert edge == 0 or number == (0 if side == "first" else len(documents) - 1)


def test_a_slice_finds_its_document(tmp_path):
    shard = ShardReader(eot_id=9, eot_side="first").open(write_shard(tmp_path / "x.bin", [4, 9, 5, 6, 9, 7]))
    assert shard.spans.tolist() == [[0, 1], [1, 4], [4, 6]]
    slices = {(0, 1): 0, (1, 4): 1, (2, 3): 1, (3, 4): 1, (4, 6): 2, (5, 6): 2}
    assert {span: shard.row_of(*span) for span in slices} == slices


@pytest.mark.parametrize(("start", "end", "says"), [(5, 7, "ends at token 6"), (6, 7, "ends at"), (3, 5, "x:1-4")])
def test_a_slice_outside_or_across_an_edge_is_refused(tmp_path, start, end, says):
    shard = ShardReader(eot_id=9, eot_side="first").open(write_shard(tmp_path / "x.bin", [4, 9, 5, 6, 9, 7]))
    with pytest.raises(InputError, match=f"{start}-{end}.*{says}"):
        shard.row_of(start, end)


def test_no_slice_of_an_empty_shard(tmp_path):
    shard = ShardReader(eot_id=9).open(write_shard(tmp_path / "x.bin", []))
    assert len(shard.spans) == 0
    with pytest.raises(InputError):
        shard.row_of(0, 1)


def test_the_index_says_where_documents_are(tmp_path):
    shard = ShardReader(eot_id=6).open(write_pair(tmp_path, [5, 6, 6, 9, 9, 7, 9], [(0, 4), (4, 5), (5, 7)]))
    assert shard.spans.tolist() == [[0, 4], [4, 5], [5, 7]]
    assert list(shard.domains) == ["d0", "d1", "d0"]
    assert shard.tokens.tolist() == [5, 6, 6, 9, 9, 7, 9]
    assert shard.separator_id == 9
    assert shard.info.num_tokens == 7
    assert shard.document(1).doc_id == f"{tmp_path}/x:4-5"


def test_an_empty_shard_with_its_index_opens(tmp_path):
    shard = ShardReader().open(write_pair(tmp_path, [], []))
    assert (len(shard.spans), len(shard.domains)) == (0, 0)


def test_without_index_the_separator_is_needed(tmp_path):
    path = write_shard(tmp_path / "x.bin", [0, 5, 0, 6])
    with pytest.raises(InputError, match=r"x\.bin: no index x\.index\.parquet.*--eot_id"):
        ShardReader().open(path)
    shard = ShardReader(eot_id=0).open(path)
    assert shard.spans.tolist() == [[0, 2], [2, 4]]
    assert (len(shard.domains), shard.separator_id, shard.info) == (2, 0, None)


@pytest.mark.parametrize(
    ("side", "scored"),
    [
        # before the first separator is the end of another document
        ("first", {(0, 1): [0], (1, 4): [1, 2], (4, 6): [1], (6, 7): []}),
        ("last", {(0, 2): [0], (2, 5): [0, 1], (5, 7): [0]}),
    ],
)
def test_a_separator_that_is_not_scored_is_still_context(tmp_path, side, scored):
    path = write_shard(tmp_path / "x.bin", [4, 9, 5, 6, 9, 7, 9])
    documents = map(ShardReader(9, side, score_separator=False).open(path).document, range(len(scored)))
    for document, (span, places) in zip(documents, scored.items(), strict=True):
        assert (document.start, document.end) == span
        assert document.scored().tolist() == places
        assert len(document.token_ids) == span[1] - span[0]
    assert ShardReader(9, side).open(path).document(1).scored().tolist() == list(range(3))


def test_a_long_document_is_read_in_part_but_a_chat_whole(tmp_path):
    path = write_shard(tmp_path / "x.bin", [*range(10, 19), 9, *range(20, 29), 9, 5, 6, 9])
    shard = ShardReader(9, "last", score_tokens=3, score_separator=False).open(path)
    assert (shard.lengths.tolist(), shard.lengths_read.tolist()) == ([10, 10, 3], [6, 6, 3])
    assert [shard.document(row).num_read for row in range(3)] == [6, 6, 3]
    assert all(place < 9 for row in range(3) for place in shard.document(row).scored())
    shard = replace(shard, answers=[None, np.array([[3, 9]]), None])
    assert shard.lengths_read.tolist() == [6, 10, 3]
    assert shard.document(1).scored().tolist() == list(range(3, 9))


def test_a_shard_of_another_tokenizer_is_refused(tmp_path, bpe, spm):
    own = {"fingerprint": bpe.fingerprint, "vocab_size": bpe.vocab_size}
    path = write_pair(tmp_path, [5, 9], [(0, 2)], **own)
    assert len(ShardReader(model_tokenizer=bpe).open(path).spans) == 1
    with pytest.raises(InputError, match=r"x\.bin"):
        ShardReader(model_tokenizer=spm).open(path)
    larger = write_pair(tmp_path, [5, 9], [(0, 2)], **{**own, "vocab_size": bpe.vocab_size + 1})
    with pytest.raises(InputError):
        ShardReader(model_tokenizer=bpe).open(larger)
