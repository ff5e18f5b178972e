"""Attention heads: their name, the files that list them, and the choice of the retrieval heads.

A head is a query head, named by its layer and its index in the layer, also under grouped-query attention.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.errors import InputError
from common.files import read_json

MAKE_HEADS = "make it with compute_retrieval_heads.py for this model"


class Head(NamedTuple):
    """A query head; layers and heads are counted from 0.

    >>> print(Head.parse("18,6"))
    18,6
    """

    layer: int
    index: int

    @classmethod
    def parse(cls, text: str, where: str = "") -> "Head":
        """Read `layer,head`; otherwise raise an InputError that begins with `where`."""
        try:
            layer, index = map(int, text.split(","))
        except ValueError:
            raise InputError(f"{where}: {text!r} is not `layer,head`") from None
        return cls(layer, index)

    def require_in(self, shape: tuple[int, int], where: str) -> None:
        """Raise InputError, which begins with `where`, if a model of `shape` (layers, heads) has no such head."""
        if not (0 <= self.layer < shape[0] and 0 <= self.index < shape[1]):
            raise InputError(
                f"{where}: head {self} is outside the model's {shape[0]} layers of {shape[1]} heads, "
                "both counted from 0; compute_retrieval_heads.py finds the heads of a model"
            )

    def __str__(self) -> str:
        return f"{self.layer},{self.index}"


def choose_heads(scores: np.ndarray, top_pct: float) -> list[Head]:
    """The `top_pct` percent of all heads (rounded up) with the highest scores, best first; ties by layer and head."""
    count = math.ceil(Fraction(str(top_pct)) * scores.size / 100)
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    return _heads(*np.unravel_index(order, scores.shape))


def concentration(scores: np.ndarray) -> float:
    """The share of the best 5 % of heads in the sum of all scores, 0.05 (all copy alike) to 1 (no other copies)."""
    return float(sum(scores[head] for head in choose_heads(scores, 5)) / scores.sum())


def _heads(layers: Iterable, indices: Iterable) -> list[Head]:
    return [Head(int(layer), int(index)) for layer, index in zip(layers, indices, strict=True)]


def write_heads(path: Path, heads: Sequence[Head]) -> None:
    """Write one `layer,head` per line, best first."""
    Path(path).write_text("".join(f"{head}\n" for head in heads), encoding="utf-8")


def model_of(heads: Path) -> str | None:
    """The model whose heads are in a file, from the record next to it; None if there is no record."""
    record = heads.with_suffix(".json")
    return read_json(record).get("model") if record.exists() else None


def read_heads(path: Path, shape: tuple[int, int]) -> list[Head]:
    """Read `layer,head` lines for a model of `shape` (layers, heads).

    Raises:
        InputError: names file and line: malformed, out of range, twice, or no heads at all.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {MAKE_HEADS}") from None
    heads: list[Head] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        head = Head.parse(line, f"{path}:{number}")
        head.require_in(shape, f"{path}:{number}")
        if head in heads:
            raise InputError(f"{path}:{number}: head {head} is there twice; remove one")
        heads.append(head)
    if not heads:
        raise InputError(f"{path}: no heads in it; {MAKE_HEADS}")
    return heads


def write_head_scores(path: Path, scores: np.ndarray, heads: Sequence[Head]) -> None:
    """Write every head's score as TSV, best first: layer, head, retrieval_score, selected."""
    table = pd.DataFrame(
        {"layer": place[0], "head": place[1], "retrieval_score": scores[place], "selected": place in heads}
        for place in np.ndindex(scores.shape)
    ).sort_values("retrieval_score", ascending=False, kind="stable")
    table.to_csv(path, sep="\t", index=False, float_format="%.6f")


def read_head_scores(path: Path) -> tuple[np.ndarray, list[Head]]:
    """Every head's score, shape [layers, heads], and the selected heads, best first, from `write_head_scores`.

    Raises:
        InputError: the file is missing, or is not a table of every head's score.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={"layer": int, "head": int, "retrieval_score": float})
        if not len(table) or table[["layer", "head"]].min().min() < 0:
            raise ValueError("no heads, or a negative number")
        scores = np.full((table["layer"].max() + 1, table["head"].max() + 1), np.nan)
        scores[table["layer"], table["head"]] = table["retrieval_score"]
        chosen = table[table["selected"].astype(bool)]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: not a table of every head's score ({error}); {MAKE_HEADS}") from None
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError(f"{path}: some heads have no score between 0 and 1; {MAKE_HEADS}")
    return scores, _heads(chosen["layer"], chosen["head"])
