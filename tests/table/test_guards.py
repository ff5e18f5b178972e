"""What the score rewards wrongly: measures against plain loops, and what ranking leaves out for them."""

import zlib
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rank_scores
from common.errors import InputError
from common.table.guards import NUM_KEYS, longest_run, measure, repetition, stand_ins
from common.table.ranking import Limits, Ranking
from common.table.scores import EXACT, NEAR, SLICES_SCHEMA, TABLE_SCHEMA

tokens = st.lists(st.integers(0, 3), max_size=40)


@given(tokens, st.integers(1, 12))
def test_repetition_is_that_of_a_loop_over_ngrams(ids, n):
    seen, covered = set(), set()
    for start in range(len(ids) - n + 1):
        ngram = tuple(ids[start : start + n])
        if ngram in seen:
            covered |= set(range(start, start + n))
        seen.add(ngram)
    assert repetition(np.array(ids, np.int64), n) == pytest.approx(len(covered) / len(ids) if ids else 0)


@given(tokens)
def test_the_longest_run_is_that_of_a_loop_over_stretches(ids):
    longest = 0
    for start, end in combinations(range(len(ids) + 1), 2):
        for period in range(1, min(13, (end - start) // 3) + 1):
            if all(ids[i] == ids[i - period] for i in range(start + period, end)):
                longest = max(longest, end - start)
    assert longest_run(np.array(ids, np.int64)) == longest


def test_a_document_that_is_told_twice_repeats_half_of_itself():
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)
    assert repetition(ids) == 0
    assert repetition(np.concatenate([ids, ids])) == 0.5
    assert repetition(np.concatenate([ids, ids[:100]])) == pytest.approx(100 / 1100)


def test_the_compression_is_zlibs():
    text = "Größe 多. " * 50
    assert measure(np.arange(9), text).compression == round(len(zlib.compress(text.encode())) / len(text.encode()), 4)


def alike(documents, order=None):
    """The rows that stand for each document, as lists."""
    keys = b"".join(measure(np.array(ids), "").keys for ids in documents)
    columns = np.frombuffer(keys, np.uint64).reshape(-1, NUM_KEYS).T
    return tuple(of.tolist() for of in stand_ins(columns, np.arange(len(documents)) if order is None else order))


def similarity(one, other) -> float:
    """Of the sets of 5-grams, by Jaccard."""
    sets = [{tuple(ids[i : i + 5]) for i in range(len(ids) - 4)} for ids in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_duplicates_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    found = {True: [], False: []}
    for _ in range(100):
        one = rng.integers(0, 50_000, 600)
        for changes in (6, 90):
            other = one.copy()
            other[rng.choice(600, changes, replace=False)] = 7
            is_near = similarity(one.tolist(), other.tolist()) > 0.85
            equal, near = alike([one, rng.integers(0, 50_000, 600), other])
            assert equal == [0, 1, 2]
            assert near[1] == 1
            found[is_near].append(near[2] == 0)
    assert len(found[True]) == len(found[False]) == 100
    assert np.mean(found[True]) > 0.97
    assert np.mean(found[False]) < 0.03


def test_one_stands_for_all_that_are_linked():
    keys = np.arange(7 * NUM_KEYS, dtype=np.uint64).reshape(7, NUM_KEYS)
    keys[5, 0] = keys[3, 0]  # equal
    keys[5, 1:] = keys[3, 1:]
    keys[4, 2] = keys[1, 2]  # 1 and 4 share a band, 4 and 6 another
    keys[6, 9] = keys[4, 9]
    equal, near = stand_ins(keys.T, np.arange(7))
    assert equal.tolist() == [0, 1, 2, 3, 4, 3, 6]
    assert near.tolist() == [0, 1, 2, 3, 1, 3, 1]
    equal, near = stand_ins(keys.T, np.array([6, 5, 4, 3, 2, 1, 0]))
    assert equal.tolist() == [0, 1, 2, 5, 4, 5, 6]
    assert near.tolist() == [0, 6, 2, 5, 6, 5, 6]


def test_documents_of_a_few_tokens_are_alike_only_when_they_are_equal():
    equal, near = alike([[1, 2], [1, 3], [1, 2], [1], [2], [1, 2, 3, 4, 5], [1]])
    assert equal == near == [0, 1, 0, 3, 4, 5, 3]


def test_a_long_document_is_measured_in_parts_to_the_same_keys(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 50_000, 5000)
    whole = measure(ids, "").keys
    monkeypatch.setattr("common.table.guards.SHINGLES_AT_ONCE", 700)
    assert measure(ids, "").keys == whole


def test_the_measures_stay_the_same_from_run_to_run():
    """They are kept in parts, by which a run goes on in another process."""
    found = measure(np.arange(50) % 30, "text")
    assert found[:3] == (0.4, 0, 3.0)
    assert found.keys[:24].hex() == KNOWN_KEYS


KNOWN_KEYS = "44c6c53d5cc42f74ec0e9796f56cf07048096de310f2d13e"


def table(rows) -> pa.Table:
    """Rows of (domain, AI_Score, repetition, number of the row that it equals, or nearly)."""
    ids = [f"x:{10 * i}-{10 * i + 10}" for i in range(len(rows))]
    whole = [
        (ids[i], domain, 10, 1.0, 1.0, score, repetition, 0, 0.5, *("" if of is None else ids[of] for of in alike))
        for i, (domain, score, repetition, *alike) in enumerate(rows)
    ]
    return pa.table([list(column) for column in zip(*whole, strict=True)], schema=TABLE_SCHEMA)


ROWS = [
    ("a", 0.9, 0.5, None, None),
    ("a", 0.8, 0.0, None, None),
    ("a", 0.8, 0.0, 1, 1),
    ("a", 0.7, 0.3, None, 1),
    ("a", 0.6, 0.0, None, None),
    ("b", 0.5, 0.31, 1, 1),
    ("b", 0.4, 0.2, None, None),
]


def ranked(tmp_path, **limits):
    """The rows that are selected when all that are ranked are, and what was left out."""
    pq.write_table(table(ROWS), tmp_path / "s.parquet")
    found = Ranking(tmp_path / "s.parquet", 100, "documents", False, tmp_path, Limits(**limits))
    ids = [doc_id for part in found.selected() for doc_id in part["doc_id"].to_pylist()]
    return [int(doc_id[2:].partition("-")[0]) // 10 for doc_id in ids], {
        name: dict(domain.dropped) for name, domain in found.domains.items()
    }


def test_each_limit_leaves_out_what_it_says_and_counts_it_by_domain(tmp_path):
    assert ranked(tmp_path) == ([0, 1, 2, 3, 4, 5, 6], {"a": {}, "b": {}})
    rows, dropped = ranked(tmp_path, max_repetition=0.3)
    assert (rows, dropped["a"], dropped["b"]) == ([1, 2, 3, 4, 6], {"repetitive": 1}, {"repetitive": 1})
    rows, dropped = ranked(tmp_path, dedup="exact")
    assert (rows, dropped["a"], dropped["b"]) == ([0, 1, 3, 4, 6], {"duplicates": 1}, {"duplicates": 1})
    rows, dropped = ranked(tmp_path, max_repetition=0.3, dedup="near")
    assert (rows, dropped["a"], dropped["b"]) == (
        [1, 4, 6],
        {"repetitive": 1, "duplicates": 2},
        {"repetitive": 1},
    )


def test_the_percentage_is_of_what_is_left(tmp_path):
    pq.write_table(table(ROWS), tmp_path / "s.parquet")
    found = Ranking(tmp_path / "s.parquet", 50, "documents", False, tmp_path, Limits(0.3, "near"))
    assert [part["AI_Score"].to_pylist() for part in found.selected()] == [[0.8, 0.4]]
    assert [domain.limit for domain in found.domains.values()] == [1, 1]


def test_a_domain_of_which_nothing_is_left_has_a_line_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table([*ROWS, ("c", 0.5, 0.9, None, None)]), "s.parquet")
    rank_scores.main(["--scores", "s.parquet", "--out", "top.tsv"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["domain", "repetitive", "duplicates", "ranked"]
    assert ["a", "1", "2", "2"] in [line[:4] for line in lines]
    assert ["c", "1", "0", "0"] in [line[:4] for line in lines]
    assert pq.read_table("top.parquet").schema.equals(SLICES_SCHEMA)
    assert (tmp_path / "top.png").read_bytes()[:4] == (tmp_path / "top.repetition.png").read_bytes()[:4] == b"\x89PNG"


def test_limits_that_leave_nothing_are_refused(tmp_path):
    pq.write_table(table(ROWS[:1]), tmp_path / "s.parquet")
    with pytest.raises(InputError, match="nothing is left"):
        list(Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path, Limits(0.3)).selected())


@pytest.mark.parametrize(("column", "flags"), [("repetition", "--max_repetition 1"), (NEAR, "--dedup none")])
def test_a_table_that_does_not_say_is_refused_with_what_to_do(tmp_path, column, flags):
    pq.write_table(table(ROWS).drop_columns([column]), tmp_path / "s.parquet")
    with pytest.raises(InputError, match=f"rows without {column} in it.*{flags}"):
        list(Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path, Limits(0.3, "near")).selected())


def test_an_old_table_is_ranked_without_limits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(ROWS).select(TABLE_SCHEMA.names[:6]), "s.parquet")
    rank_scores.main(["--scores", "s.parquet", "--out", "top.tsv", *"--max_repetition 1 --dedup none".split()])
    assert pd.read_parquet("top.parquet")["AI_Score"].tolist() == [0.9, 0.5]
    assert pq.read_table("top.parquet")[EXACT].null_count == 2


def test_a_domains_sample_does_not_depend_on_the_batches(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [("a", score, score / 2, None, None) for score in rng.random(50)]
    pq.write_table(table(rows), tmp_path / "s.parquet")
    monkeypatch.setattr("common.table.ranking.SAMPLE", 25)
    samples = []
    for size in (7, 100):
        monkeypatch.setattr("common.table.scores.BATCH_ROWS", size)
        found = Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path, Limits(0.3))
        list(found.selected())
        samples.append(found.domains["a"].sample)
    pd.testing.assert_frame_equal(*samples)
    assert 10 < len(samples[0]) < 40
    assert (samples[0]["kept"] == (samples[0]["repetition"] <= 0.3)).all()
