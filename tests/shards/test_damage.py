"""Damaged shards and indexes end in a clean error or the right answer."""

import random
import resource
import time

import numpy as np
import pytest

from common.errors import InputError
from common.shards.format import read_shard
from common.shards.reader import ShardReader
from tests.conftest import write_shards

CORRUPTIONS = 10_000


def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The bytes after one of the accidents that happen to files."""
    data, place = bytearray(data), rng.randrange(len(data))
    length = min(rng.choice([1, 2, 4, 16, 300]), len(data) - place)
    match rng.randrange(9):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place : place + length] = rng.randbytes(length)
        case 2:
            data[place : place + length] = bytes(length)
        case 3:
            del data[place:]
        case 4:
            del data[place : place + length]
        case 5:
            data[place:place] = rng.randbytes(length)
        case 6:
            data += rng.randbytes(length)
        case 7:
            field = rng.choice([-1, 0, 1, -(2**31), 2**31 - 1, 20240801, rng.randrange(2**31)])
            data[4 * (i := rng.randrange(20)) : 4 * i + 4] = field.to_bytes(4, "little", signed=True)
        case 8:
            data = bytearray(other)
    return bytes(data)


@pytest.mark.parametrize("vocab_size", [400, 70_000])
def test_ten_thousand_damaged_shards_end_in_a_clean_error_or_the_right_answer(tmp_path, vocab_size):
    rng = random.Random(vocab_size)
    documents = [[rng.randrange(400) for _ in range(rng.randrange(40))] for _ in range(60)]
    domains = [rng.choice(["plays", "maths", "code"]) for _ in documents]
    first, second = write_shards(tmp_path, documents, domains, shard_size=700, vocab_size=vocab_size)[:2]
    files = [first, first.with_suffix(".index.parquet")]
    others = [second, second.with_suffix(".index.parquet")]
    whole, foreign = [[path.read_bytes() for path in paths] for paths in (files, others)]
    right = ShardReader().open(first)
    memory, slowest, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, 0
    for _ in range(CORRUPTIONS // 2):
        which = rng.choice([[0], [1], [0, 1]])
        for i in which:
            files[i].write_bytes(damage(rng, whole[i], foreign[i]))
        begin = time.monotonic()
        try:
            shard = ShardReader().open(first).verified()
        except InputError as error:
            refused += 1
            assert first.stem in str(error)
            assert "\n" not in str(error)
        else:
            same = which == [0, 1] and np.array_equal(shard.tokens, ShardReader().open(second).tokens)
            wanted = ShardReader().open(second) if same else right
            assert np.array_equal(shard.tokens, wanted.tokens)
            assert np.array_equal(shard.spans, wanted.spans)
            assert list(shard.domains) == list(wanted.domains)
            assert shard.info == wanted.info
        slowest = max(slowest, time.monotonic() - begin)
        for path, data in zip(files, whole, strict=True):
            path.write_bytes(data)
    assert refused > 0.8 * CORRUPTIONS // 2
    assert slowest < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB


def test_a_damaged_index_that_bears_the_right_checksum_does_no_harm(tmp_path, monkeypatch):
    """As if a stranger had made it: anything but a wrong place, a crash or a flood of memory."""
    rng = random.Random(0)
    documents = [[rng.randrange(400) for _ in range(rng.randrange(40))] for _ in range(60)]
    first, second = write_shards(tmp_path, documents, ["a"] * 60, shard_size=700)[:2]
    paths = [path.with_suffix(".index.parquet") for path in (first, second)]
    whole, other = (path.read_bytes() for path in paths)
    digest, right = read_shard(first)[1].index, ShardReader().open(first)
    monkeypatch.setattr("common.shards.reader.file_digest", lambda path: digest)
    memory, opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(CORRUPTIONS // 5):
        paths[0].write_bytes(damage(rng, whole, other))
        try:
            shard = ShardReader().open(first)
        except InputError:
            continue
        opened += 1
        assert np.array_equal(shard.spans, right.spans)
    assert opened
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB
