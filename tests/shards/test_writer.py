"""Documents come back from shards as they went in."""

from hypothesis import given
from hypothesis import strategies as st

from common.shards.reader import ShardReader
from tests.conftest import SEPARATOR, write_shards

tokens = st.lists(st.integers(0, 399), max_size=12)


@given(st.lists(tokens, min_size=1, max_size=12), st.integers(1, 30), st.sampled_from([400, 70_000]))
def test_documents_come_back_from_shards_as_they_went_in(tmp_path_factory, documents, shard_size, vocab_size):
    domains = [f"domain {len(ids) % 3}" for ids in documents]
    paths = write_shards(tmp_path_factory.mktemp("shards"), documents, domains, shard_size, vocab_size)
    found = []
    for path in paths:
        shard = ShardReader().open(path).verified()
        assert len(shard.tokens) <= shard_size or len(shard.spans) == 1
        for (start, end), domain in zip(shard.spans, shard.domains, strict=True):
            found.append((shard.tokens[start:end].tolist(), domain))
    assert found == [([*ids, SEPARATOR], domain) for ids, domain in zip(documents, domains, strict=True)]
