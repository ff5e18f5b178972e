"""The recall of the true selection by the share that is scored, against curves by hand."""

import numpy as np
import pytest

from common.prefilter.price_list import price

SCORES = np.arange(10.0)  # the best two are 9 and 8
# Best first by prediction: 5, 9, 0, 1, 2, 3, 4, 6, 7, 8.
WRONG = np.array([8, 7, 6, 5, 4, 10, 3, 2, 0, 9])


def at_tenths(values):
    return [values[round(10 * tenth) - 1] for tenth in range(1, 11)]


def test_a_perfect_prediction_finds_the_selection_first():
    found = price(SCORES, SCORES * 7, np.ones(10), 20)
    assert at_tenths(found.recall) == [0.5] + [1] * 9
    assert found.recall[:21] == [0.5] * 10 + [1] * 11  # of 10 documents, 11 % are 2
    assert found.tokens == pytest.approx(np.ceil(np.arange(1, 101) / 10) / 10)
    assert not found.is_chance


def test_the_curve_of_a_wrong_prediction_by_hand():
    found = price(WRONG, SCORES, np.arange(1, 11), 20)
    assert at_tenths(found.recall) == [0] + [0.5] * 8 + [1]
    assert at_tenths(found.tokens) == pytest.approx(
        [tokens / 55 for tokens in (6, 16, 17, 19, 22, 26, 31, 38, 46, 55)], abs=1e-6
    )
    assert found.gain == pytest.approx((10 * 0 + 80 * 0.5 + 10 * 1) / 100 - 0.505)
    assert found.at(0.5) == {"estimate": 0.5, "low": found.low[49], "high": found.high[49]}
    assert found.at(0.05)["estimate"] == 0


def test_the_band_holds_the_estimate_and_narrows_with_documents():
    rng = np.random.default_rng(0)
    widths = []
    for num in (100, 2000):
        scores = rng.normal(size=num)
        found = price(scores + rng.normal(size=num), scores, np.ones(num), 20)
        assert found.low[39] < found.recall[39] < found.high[39]
        widths.append(found.high[39] - found.low[39])
    assert 2 * widths[1] < widths[0] < 0.3


@pytest.mark.parametrize("noise", [0.3, 1])
def test_the_lower_edge_is_below_the_truth_in_nineteen_of_twenty_pilots(noise):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=20_000)
    predicted = scores + noise * rng.normal(size=20_000)
    truth = np.array(price(predicted, scores, np.ones(20_000), 20).recall)
    pilots = [rng.integers(20_000, size=100) for _ in range(60)]
    lows = np.array([price(predicted[each], scores[each], np.ones(100), 20).low for each in pilots])
    assert (np.mean(lows <= truth, axis=0)[[19, 24, 29, 34, 39, 49, 59]] >= 0.93).all()


def test_equal_predictions_find_no_more_than_chance():
    found = price(np.zeros(300), np.zeros(300), np.ones(300), 20)
    np.testing.assert_allclose(found.recall, np.arange(1, 101) / 100, atol=0.15)
    assert found.is_chance


def test_a_random_prediction_is_called_chance():
    rng = np.random.default_rng(2)
    found = [price(rng.normal(size=300), rng.normal(size=300), np.ones(300), 20).is_chance for _ in range(10)]
    assert sum(found) >= 8


def test_the_share_for_a_recall_is_the_first_whose_lower_edge_reaches_it():
    found = price(WRONG, SCORES, np.ones(10), 20)
    share = found.share_for(0.3)
    place = round(share * 100) - 1
    assert found.low[place] >= 0.3 > found.low[place - 1]
    assert found.share_for(1.01) == 1
    assert "score 40% of the documents, lose 50% (" in found.sentence(0.4)
    assert found.sentence(0.4).endswith("of the selection, save 60% of the tokens")
