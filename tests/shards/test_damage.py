"""What holds for every shard, document, id and table, on cases that hypothesis thinks up; and random damage."""

import random
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.documents import open_shard, parse_doc_id, separated_spans, windows
from common.shards.format import read_shard
from common.shards.writer import DatasetWriter
from common.table.scores import with_slices
from common.text.corpus import SourceDocument

SEPARATOR = 9
CORRUPTIONS = 10_000
settings.register_profile("here", deadline=None, max_examples=200)
settings.load_profile("here")


class Tokenizer:
    """What a dataset's writer asks of a tokenizer."""

    name, fingerprint, separator_id = "t", "f", SEPARATOR

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size


def write(folder, documents, domains, shard_size=10**6, vocab_size=400):
    writer = DatasetWriter(folder, Tokenizer(vocab_size), shard_size, 0)
    for number, (ids, domain) in enumerate(zip(documents, domains, strict=True)):
        writer.add(SourceDocument("", f"id{number}", domain), ids)
    writer.close()
    return sorted(folder.glob("*.bin"))


tokens = st.lists(st.integers(0, 399), max_size=12)


@given(st.lists(tokens, min_size=1, max_size=12), st.integers(1, 30), st.sampled_from([400, 70_000]))
def test_documents_come_back_from_shards_as_they_went_in(tmp_path_factory, documents, shard_size, vocab_size):
    domains = [f"domain {len(ids) % 3}" for ids in documents]
    paths = write(tmp_path_factory.mktemp("shards"), documents, domains, shard_size, vocab_size)
    found = []
    for path in paths:
        shard = open_shard(path).verified()
        assert len(shard.tokens) <= shard_size or len(shard.spans) == 1
        for (start, end), domain in zip(shard.spans, shard.domains, strict=True):
            found.append((shard.tokens[start:end].tolist(), domain))
    assert found == [([*ids, SEPARATOR], domain) for ids, domain in zip(documents, domains, strict=True)]


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
    cut = list(windows(np.array(ids), seq_len, bos_id))
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


@given(st.lists(st.tuples(st.text("ab/_ é.", min_size=1), st.integers(0, 10**9)), min_size=1, max_size=9))
def test_slices_of_a_selection_are_those_of_its_ids(places):
    ids = [f"{name}:{start}-{start + 5}" for name, start in places]
    for row in with_slices(pa.table({"doc_id": ids})).to_pylist():
        assert (Path(row["shard"]), row["start"], row["end"]) == parse_doc_id(row["doc_id"])


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
    first, second = write(tmp_path, documents, domains, shard_size=700, vocab_size=vocab_size)[:2]
    files = [first, first.with_suffix(".index.parquet")]
    others = [second, second.with_suffix(".index.parquet")]
    whole, foreign = [[path.read_bytes() for path in paths] for paths in (files, others)]
    right = open_shard(first)
    memory, slowest, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, 0
    for _ in range(CORRUPTIONS // 2):
        which = rng.choice([[0], [1], [0, 1]])
        for i in which:
            files[i].write_bytes(damage(rng, whole[i], foreign[i]))
        begin = time.monotonic()
        try:
            shard = open_shard(first).verified()
        except InputError as error:
            refused += 1
            assert first.stem in str(error)
            assert "\n" not in str(error)
        else:
            same = which == [0, 1] and np.array_equal(shard.tokens, open_shard(second).tokens)
            wanted = open_shard(second) if same else right
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
    first, second = write(tmp_path, documents, ["a"] * 60, shard_size=700)[:2]
    paths = [path.with_suffix(".index.parquet") for path in (first, second)]
    whole, other = (path.read_bytes() for path in paths)
    digest, right = read_shard(first)[1].index, open_shard(first)
    monkeypatch.setattr("common.shards.documents.file_digest", lambda path: digest)
    memory, opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(CORRUPTIONS // 5):
        paths[0].write_bytes(damage(rng, whole, other))
        try:
            shard = open_shard(first)
        except InputError:
            continue
        opened += 1
        assert np.array_equal(shard.spans, right.spans)
    assert opened
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB
