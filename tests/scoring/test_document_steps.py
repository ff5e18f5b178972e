"""Where the steps of a text end."""

import pytest

from common.scoring.document_steps import step_edges


@pytest.mark.parametrize(
    ("pieces", "separator", "edges"),
    [
        ([], None, [0]),
        (["a"], None, [0, 1]),
        (["a", "\n", "\n", "b"], None, [0, 3, 4]),
        (["a\n", "\t\nb", "c"], None, [0, 2, 3]),  # a token is of the step that its first character is in
        (["a", "\n\n"], None, [0, 2]),
        (["a", "\n\n", "b", "\n\n", ""], None, [0, 2, 5]),  # the separator's piece is empty
        (["\n\n", "a"], None, [0, 1, 2]),
        (["a", "#", "#", "b", "##", "c"], "##", [0, 3, 5, 6]),
        (["a", "", "\n\n", "", "b"], None, [0, 3, 5]),
    ],
)
def test_edges_by_hand(pieces, separator, edges):
    assert step_edges(pieces, separator) == edges
