"""The table of scores: parts, reading, and what is said of quiet trouble."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.doc_id import parse_doc_id
from common.table.guards import measure
from common.table.merging import Health, merge_parts
from common.table.parts import Parts
from common.table.schema import SCHEMA
from common.table.tables import read_scores, with_slices


def table(rows):
    """Rows of (domain, num_tokens, AI_Score), documents laid end to end."""
    start, out = 0, []
    for domain, num_tokens, ai_score in rows:
        out.append(
            (f"data/x_000001:{start}-{start + num_tokens}", domain, num_tokens, 2.0, 2.0 + 2 * ai_score, ai_score)
        )
        start += num_tokens
    return pa.table([list(column) for column in zip(*out, strict=True)], schema=SCHEMA)


def parts_rows(scores, token_ids, steps=()):
    """The same rows as parts have them, with the measures of the tokens."""
    return [
        row | measure(np.array(ids), "text")._asdict() | {"steps": list(steps)}
        for row, ids in zip(scores.to_pylist(), token_ids, strict=True)
    ]


def test_slices_hold_the_shard_and_span_of_a_document():
    row = with_slices(table([("a", 7, 0.1), ("a", 5, 0.1)])).to_pylist()[1]
    assert (row["shard"], row["start"], row["end"]) == ("data/x_000001.bin", 7, 12)


def test_parts_merge_into_equal_tsv_and_parquet(tmp_path):
    rows = parts_rows(table([("a", 3, 0.25), ("b", 4, math.nan), ("a", 5, -1 / 3)]), [[5] * 30, [6] * 30, [5] * 30])
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
    assert parquet["duplicate_of"].tolist() == parquet["near_duplicate_of"].tolist() == ["", "", "data/x_000001:0-3"]
    assert parquet["longest_run"].tolist() == [30, 30, 30]


def test_the_copy_that_is_kept_has_a_score_and_repeats_least(tmp_path):
    once = list(range(100))
    rows = table([("a", 9, math.nan), ("a", 9, 0.9), ("a", 9, 0.2), ("a", 9, 0.2), ("a", 9, 0.5)])
    with Parts(tmp_path / "parts") as parts:
        parts.add("x", 0, 5, parts_rows(rows, [once, once * 2, once, once, list(range(200, 300))]))
    merge_parts([path for *_, path in parts.of_shard("x")], tmp_path / "out.tsv")
    found = read_scores(tmp_path / "out.parquet")
    best = found["doc_id"][2]
    assert found["near_duplicate_of"].tolist() == [best, best, "", best, ""]
    assert found["duplicate_of"].tolist() == [best, "", "", best, ""]


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


@given(st.lists(st.tuples(st.text("ab/_ é.", min_size=1), st.integers(0, 10**9)), min_size=1, max_size=9))
def test_slices_of_a_selection_are_those_of_its_ids(places):
    ids = [f"{name}:{start}-{start + 5}" for name, start in places]
    for row in with_slices(pa.table({"doc_id": ids})).to_pylist():
        assert (Path(row["shard"]), row["start"], row["end"]) == parse_doc_id(row["doc_id"])


def test_an_empty_part_or_none_makes_no_table(tmp_path):
    with pytest.raises(Exception, match="no scores to write"):
        merge_parts([], tmp_path / "s.tsv")
    assert not list(tmp_path.iterdir())


def health(losses, vocab_size=400):
    """The warnings about rows of (L_base, L_ref)."""
    found = Health()
    for part in (losses[:2], losses[2:]):
        rows = [(f"x:{i}-{i + 5}", "a", 5, b, r, (r - b) / b if b else float("nan")) for i, (b, r) in enumerate(part)]
        found.add(pa.Table.from_pandas(pd.DataFrame(rows, columns=SCHEMA.names), schema=SCHEMA))
    return list(found.warnings(vocab_size))


def test_sane_losses_raise_no_warning():
    assert health([(2.0, 2.5), (3.0, 2.9), (1.0, 1.5)]) == []


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([(2.0, 2.5), (float("nan"), 2.0), (1.0, float("inf"))], "2 of 3 documents have a loss that is not finite"),
        ([(2.0, 2.0), (3.0, 3.0), (1.0, 1.0)], "every score is 0"),
        ([(2.0, 5.991), (3.0, 5.991), (1.0, 5.991)], "the same loss for every document, 5.9910 nats"),
        ([(12.0, 12.5), (11.0, 11.9), (14.0, 15.0)], "12.33 nats, is worse than a guess"),
    ],
)  # fmt: skip
def test_each_quiet_trouble_is_named(losses, says):
    [warning] = health(losses)
    assert says in warning
