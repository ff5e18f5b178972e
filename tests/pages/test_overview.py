"""How many documents of each domain a report lists."""

import pytest

from common.pages.overview import evenly


@pytest.mark.parametrize(
    ("counts", "limit", "wanted"),
    [([10, 2, 10], 12, [5, 2, 5]), ([1, 1], 9, [1, 1]), ([5, 5, 5], 2, [0, 1, 1]), ([7], 3, [3])],
)
def test_places_are_shared_evenly(counts, limit, wanted):
    assert evenly(counts, limit) == wanted
