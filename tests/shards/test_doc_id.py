"""The doc_id: made, parsed, and refused if it is something else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.doc_id import parse_doc_id
from common.shards.reader import ShardReader
from tests.shards.conftest import write_shard


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
