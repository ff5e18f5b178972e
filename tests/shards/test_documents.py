"""Documents of a shard: where they lie, their windows, their ids, and their index."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.doc_id import parse_doc_id
from common.shards.format import ShardWriter
from common.shards.index import ShardInfo, read_index, write_index
from common.shards.reader import ShardReader, separated_spans
from tests.conftest import document_of


def write_shard(path, tokens, dtype="<u2", index=None):
    writer = ShardWriter(path, np.dtype(dtype))
    writer.append(tokens)
    writer.close(index)
    return path


def write_pair(folder, tokens, spans, **info):
    """A shard and its index, in which `info` may be wrong."""
    rows = [
        {"start": start, "end": end, "id": f"id{start}", "domain": f"d{i % 2}", "url": ""}
        for i, (start, end) in enumerate(spans)
    ]
    made = {"tokenizer": "t", "vocab_size": 400, "fingerprint": "f", "separator_id": 9, "separator_side": "last"}
    write_index(folder / "x.index.parquet", rows, ShardInfo(**{**made, "num_tokens": len(tokens), **info}))
    return write_shard(folder / "x.bin", tokens, index=folder / "x.index.parquet")


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


@pytest.mark.parametrize("name", ["x", "a/b.c/x_000001", "/abs/with space/x", "odd:3-9/x:1"])
def test_a_doc_id_leads_back_to_its_slice(tmp_path, name):
    path = write_shard(tmp_path / f"{name.lstrip('/')}.bin", [5, 9, 6, 9])
    shard = ShardReader(eot_id=9, eot_side="last").open(path)
    assert parse_doc_id(shard.document(1).doc_id) == (path, 2, 4)
    assert parse_doc_id(f"{name}:12-345") == (type(path)(name + ".bin"), 12, 345)


@pytest.mark.parametrize(
    "text",
    ["", "x", "x:3", "x:3-", "x:-3", "x:5-5", "x:6-5", ":3-5", "x:3-5-7", "x:a-b", "x:-1-5", "x:1.5-3", "x:3 -5"],
)
def test_what_is_no_doc_id_is_refused(text):
    with pytest.raises(InputError, match="doc_id"):
        parse_doc_id(text)


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
    ("spans", "info"),
    [
        ([(0, 2), (2, 5)], {"num_tokens": 6}),
        ([(0, 2), (2, 4)], {}),
        ([(0, 2), (2, 6)], {}),
        ([(0, 2), (3, 5)], {}),
        ([(1, 2), (2, 5)], {}),
        ([(0, 3), (3, 5)], {}),
        ([(2, 5), (0, 2)], {}),
        ([(0, 2), (2, 2), (2, 5)], {}),
        ([(0, 2), (2, 5)], {"separator_id": 8}),
        ([], {}),
    ],
)
def test_an_index_that_disagrees_with_its_shard_is_refused(tmp_path, spans, info):
    path = write_pair(tmp_path, [5, 9, 6, 7, 9], spans, **info)
    with pytest.raises(InputError, match=r"x\.index\.parquet"):
        ShardReader().open(path)


def test_what_is_no_index_is_refused(tmp_path):
    path = write_pair(tmp_path, [5, 9], [(0, 2)])
    index = tmp_path / "x.index.parquet"
    table = pq.read_table(index)
    for damage in (
        lambda: pq.write_table(table.replace_schema_metadata(None), index),
        lambda: pq.write_table(table.drop_columns("domain"), index),
        lambda: index.write_bytes(b"PAR1"),
        lambda: index.write_bytes(b""),
    ):
        damage()
        for read in (lambda: ShardReader().open(path), lambda: read_index(index)):
            with pytest.raises(InputError, match=r"x\.index\.parquet"):
                read()


def test_an_index_holds_ids_domains_and_urls(tmp_path):
    row = {"start": 0, "end": 2, "id": "größe", "domain": "web", "url": "https://example.org/?q=1"}
    write_index(tmp_path / "x.index.parquet", [row], ShardInfo("t", 400, "f", 9, "last", 2))
    table, info = read_index(tmp_path / "x.index.parquet")
    assert table.to_pylist() == [row]
    assert info == ShardInfo("t", 400, "f", 9, "last", 2)


def test_a_shard_of_another_tokenizer_is_refused(tmp_path, bpe, spm):
    own = {"fingerprint": bpe.fingerprint, "vocab_size": bpe.vocab_size}
    path = write_pair(tmp_path, [5, 9], [(0, 2)], **own)
    assert len(ShardReader(model_tokenizer=bpe).open(path).spans) == 1
    with pytest.raises(InputError, match=r"x\.bin"):
        ShardReader(model_tokenizer=spm).open(path)
    larger = write_pair(tmp_path, [5, 9], [(0, 2)], **{**own, "vocab_size": bpe.vocab_size + 1})
    with pytest.raises(InputError):
        ShardReader(model_tokenizer=bpe).open(larger)


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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 20), st.sampled_from([None, 0, 3]))
def test_every_token_is_a_target_once_and_windows_are_full(ids, seq_len, bos_id):
    cut = list(document_of(np.array(ids)).windows(seq_len, bos_id))
    targets = [token for window in cut for token in window[1:].tolist()]
    assert targets == (ids[1:] if bos_id in (None, ids[0]) else ids)
    assert all(len(window) == seq_len + 1 for window in cut[:-1])
    if bos_id is not None:
        assert all(window[0] == bos_id for window in cut)


@given(st.text(min_size=1).filter(lambda t: "\n" not in t), st.integers(0, 10**12), st.integers(1, 10**12))
def test_an_id_leads_back_to_its_shard_and_span(name, start, length):
    path, *span = parse_doc_id(f"{name}:{start}-{start + length}")
    assert str(path) == str(Path(name.removesuffix(".bin") + ".bin")) or name == ".bin"
    assert span == [start, start + length]


@given(st.text(alphabet="ab/.:-0123456789\n\t é", max_size=30))
def test_any_text_is_an_id_or_refused(text):
    try:
        path, start, end = parse_doc_id(text)
    except InputError:
        return
    assert path.suffix == ".bin"
    assert 0 <= start < end
    assert text.endswith(f"-{end}") or text.split("-")[-1].lstrip("0") == str(end)
