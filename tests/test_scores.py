"""The table of scores: parts, reading, and ranking within domains."""

import math

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.scores import Parts, merge_parts, read_scores, select, with_slices


def table(rows):
    """Rows of (domain, num_tokens, AI_Score), documents laid end to end."""
    start, out = 0, []
    for domain, num_tokens, ai_score in rows:
        out.append(
            (f"data/x_000001:{start}-{start + num_tokens}", domain, num_tokens, 2.0, 2.0 + 2 * ai_score, ai_score)
        )
        start += num_tokens
    return pd.DataFrame(out, columns=["doc_id", "domain", "num_tokens", "L_base", "L_ref", "AI_Score"])


def chosen(scores, percent, by="documents", lowest=False):
    return {domain: rows["AI_Score"].tolist() for domain, _, rows in select(scores, percent, by, lowest)}


def test_each_domain_gets_its_own_best_however_low_they_are():
    scores = table([("high", 10, s / 10) for s in range(10)] + [("low", 10, -s) for s in range(5)])
    assert chosen(scores, 20) == {"high": [0.9, 0.8], "low": [0]}
    assert chosen(scores, 20, lowest=True) == {"high": [0.0, 0.1], "low": [-4]}
    assert chosen(scores, 100)["low"] == [0, -1, -2, -3, -4]


@pytest.mark.parametrize(("documents", "percent", "count"), [(7, 20, 2), (5, 20, 1), (10, 30, 3), (1, 0.1, 1)])
def test_a_percentage_of_documents_is_rounded_up_and_never_by_a_float_error(documents, percent, count):
    assert len(chosen(table([("a", 5, i) for i in range(documents)]), percent)["a"]) == count


def test_a_percentage_of_tokens_is_filled_by_the_best_documents():
    scores = table([("a", 10, 0.9), ("a", 30, 0.8), ("a", 60, 0.7)])
    assert chosen(scores, 10, by="tokens") == {"a": [0.9]}
    assert chosen(scores, 11, by="tokens") == {"a": [0.9, 0.8]}
    assert chosen(scores, 40, by="tokens") == {"a": [0.9, 0.8]}
    assert chosen(scores, 100, by="tokens") == {"a": [0.9, 0.8, 0.7]}


def test_ties_keep_the_order_of_the_table():
    scores = table([("a", n, 0.5) for n in (3, 1, 2, 5)])
    [(_, _, rows)] = select(scores, 75, "documents", False)
    assert rows["num_tokens"].tolist() == [3, 1, 2]


def test_a_score_that_is_not_finite_is_never_selected():
    scores = table([("a", 1, math.nan), ("a", 1, math.inf), ("a", 1, 0.1), ("b", 1, math.nan)])
    assert chosen(scores, 100) == {"a": [0.1]}


def test_slices_say_where_a_document_lies():
    row = with_slices(table([("a", 7, 0.1), ("a", 5, 0.1)])).iloc[1]
    assert (row["shard"], row["start"], row["end"]) == ("data/x_000001.bin", 7, 12)


def test_parts_merge_into_equal_tsv_and_parquet(tmp_path):
    rows = [tuple(row) for row in table([("a", 3, 0.25), ("b", 4, math.nan), ("a", 5, -1 / 3)]).itertuples(index=False)]
    with Parts(tmp_path / "parts") as parts:
        parts.add("data/x_000001", 0, 2, rows[:2])
        parts.flush()
        parts.add("data/x_000001", 2, 3, rows[2:])
    found = parts.of_shard("data/x_000001")
    assert [span for *span, _ in found] == [[0, 2], [2, 3]]
    assert merge_parts([path for *_, path in found], tmp_path / "out.tsv").num_rows == 3
    tsv, parquet = read_scores(tmp_path / "out.tsv"), read_scores(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(tsv, parquet, rtol=1e-9)
    assert parquet["AI_Score"].tolist()[2] == -1 / 3
    assert np.isnan(tsv["AI_Score"][1])


def test_parts_say_what_is_missing_and_join_what_touches(tmp_path):
    with Parts(tmp_path) as parts:
        for name, first, last in (("a", 3, 4), ("ab", 2, 3), ("a", 0, 1), ("a", 1, 2)):
            parts.add(name, first, last, [])
    with Parts(tmp_path) as parts:
        assert [span for *span, _ in parts.of_shard("a")] == [[0, 2], [3, 4]]
        assert parts.missing("a", 9) == [range(2, 3), range(4, 9)]
        assert parts.missing("a", 3) == [range(2, 3)]
        assert parts.missing("ab", 3) == [range(2)]
        assert parts.missing("ab", 1) == [range(1)]
        assert parts.missing("other", 5) == [range(5)]
        assert parts.missing("other", 0) == []


def test_parts_are_written_when_the_work_is_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt), Parts(tmp_path) as parts:
        parts.add("a", 0, 1, [])
        raise KeyboardInterrupt
    with Parts(tmp_path) as parts:
        assert parts.missing("a", 2) == [range(1, 2)]


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
