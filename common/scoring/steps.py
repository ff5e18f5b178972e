"""The steps of a document, what lies between blank lines or another separator, and the loss of each."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.scoring.loss import TokenLosses

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

    A separator belongs to the step that it closes, and a token to the step that its first character is in; tokens
    without any text at the end belong to the last.

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
    text = "".join(pieces)
    cuts = [match.end() for match in re.finditer(pattern, text) if match.end() < len(text)]
    return np.unique([0, *np.searchsorted(begins, cuts), len(pieces)]).tolist()


def score_steps(
    losses: TokenLosses, places: np.ndarray, pieces: Sequence[str], separator: str | None, spans: Iterable
) -> list[Step]:
    """The steps of a document that have a target.

    Args:
        losses: of its targets.
        places: which token of the document each of them is, shape [num_targets].
        pieces: the text of each token of the document.
        spans: the (start, end) in tokens to cut into steps: the whole, or the answers of a chat.
    """
    steps = []
    for begin, end in spans:
        edges = begin + np.array(step_edges(pieces[begin:end], separator))
        for (start, stop), (first, last) in zip(pairwise(edges), pairwise(np.searchsorted(places, edges)), strict=True):
            if first < last:
                steps.append(Step(int(start), int(stop), *losses.of(np.arange(first, last)).means()))
    return steps
