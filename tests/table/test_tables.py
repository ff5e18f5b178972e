"""Score tables: read, refused, and with the place of each document."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.doc_id import parse_doc_id
from common.table.tables import read_scores, with_slices
from tests.table.conftest import table


def test_slices_hold_the_shard_and_span_of_a_document():
    row = with_slices(table([("a", 7, 0.1), ("a", 5, 0.1)])).to_pylist()[1]
    assert (row["shard"], row["start"], row["end"]) == ("data/x_000001.bin", 7, 12)


@given(st.lists(st.tuples(st.text("ab/_ é.", min_size=1), st.integers(0, 10**9)), min_size=1, max_size=9))
def test_slices_of_a_selection_are_those_of_its_ids(places):
    ids = [f"{name}:{start}-{start + 5}" for name, start in places]
    for row in with_slices(pa.table({"doc_id": ids})).to_pylist():
        assert (Path(row["shard"]), row["start"], row["end"]) == parse_doc_id(row["doc_id"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", None, "no such file"),
        ("x.tsv", "", "x.tsv"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tAI_Score\n", "no rows"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tscore\na:0-1\tb\t1\t1\t1\t1\n", "no column 'AI_Score'"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tAI_Score\na:0-1\tb\t1\t1\t1\t1\na:1-2\tb\t1\n", "#3"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tAI_Score\na:0-1\tb\tmany\t1\t1\t1\n", "'many'"),
        ("x.parquet", "no parquet", "x.parquet"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / name)
