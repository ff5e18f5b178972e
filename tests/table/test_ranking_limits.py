"""What ranking leaves out: the repetitive and the copies, by domain."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rank_scores
from common.errors import InputError
from common.table.ranking import Limits, Ranking
from common.table.schema import EXACT, NEAR, SLICES, TABLE_SCHEMA


def table(rows) -> pa.Table:
    """Rows of (domain, AI_Score, repetition, number of the row that it equals, or nearly)."""
    ids = [f"x:{10 * i}-{10 * i + 10}" for i in range(len(rows))]
    whole = [
        (
            ids[i],
            domain,
            10,
            1.0,
            1.0,
            score,
            1.0,
            1.0,
            score,
            10,
            repetition,
            0,
            0.5,
            *("" if of is None else ids[of] for of in alike),
        )
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
        name: dict(domain.left_out) for name, domain in found.domains.items()
    }


def test_each_limit_leaves_out_what_it_says_and_counts_it_by_domain(tmp_path):
    assert ranked(tmp_path) == ([0, 1, 2, 3, 4, 5, 6], {"a": {}, "b": {}})
    rows, left_out = ranked(tmp_path, max_repetition=0.3)
    assert (rows, left_out["a"], left_out["b"]) == ([1, 2, 3, 4, 6], {"repetitive": 1}, {"repetitive": 1})
    rows, left_out = ranked(tmp_path, dedup="exact")
    assert (rows, left_out["a"], left_out["b"]) == ([0, 1, 3, 4, 6], {"duplicates": 1}, {"duplicates": 1})
    rows, left_out = ranked(tmp_path, max_repetition=0.3, dedup="near")
    assert (rows, left_out["a"], left_out["b"]) == (
        [1, 4, 6],
        {"repetitive": 1, "duplicates": 2},
        {"repetitive": 1},
    )


def test_the_percentage_is_of_what_is_left(tmp_path):
    pq.write_table(table(ROWS), tmp_path / "s.parquet")
    found = Ranking(tmp_path / "s.parquet", 50, "documents", False, tmp_path, Limits(0.3, "near"))
    assert [part["AI_Score"].to_pylist() for part in found.selected()] == [[0.8, 0.4]]
    assert [domain.selected_documents for domain in found.domains.values()] == [1, 1]


def test_a_domain_of_which_nothing_is_left_has_a_line_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table([*ROWS, ("c", 0.5, 0.9, None, None)]), "s.parquet")
    rank_scores.main(["--scores", "s.parquet", "--out", "top.tsv"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["domain", "repetitive", "duplicates", "ranked"]
    assert ["a", "1", "2", "2"] in [line[:4] for line in lines]
    assert ["c", "1", "0", "0"] in [line[:4] for line in lines]
    assert pq.read_table("top.parquet").schema.equals(pa.schema([*TABLE_SCHEMA, *SLICES]))
    assert (tmp_path / "top.png").read_bytes()[:4] == (tmp_path / "top.repetition.png").read_bytes()[:4] == b"\x89PNG"


def test_limits_that_leave_nothing_are_refused(tmp_path):
    pq.write_table(table(ROWS[:1]), tmp_path / "s.parquet")
    with pytest.raises(InputError, match="all rows are left out"):
        list(Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path, Limits(0.3)).selected())


@pytest.mark.parametrize(("column", "flags"), [("repetition", "--max_repetition 1"), (NEAR, "--dedup none")])
def test_a_table_without_the_column_of_a_limit_is_refused_with_the_flag_to_set(tmp_path, column, flags):
    pq.write_table(table(ROWS).drop_columns([column]), tmp_path / "s.parquet")
    with pytest.raises(InputError, match=f"some rows have no {column}.*{flags}"):
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
    monkeypatch.setattr("common.table.domains.SAMPLE", 25)
    samples = []
    for size in (7, 100):
        monkeypatch.setattr("common.table.tables.BATCH_ROWS", size)
        found = Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path, Limits(0.3))
        list(found.selected())
        samples.append(found.drawn["a"].sample)
    pd.testing.assert_frame_equal(*samples)
    assert 10 < len(samples[0]) < 40
    assert (samples[0]["kept"] == (samples[0]["repetition"] <= 0.3)).all()
