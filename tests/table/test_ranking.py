"""Selecting within domains: against a plain loop, in any number of batches and buckets."""

import math
import os
import signal
import threading
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.table import ranking, tables
from common.table.domains import domain_sizes, ends
from common.table.ranking import Ranking
from common.table.schema import SCHEMA


def write(path, rows):
    """Rows of (domain, num_tokens, AI_Score); the doc_id shows the row."""
    whole = [(f"x:{i}-{i + n}", domain, n, 1.0, 1.0, score) for i, (domain, n, score) in enumerate(rows)]
    pq.write_table(pa.table([list(column) for column in zip(*whole, strict=True)], schema=SCHEMA), path)
    return path


def row_of(doc_id: str) -> int:
    return int(doc_id[2:].partition("-")[0])


def selected(tmp_path, rows, percent, by="documents", lowest=False):
    """Rows that are selected, by domain, in order."""
    tmp_path.mkdir(exist_ok=True)
    found = Ranking(write(tmp_path / "s.parquet", rows), percent, by, lowest, tmp_path)
    out = {}
    for table in found.selected():
        for row in table.to_pylist():
            out.setdefault(row["domain"], []).append(row_of(row["doc_id"]))
    assert list(out) == sorted(out)
    assert {name: len(chosen) for name, chosen in out.items()} == {
        name: domain.selected_documents for name, domain in found.domains.items()
    }
    return out


def scores_of(tmp_path, rows, *how):
    return {name: [rows[i][2] for i in chosen] for name, chosen in selected(tmp_path, rows, *how).items()}


def test_each_domain_gets_its_own_best_however_low_they_are(tmp_path):
    rows = [("high", 10, s / 10) for s in range(10)] + [("low", 10, -s) for s in range(5)]
    assert scores_of(tmp_path, rows, 20) == {"high": [0.9, 0.8], "low": [0]}
    assert scores_of(tmp_path, rows, 20, "documents", True) == {"high": [0.0, 0.1], "low": [-4]}
    assert scores_of(tmp_path, rows, 100)["low"] == [0, -1, -2, -3, -4]


@pytest.mark.parametrize(("documents", "percent", "count"), [(7, 20, 2), (5, 20, 1), (10, 30, 3), (1, 0.1, 1)])
def test_a_percentage_of_documents_is_rounded_up_and_never_by_a_float_error(tmp_path, documents, percent, count):
    assert len(selected(tmp_path, [("a", 5, i) for i in range(documents)], percent)["a"]) == count


def test_a_percentage_of_tokens_is_filled_by_the_best_documents(tmp_path):
    rows = [("a", 10, 0.9), ("a", 30, 0.8), ("a", 60, 0.7)]
    for percent, expected in ((10, [0.9]), (11, [0.9, 0.8]), (40, [0.9, 0.8]), (100, [0.9, 0.8, 0.7])):
        assert scores_of(tmp_path, rows, percent, "tokens") == {"a": expected}


def test_ties_keep_the_order_of_the_table_and_zero_has_no_sign(tmp_path):
    rows = [("a", 1, -0.0), ("a", 1, 0.0), ("a", 1, -0.0), ("a", 1, 0.0)]
    assert selected(tmp_path, rows, 75) == selected(tmp_path, rows, 75, "documents", True) == {"a": [0, 1, 2]}


def test_a_score_that_is_not_finite_is_never_selected(tmp_path):
    rows = [("a", 1, math.nan), ("a", 1, math.inf), ("a", 1, 0.1), ("b", 1, math.nan)]
    assert selected(tmp_path, rows, 100) == {"a": [2]}
    with pytest.raises(InputError, match="no row has a finite"):
        selected(tmp_path, rows[:1], 100)


def plainly(rows, percent, by, lowest):
    expected = {}
    for domain in sorted({domain for domain, _, score in rows if np.isfinite(score)}):
        ranked = [(score, i, n) for i, (d, n, score) in enumerate(rows) if d == domain and np.isfinite(score)]
        ranked.sort(key=lambda row: (row[0] if lowest else -row[0], row[1]))
        share = Fraction(str(percent)) / 100
        chosen, taken = [], 0
        for _, i, n in ranked:
            full = (
                len(chosen) >= share * len(ranked) if by == "documents" else taken >= share * sum(r[2] for r in ranked)
            )
            if full:
                break
            chosen.append(i)
            taken += n
        expected[domain] = chosen
    return expected


finite = st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1), st.floats(allow_nan=False, allow_infinity=False))
some_rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c d"]),
        st.integers(1, 50),
        st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf])),
    ),
    min_size=1,
    max_size=60,
).filter(lambda rows: any(np.isfinite(score) for *_, score in rows))


@settings(deadline=None)
@given(
    some_rows,
    st.sampled_from([1, 20, 33.3, 100]),
    st.sampled_from(["documents", "tokens"]),
    st.booleans(),
    st.sampled_from([1, 7, 10**6]),
)
def test_the_selection_is_that_of_a_plain_loop_however_small_batches_and_buckets_are(
    tmp_path_factory, rows, percent, by, lowest, size
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BATCH_ROWS", size)
        patch.setattr(ranking, "BATCH_ROWS", size)
        found = selected(tmp_path_factory.mktemp("rank"), rows, percent, by, lowest)
    assert found == plainly(rows, percent, by, lowest)


@given(some_rows, st.integers(0, 4), st.integers(0, 4), st.sampled_from([1, 7, 10**6]))
def test_the_ends_of_each_domain_are_those_of_a_plain_loop(tmp_path_factory, rows, top, bottom, size):
    path = write(tmp_path_factory.mktemp("ends") / "s.parquet", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BATCH_ROWS", size)
        found = {
            domain: [[row_of(doc_id) for doc_id in part["doc_id"].to_pylist()] for part in both]
            for domain, *both in ends(tables.read_score_batches(path), ["a", "c d"], top, bottom)
        }
        sizes = domain_sizes(tables.read_score_batches(path))
    expected = {}
    for domain, order in plainly(rows, 100, "documents", False).items():
        rest = order[len(order[:top]) :]
        expected[domain] = [order[:top], rest[max(0, len(rest) - bottom) :]]
        assert sizes.pop(domain) == len(order)
    expected.pop("b", None)
    assert (found, sizes) == (expected, {})


def test_a_doc_id_that_is_in_the_table_twice_is_refused_in_any_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_ROWS", 3)
    table = pq.read_table(write(tmp_path / "s.parquet", [("a", 1, i / 10) for i in range(10)]))
    pq.write_table(pa.concat_tables([table, table.slice(4, 1)]), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="doc_id x:4-5 is there twice"):
        list(Ranking(tmp_path / "twice.parquet", 20, "documents", False, tmp_path).selected())
    assert len(list(Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path).selected())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_query_is_an_interrupt(tmp_path, monkeypatch, number):
    slow = "SELECT max(a.range * b.range) FROM range(100000) a, range(100000) b"
    monkeypatch.setattr(Ranking, "_load", lambda _ranking, database: database.sql(slow).fetchall())
    path = write(tmp_path / "s.parquet", [("a", 1, 0.5)])

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)  # the processes of pytest-xdist ignore SIGINT
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(Ranking(path, 20, "documents", False, tmp_path).selected())
    finally:
        timer.join()
        signal.signal(number, before)
