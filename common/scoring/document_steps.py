"""The steps of a document, the parts between blank lines or another separator, and the loss of each."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.scoring.loss import TokenLosses
from common.shards.documents import Document

BLANK_LINES = r"\n(?:[^\S\n]*\n)+"


class Step(NamedTuple):
    """Tokens [start, end) of a document, and the mean losses and score of its targets, as in the score table."""

    start: int
    end: int
    L_base: float
    L_ref: float
    AI_Score: float


def step_edges(pieces: Sequence[str], separator: str | None) -> list[int]:
    """Where each step begins, in tokens, and where the last one ends.

    A separator belongs to the step before it, and a token to the step of its first character. Tokens without text at
    the end belong to the last step.

    Args:
        pieces: the text of each token.
        separator: the text between steps; None for one or more blank lines.

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


def score_steps(document: Document, losses: TokenLosses, pieces: Sequence[str], separator: str | None) -> list[Step]:
    """The steps of a document that have a scored target.

    Args:
        losses: of all targets of the document.
        pieces: the text of each token of the document.
        separator: as in `step_edges`.
    """
    places, losses = losses.scored(document)
    spans = [(0, len(document))] if document.answers is None else document.answers.tolist()
    steps = []
    for begin, end in spans:
        edges = begin + np.array(step_edges(pieces[begin:end], separator))
        for (start, stop), (first, last) in zip(pairwise(edges), pairwise(np.searchsorted(places, edges)), strict=True):
            if first < last:
                steps.append(Step(int(start), int(stop), *losses.of(np.arange(first, last)).means()))
    return steps
