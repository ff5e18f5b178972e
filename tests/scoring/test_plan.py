"""The plan of a run, against plain loops over documents."""

import numpy as np
import pytest

from common.errors import InputError
from common.scoring.pair import PairDescription
from common.scoring.plan import documents_missing, make_plan, ranges_of_hashes, stretches, tokens_missing, units
from common.shards.documents import ALL_HASHES, token_hash
from common.shards.reader import ShardReader
from common.table.parts import Parts
from common.text.tokenization import Vocabulary
from tests.conftest import SEPARATOR, write_shards

LENGTHS = [5, 3, 9, 1, 4, 4, 7, 2, 12, 3, 6, 4]  # with their separators
READER = ShardReader()
MODELS = PairDescription({}, Vocabulary(400, "base"), "", "cpu", "float32", compiled=False)


@pytest.fixture
def paths(tmp_path):
    """Three shards or more."""
    documents = [[20 + row] * (length - 1) for row, length in enumerate(LENGTHS)]
    found = write_shards(tmp_path, documents, ["a"] * len(LENGTHS), shard_size=20)
    assert len(found) >= 3
    return found


@pytest.fixture
def parts(tmp_path):
    """Parts of a run that has scored nothing."""
    with Parts(tmp_path / "parts") as parts:
        yield parts


def lengths_of(paths) -> list[list[int]]:
    """The lengths of the documents of each shard, from its separators."""
    found = []
    for path in paths:
        tokens = np.fromfile(path, "<u2", offset=1024).tolist()
        ends = [place + 1 for place, token in enumerate(tokens) if token == SEPARATOR]
        assert ends[-1] == len(tokens)
        found.append([end - start for start, end in zip([0, *ends], ends, strict=False)])
    return found


def chosen_plainly(lengths: list[list[int]], max_tokens: int | None) -> list[tuple[int, int]]:
    """(documents, tokens) of each shard: documents are taken until the tokens reach `max_tokens`."""
    taken, found = 0, []
    for shard in lengths:
        documents = tokens = 0
        for length in shard:
            if max_tokens is not None and taken >= max_tokens:
                break
            taken, documents, tokens = taken + length, documents + 1, tokens + length
        found.append((documents, tokens))
    return found


def test_the_fixture_is_cut_as_the_list_says(paths):
    assert [length for shard in lengths_of(paths) for length in shard] == LENGTHS


@pytest.mark.parametrize("max_tokens", [None, *range(1, sum(LENGTHS) + 2)])
def test_documents_are_chosen_up_to_the_one_that_reaches_max_tokens(paths, max_tokens):
    plan, lengths = make_plan(paths, READER, max_tokens), lengths_of(paths)
    assert [(item.num_documents, item.num_tokens) for item in plan] == chosen_plainly(lengths, max_tokens)
    assert [item.tokens_in_shard for item in plan] == list(map(sum, lengths))
    assert [item.path for item in plan] == paths
    assert [item.name + ".bin" for item in plan] == list(map(str, paths))


def test_an_empty_shard_has_a_place_in_the_plan(tmp_path, paths):
    # as another program may write it
    header = np.zeros(256, "<i4")
    header[:2] = 20240520, 1
    (tmp_path / "empty.bin").write_bytes(header.tobytes())
    reader = ShardReader(eot_id=SEPARATOR)
    for max_tokens in (None, 1, 10**6):
        first, second = make_plan([tmp_path / "empty.bin", paths[0]], reader, max_tokens)
        assert (first.num_documents, first.num_tokens, first.tokens_in_shard) == (0, 0, 0)
        assert second == make_plan([paths[0]], reader, max_tokens)[0]


def test_a_plan_knows_the_contents_of_its_shards(tmp_path, paths):
    [before] = make_plan(paths[:1], READER, None)
    documents = [[30] * (LENGTHS[0] - 1)]
    [other] = write_shards(tmp_path / "other", documents, ["a"])
    assert before.digest == make_plan(paths[:1], READER, 5)[0].digest
    assert len({before.digest, *(item.digest for item in make_plan([*paths[1:], other], READER, None))}) == 1 + len(
        paths
    )


SCORED = [[], [(0, 1)], [(1, 2)], [(0, 2), (3, 4)], [(1, 3)], [(0, 1), (2, 3)], [(0, 99)]]


@pytest.mark.parametrize("max_tokens", [None, 1, 8, 18, 30])
@pytest.mark.parametrize("scored", SCORED)
def test_the_tokens_that_are_missing_are_those_of_documents_in_no_part(paths, parts, scored, max_tokens):
    for item, lengths in zip(make_plan(paths, READER, max_tokens), lengths_of(paths), strict=True):
        stretches = [(first, min(last, len(lengths))) for first, last in scored if first < len(lengths)]
        for first, last in stretches:
            parts.add(item.name, first, last, [])
        parts.flush()
        missing = 0
        for row, length in enumerate(lengths[: item.num_documents]):
            if not any(first <= row < last for first, last in stretches):
                missing += length
        assert tokens_missing(item, parts, READER) == missing


@pytest.mark.parametrize("max_tokens", [None, 8, 30])
@pytest.mark.parametrize("scored", SCORED)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_units_hold_the_documents_that_are_missing(paths, parts, monkeypatch, scored, max_tokens, size):
    monkeypatch.setattr("common.scoring.plan.tokens_per_unit", lambda *_: size)
    plan = make_plan(paths, READER, max_tokens)
    expected = []
    for item, lengths in zip(plan, lengths_of(paths), strict=True):
        for first, last in scored:
            if first < len(lengths):
                parts.add(item.name, first, min(last, len(lengths)), [])
        parts.flush()
        start = 0
        for row, length in enumerate(lengths):
            if row < item.num_documents and not any(first <= row < last for first, last in scored):
                expected.append(f"{item.name}:{start}-{start + length}")
            start += length
    found = [document.doc_id for unit in units(plan, parts, READER, False, MODELS) for document in unit.documents]
    assert found == expected


RANGES = [[range(0, 2**31)], [range(0, 2**30), range(2**30, 2**31)], [range(0, 2**31), range(2**31, 2**32)]]


@pytest.mark.parametrize("max_tokens", [None, *range(1, sum(LENGTHS) + 2, 3)])
@pytest.mark.parametrize("ranges", RANGES)
def test_documents_of_some_hashes_are_chosen_up_to_max_tokens(paths, parts, monkeypatch, ranges, max_tokens):
    monkeypatch.setattr("common.scoring.plan.tokens_per_unit", lambda *_: 7)
    plan = make_plan(paths, READER, max_tokens, ranges)
    expected, left = [], max_tokens or 10**9
    for path in paths:
        shard = READER.open(path)
        for document in map(shard.document, range(len(shard.spans))):
            number = token_hash(document.token_ids, SEPARATOR)
            if number < ranges[-1].stop and left > 0:
                expected.append((path, [number in each for each in ranges].index(True), document))
                left -= len(document)
    found = {document.doc_id for unit in units(plan, parts, READER, False, MODELS) for document in unit.documents}
    assert found == {document.doc_id for *_, document in expected}
    assert documents_missing(plan, parts) == len(expected)
    wanted = [(path, number) for path in paths for number in range(len(ranges))]
    for item, (path, number) in zip(plan, wanted, strict=True):
        own = [document for *place, document in expected if place == [path, number]]
        assert (item.path, item.hashes, item.num_documents) == (path, ranges[number], len(own))
        assert item.num_tokens == sum(map(len, own)) == tokens_missing(item, parts, READER)


def test_the_ranges_are_those_of_the_parts_and_what_a_share_adds(tmp_path, parts):
    quarter, half = 2**30, 2**31
    assert ranges_of_hashes(None, parts) == ranges_of_hashes(1.0, parts) == [ALL_HASHES]
    assert ranges_of_hashes(0.25, parts) == [range(quarter)]
    parts.add("x", 0, 1, [], range(quarter))
    parts.flush()
    assert ranges_of_hashes(0.25, parts) == [range(quarter)]
    assert ranges_of_hashes(0.5, parts) == [range(quarter), range(quarter, half)]
    parts.add("x", 0, 1, [], range(quarter, half))
    parts.flush()
    assert ranges_of_hashes(None, parts) == [range(quarter), range(quarter, half), range(half, 2**32)]
    assert ranges_of_hashes(0.25, parts) == [range(quarter)]
    with pytest.raises(InputError, match=r"^--sample 0\.3: .*parts holds a larger share, 0\.5,"):
        ranges_of_hashes(0.3, parts)


def test_parts_of_several_ranges_of_a_shard_are_read_together(paths, parts):
    ranges = [range(2**31), range(2**31, 2**32)]
    plan = make_plan(paths, READER, 18, ranges)
    for item in plan:
        parts.add(item.name, 0, len(item.rows), [], item.hashes)
    parts.flush()
    found = stretches(plan, parts)
    assert [len(each.paths) for each in found] == [2] * len(found)
    assert [each.end for each in found] == [item.end for item in plan[::2] if item.num_tokens or item.end != 0]
    assert len({path for each in found for path in each.paths}) == 2 * len(found)


def test_a_unit_is_as_large_as_all_tokens_of_the_shards_ask_for(paths, parts, monkeypatch):
    asked = []
    monkeypatch.setattr("common.scoring.plan.tokens_per_unit", lambda *facts: asked.append(facts) or 10)
    list(units(make_plan(paths, READER, 8), parts, READER, True, MODELS))
    assert asked == [(sum(LENGTHS), "cpu")]


def test_a_shard_is_checked_before_its_first_unit(paths, parts):
    plan = make_plan(paths, READER, None)
    small = MODELS._replace(vocabulary=Vocabulary(20, "small"))  # the first token is 20
    with pytest.raises(InputError, match=rf"^{paths[0]}: offset 0: token id 20 .* small, 20 tokens"):
        next(units(plan, parts, READER, False, small))
    assert next(units(plan, parts, READER, True, small)).first == 0
    data = bytearray(paths[1].read_bytes())
    data[1024] ^= 1
    paths[1].write_bytes(data)
    found = []
    with pytest.raises(InputError, match=rf"^{paths[1]}: its tokens are not those that were written"):
        found.extend(units(plan, parts, READER, False, MODELS))
    assert len(list(units(plan, parts, READER, True, MODELS))) == len(paths)
