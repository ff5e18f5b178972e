"""The steps of a document, what lies between blank lines or another separator, and the loss of each."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.loss import TokenLosses

BLANK_LINES = r"\n(?:[^\S\n]*\n)+"


class Step(NamedTuple):
    """Tokens [start, end) of a document, and what its targets cost on average, as the score table has it."""

    start: int
    end: int
    L_base: float
    L_ref: float
    AI_Score: float


def step_edges(pieces: Sequence[str], separator: str | None) -> list[int]:
    """Where the steps begin, in tokens, and where the last one ends.

    A separator belongs to the step that it closes, and a token to the step that its first character is in.

    Args:
        pieces: the text of each token.
        separator: what stands between steps; None for one or more blank lines.

    >>> step_edges(["Let", " x", ".\\n\\n", "Then", "\\n", "y"], None)
    [0, 3, 6]
    >>> step_edges(["Let", " x", ";", " then", " y"], ";")
    [0, 3, 5]
    """
    pattern = BLANK_LINES if separator is None else re.escape(separator)
    begins = np.cumsum([0, *map(len, pieces)])[:-1]
    cuts = [match.end() for match in re.finditer(pattern, "".join(pieces))]
    return np.unique([0, *np.searchsorted(begins, cuts), len(pieces)]).tolist()


def score_steps(losses: TokenLosses, edges: Sequence[int], targets: np.ndarray) -> list[Step]:
    """The steps that have a target.

    Args:
        losses: of the document's targets.
        edges: as from `step_edges`.
        targets: which token of the document each loss is of, in order, shape [num_targets].
    """
    steps = []
    for start, end in pairwise(edges):
        first, last = np.searchsorted(targets, [start, end])
        if first < last:
            steps.append(Step(start, end, *losses.of(np.arange(first, last)).means()))
    return steps
