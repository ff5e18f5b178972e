"""The index of a shard: written, read, and refused if it is not the shard's."""

import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.shards.index import ShardInfo, read_index, write_index
from common.shards.reader import ShardReader
from tests.shards.conftest import write_pair


def test_an_index_holds_ids_domains_and_urls(tmp_path):
    row = {
        "start": 0,
        "end": 2,
        "id": "größe",
        "domain": "web",
        "url": "https://example.org/?q=1",
        "text_hash": 2**64 - 1,
        "file": "a b.parquet",
        "row": 2**40,
    }
    write_index(tmp_path / "x.index.parquet", [row], ShardInfo("t", 400, "f", 9, "last", 2))
    table, info = read_index(tmp_path / "x.index.parquet")
    assert table.to_pylist() == [row]
    assert info == ShardInfo("t", 400, "f", 9, "last", 2)


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
