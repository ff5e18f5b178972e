"""experiments/score_tokens.py: what a score in part keeps and costs, by hand."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def script():
    return importlib.import_module("score_tokens")


def test_recalls_and_costs_of_ten_documents_by_hand(script):
    of_domain = {
        "tokens": np.array([100, 100, 100, 100, 100, 400, 400, 400, 400, 400]),
        "whole": np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10.0]),  # the long ones are the best
        "first 50 and 50": np.array([1, 2, 3, 4, 9, 5, 6, 8, 7, 3.5]),
    }
    found = script.figures(of_domain, "first 50 and 50")
    assert found["read"] == pytest.approx(1000 / 2500)
    assert found["recall 0.2"] == 0  # of 9 and 8, none of the true two
    assert found["recall 0.4"] == 1 / 2  # 9, 8, 7, 6
    assert found["read 0.4"] == pytest.approx((1000 + 3 * 400) / 2500)  # the short one is not read again
    # in pairs of like length: the better one is the same in the first two and the fourth
    assert found["within"] == 3 / 5


def test_bands_hold_the_mean_and_a_perfect_score_has_none(script, monkeypatch):
    monkeypatch.setattr(script, "DRAWS", 50)
    rng = np.random.default_rng(1)
    whole = rng.random(40)
    noisy = whole + 0.2 * rng.random(40)
    domain = {"tokens": rng.integers(256, 1536, 40), "whole": whole, "first 128": whole, "first 64 and 64": noisy}
    found = script.summary({"a": domain, "b": domain})
    assert found["first 128"]["bands"]["recall 0.2"] == [1, 1]
    low, high = found["first 64 and 64"]["bands"]["recall 0.2"]
    assert 0 < low <= found["first 64 and 64"]["domains"]["a"]["recall 0.2"] <= high < 1.01
    assert low < high
