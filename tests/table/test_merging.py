"""Parts to the score table, and the warnings about faults in scores."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from common.table.guards import measure
from common.table.merging import Health, merge_parts
from common.table.parts import Parts, Stretch
from common.table.schema import SCHEMA, TABLE_SCHEMA
from common.table.tables import read_scores
from tests.table.conftest import table


def parts_rows(scores, token_ids, steps=()):
    """The same rows as parts have them, with the measures of the tokens."""
    return [
        row | measure(np.array(ids), "text")._asdict() | {"steps": list(steps)}
        for row, ids in zip(scores.to_pylist(), token_ids, strict=True)
    ]


def test_parts_merge_into_equal_tsv_and_parquet(tmp_path):
    rows = parts_rows(table([("a", 3, 0.25), ("b", 4, math.nan), ("a", 5, -1 / 3)]), [[5] * 30, [6] * 30, [5] * 30])
    with Parts(tmp_path / "parts") as parts:
        parts.add("data/x_000001", 0, 2, rows[:2])
        parts.flush()
        parts.add("data/x_000001", 2, 3, rows[2:])
    found = parts.of_shard("data/x_000001")
    assert [span for *span, _ in found] == [[0, 2], [2, 3]]
    assert merge_parts([Stretch([path]) for *_, path in found], tmp_path / "out.tsv").num_rows == 3
    tsv, parquet = read_scores(tmp_path / "out.tsv"), read_scores(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(tsv[TABLE_SCHEMA.names], parquet[TABLE_SCHEMA.names], rtol=1e-9)
    assert parquet["AI_Score"].tolist()[2] == -1 / 3
    assert np.isnan(tsv["AI_Score"][1])
    assert parquet["duplicate_of"].tolist() == parquet["near_duplicate_of"].tolist() == ["", "", "data/x_000001:0-3"]
    assert parquet["longest_run"].tolist() == [30, 30, 30]


def test_the_copy_that_is_kept_has_a_score_and_repeats_least(tmp_path):
    once = list(range(100))
    rows = table([("a", 9, math.nan), ("a", 9, 0.9), ("a", 9, 0.2), ("a", 9, 0.2), ("a", 9, 0.5)])
    with Parts(tmp_path / "parts") as parts:
        parts.add("x", 0, 5, parts_rows(rows, [once, once * 2, once, once, list(range(200, 300))]))
    merge_parts([Stretch([path]) for *_, path in parts.of_shard("x")], tmp_path / "out.tsv")
    found = read_scores(tmp_path / "out.parquet")
    best = found["doc_id"][2]
    assert found["near_duplicate_of"].tolist() == [best, best, "", best, ""]
    assert found["duplicate_of"].tolist() == [best, "", "", best, ""]


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
