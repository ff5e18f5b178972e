"""Training sequences: every token of a source once an epoch, sources by share, ranks and workers without overlap."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.reader import ShardReader
from common.training.mixture import BLOCK, DocumentStream, Mixture
from tests.conftest import write_shards


def source(lengths, first_token=0, shard_length=7):
    """Documents whose tokens are all different, in shards of a few documents each."""
    tokens = np.arange(first_token, first_token + sum(lengths), dtype=np.uint16)
    ends = np.cumsum(lengths)
    shard_of = np.arange(len(lengths), dtype=np.int32) // shard_length
    edges = [0, *(ends[np.flatnonzero(np.diff(shard_of))].tolist()), len(tokens)]
    shards = [tokens[start:end] for start, end in pairwise(edges)]
    spans = np.stack([ends - lengths, ends], axis=1) - np.array(edges)[shard_of][:, None]
    return DocumentStream(shards, shard_of, spans)


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=30)


@given(lengths, st.integers(0, 3), st.integers(0, 400), st.integers(1, 40))
def test_a_source_reads_its_shuffled_documents_one_after_another_without_end(counts, seed, first, count):
    edges = [0, *np.cumsum(counts).tolist()]
    stream = []
    for epoch in range(first // edges[-1] + count // edges[-1] + 2):
        for row in np.random.default_rng([seed, epoch]).permutation(len(counts)):
            stream += range(edges[row], edges[row + 1])
    assert source(counts).read(first, count, seed).tolist() == stream[first : first + count]


def test_every_token_comes_once_an_epoch_and_epochs_and_seeds_differ():
    one = source([5, 3, 8, 2] * 10)
    epochs = [[one.read(180 * epoch + 6 * n, 6, 0).tolist() for n in range(30)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(token for sequence in epoch for token in sequence) == list(range(180))
    assert epochs[0] != epochs[1]
    assert one.read(0, 180, 1).tolist() != one.read(0, 180, 0).tolist()


@given(st.lists(st.sampled_from([0.7, 0.3, 0.25, 1, 3, 0.1]), min_size=1, max_size=4), st.integers(0, 3))
def test_sources_come_by_share_in_every_block_and_none_skips_a_sequence(shares, seed):
    sources = {str(n): source([4] * 10, 1000 * n) for n in range(len(shares))}
    named = dict(zip(sources, shares, strict=True))
    mixture = Mixture(sources, named, 8, seed, num_sequences=3 * BLOCK)
    places = [mixture.place(number) for number in range(2 * BLOCK)]
    for block in (places[:BLOCK], places[BLOCK:]):
        count = Counter(name for name, _ in block)
        assert all(abs(count[name] - BLOCK * share / sum(shares)) < 2 for name, share in named.items())
    for name in sources:
        indices = [index for found, index in places if found == name]
        assert indices == list(range(len(indices)))
    assert [mixture.place(number) for number in (5, BLOCK + 3, 5)] == [places[5], places[BLOCK + 3], places[5]]


@pytest.mark.parametrize("count", [1, 48, 1023, BLOCK + 48])
def test_a_run_of_any_length_reads_what_is_printed_and_no_share_is_off_by_more_than_a_sequence(count):
    for seed in range(5):
        short = mixture(num_sequences=count, seed=seed)
        found = Counter(short.place(number)[0] for number in range(count))
        assert short.drawn() == {name: 16 * found[name] for name in ("selected", "baseline")}
        assert abs(found["selected"] - 0.7 * count) < 1
        printed = dict(line.split(": ") for line in short.sources())
        assert all(
            f"; {found[name] / count:.0%} of the training, {16 * found[name]:,} " in printed[name] for name in printed
        )


def mixture(**settings):
    sources = {"selected": source([5, 9, 14] * 20), "baseline": source([30, 2] * 40, 10_000)}
    return Mixture(sources, {"selected": 0.7, "baseline": 0.3}, 16, **settings)


def test_ranks_and_loader_workers_see_everything_once_and_a_later_start_goes_on():
    whole = mixture(num_sequences=100)
    plain = [whole[n]["input_ids"].tolist() for n in range(100)]
    seen = []
    for rank in range(2):
        sampler = range(rank, len(whole), 2)
        loader = torch.utils.data.DataLoader(mixture(num_sequences=100), 4, sampler=sampler, num_workers=2)
        seen.append([row for batch in loader for row in batch["input_ids"].tolist()])
    assert seen == [plain[0::2], plain[1::2]]
    resumed = torch.utils.data.DataLoader(mixture(num_sequences=100), 4, sampler=range(37, 100))
    assert [row for batch in resumed for row in batch["input_ids"].tolist()] == plain[37:]
    assert whole[3]["labels"].tolist() == plain[3]


def test_it_ends_before_a_source_begins_again_and_no_later_index_is_valid():
    whole = mixture()
    assert len(whole) == int(560 / (0.7 * 16))
    assert whole[len(whole) - 1]["input_ids"].shape == (16,)
    with pytest.raises(IndexError):
        whole[len(whole)]


def test_a_selection_and_shards_are_read_where_they_lie(tmp_path):
    documents = [[n + 1] * (n % 5 + 1) for n in range(40)]
    paths = write_shards(tmp_path, documents, ["a"] * 40, shard_size=30)
    everything = DocumentStream.of_shards([str(tmp_path / "*.bin")])
    stored = sorted(token for path in paths for token in ShardReader().open(path).tokens.tolist())
    assert sorted(everything.read(0, everything.num_tokens, 0).tolist()) == stored
    rows = [(str(path), *map(int, ShardReader().open(path).spans[1])) for path in paths[:2]]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], names=["shard", "start", "end"])
    pq.write_table(table, tmp_path / "top.parquet")
    selected = DocumentStream.of_selection(tmp_path / "top.parquet")
    wanted = sorted(token for name, start, end in rows for token in ShardReader().open(name).tokens[start:end].tolist())
    assert sorted(selected.read(0, selected.num_tokens, 0).tolist()) == wanted


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("{0}", 0, 10**6)], "row 1, tokens 0 to 1000000 are no document of"),
        ([("{0}", 0, 4), ("{0}", 3, 3)], "row 2, tokens 3 to 3"),
        ([("{0}", 1, 3)], "row 1, tokens 1 to 3"),
        ([("{0}", -1, 2)], "row 1, tokens -1 to 2"),
        ([("none.bin", 0, 2)], "none.bin"),
        ([], "no tokens in it"),
    ],
)
def test_a_selection_that_does_not_fit_its_shards_is_refused(tmp_path, rows, says):
    [shard] = write_shards(tmp_path, [[1, 2, 3]], ["a"])
    filled = [(name.format(shard), start, end) for name, start, end in rows]
    columns = [list(column) for column in zip(*filled, strict=True)] or [[], [], []]
    schema = pa.schema([("shard", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "top.parquet")
    with pytest.raises(InputError, match=says):
        DocumentStream.of_selection(tmp_path / "top.parquet")


def test_a_wrong_mix_or_table_is_refused(tmp_path):
    one = source([4] * 10)
    for shares in ({"b": 1}, {"a": 1, "b": 1}, {"a": 0}, {"a": -1}):
        with pytest.raises(InputError, match="the mix"):
            Mixture({"a": one}, shares, 8)
    with pytest.raises(InputError, match="the mix"):
        Mixture({"a": one, "b": one}, {"a": 1, "b": 1e-6}, 8)
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"x.parquet: not a selection"):
        DocumentStream.of_selection(tmp_path / "x.parquet")
