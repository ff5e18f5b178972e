"""What --estimate measures and computes."""

import numpy as np
import pytest

from common.scoring.estimate import Measured, _print_time, draw
from common.scoring.plan import make_plan
from common.shards.reader import ShardReader
from common.table.parts import Parts
from tests.conftest import write_shards

READER = ShardReader()


@pytest.fixture
def plan(tmp_path):
    """2,000 documents in many shards, the later the longer."""
    lengths = np.sort(np.random.default_rng(0).integers(1, 200, 2000))
    documents = [[20 + row % 300] * length for row, length in enumerate(lengths.tolist())]
    return make_plan(write_shards(tmp_path, documents, ["a"] * 2000, shard_size=20_000), READER, None)


def test_the_documents_that_are_drawn_are_a_fair_sample_of_those_that_are_missing(tmp_path, plan, monkeypatch):
    parts = Parts(tmp_path / "parts")
    for item in plan:
        parts.add(item.name, 0, item.num_documents // 2, [])
    parts.flush()
    missing = [
        item.open(READER).document(row) for item in plan for row in range(item.num_documents // 2, item.num_documents)
    ]
    tokens = sum(map(len, missing))
    all_ = [document.doc_id for document in draw(plan, parts, READER, tokens)]
    expected = [document.doc_id for document in missing]
    assert sorted(all_) == sorted(expected) and all_ != expected
    monkeypatch.setattr("common.scoring.estimate.MOST_TOKENS", tokens // 4)
    drawn = draw(plan, parts, READER, tokens)
    assert len(drawn) == pytest.approx(len(missing) / 4, abs=1)
    assert np.mean(list(map(len, drawn))) == pytest.approx(tokens / len(missing), rel=0.05)
    assert np.mean(list(map(len, drawn[: len(drawn) // 4]))) == pytest.approx(tokens / len(missing), rel=0.1)
    assert {document.doc_id for document in drawn} <= {*expected}
    assert [document.token_ids[0] for document in drawn] == [
        next(other for other in missing if other.doc_id == document.doc_id).token_ids[0] for document in drawn
    ]


def test_rates_and_hours_by_hand(capsys):
    measured = Measured(np.array([100, 300, 200]), np.array([1.0, 2.0, 3.0]), 7, [{}])
    assert measured.rates == (100, pytest.approx(200 / 3), 150)
    _print_time(measured, 36_000_000, "cpu, float32", 8)
    speed, hours = capsys.readouterr().out.splitlines()
    assert speed.startswith("speed: 100 tokens/s on this device (cpu, float32), 67 to 150 from moment to moment;")
    assert speed.endswith("measured on 7 documents, 6.0 s")
    assert "100.00 hours on this device (66.67 to 150.00), 12.50 hours on 8 of them (8.33 to 18.75)" in hours
