"""Pictures of a run: the heads, the scores of each domain, score against repetition, and the loss curve."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.files import atomic
from common.model.heads import Head
from common.table.schema import NO_DOMAIN

COLUMNS, BINS = 3, 40
MOST = 1e100  # what is drawn; the width of a larger axis is no number
LIGHT = {"text": "#1f2328", "figure": "#ffffff", "bars": "#8fb3d9", "chosen": "#d1242f"}
DARK = {"text": "#e6edf3", "figure": "#16191d", "bars": "#46719f", "chosen": "#ff7b72"}


def save_picture(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as tmp:
        figure.savefig(tmp, format="png", dpi=dpi)


def heads_picture(scores: np.ndarray, chosen: Sequence[Head], dark: bool = False) -> Figure:
    """Retrieval scores as layers × heads, the chosen heads outlined.

    Args:
        scores: in [0, 1], shape [num_hidden_layers, num_attention_heads].
    """
    num_layers, num_heads = scores.shape
    with _colours(dark) as colours:
        figure = Figure(
            figsize=(max(4, 1.6 + 0.28 * num_layers), max(2.6, 1.1 + 0.28 * num_heads)), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(scores.T, cmap=colormaps["cividis" if dark else "Blues"], vmin=0, aspect="auto")
        for layer, index in chosen:
            axes.add_patch(
                Rectangle((layer - 0.5, index - 0.5), 1, 1, fill=False, edgecolor=colours["chosen"], linewidth=1.6)
            )
        axes.set(
            xlabel="layer", ylabel="query head", title=f"retrieval scores; the {len(chosen)} chosen heads outlined"
        )
        axes.locator_params(integer=True)
        figure.colorbar(image, label="share of answer tokens copied", pad=0.01)
    return figure


def distributions_picture(domains: dict[str, tuple[np.ndarray, np.ndarray, float]], dark: bool = False) -> Figure:
    """The distribution of scores in each domain, and its threshold.

    Args:
        domains: by name: scores, the number of documents with each, and the threshold.
    """
    with _colours(dark) as colours:
        figure = Figure()
        for axes, name in _panels(figure, list(domains)):
            scores, counts, threshold = domains[name]
            if not counts.sum():
                continue
            scores, threshold = np.clip(scores, -MOST, MOST), np.clip(threshold, -MOST, MOST)
            low, high = _inner_range(scores, counts)
            axes.hist(scores.clip(low, high), np.linspace(low, high, BINS + 1), weights=counts, color=colours["bars"])
            axes.axvline(threshold, color=colours["chosen"], linewidth=1.4)
            axes.set_title(f"{name or NO_DOMAIN}: {counts.sum():,} documents, threshold {threshold:.3f}")
        figure.supxlabel("AI_Score (the outermost bars include all scores beyond them)", fontsize="small")
        figure.supylabel("documents", fontsize="small")
    return figure


def repetition_picture(domains: dict[str, pd.DataFrame], dark: bool = False) -> Figure:
    """Score against repetition, and the documents left out; Spearman's rank correlation with and without them.

    Args:
        domains: by name: a row per document: repetition, AI_Score, kept (it was ranked).
    """
    with _colours(dark) as colours:
        figure = Figure()
        for axes, name in _panels(figure, list(domains)):
            sample = domains[name].dropna(subset="repetition")
            sample = sample.assign(**sample[["repetition", "AI_Score"]].clip(-MOST, MOST))
            kept = sample[sample["kept"]]
            left_out = sample[~sample["kept"]]
            axes.scatter(left_out["repetition"], left_out["AI_Score"], s=8, color=colours["chosen"], label="left out")
            axes.scatter(kept["repetition"], kept["AI_Score"], s=8, color=colours["bars"], label="ranked")
            before, after = (_correlation(rows) for rows in (sample, kept))
            axes.set_title(f"{name or NO_DOMAIN}: ρ {before:.2f}, of the ranked {after:.2f}")
        figure.supxlabel("repetition (share of tokens in 10-grams that occurred before)", fontsize="small")
        figure.supylabel("AI_Score", fontsize="small")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize="small")
    return figure


def loss_picture(rows: Sequence[dict]) -> Figure:
    """Training and validation loss by tokens; a row has `tokens`, and `loss` or `eval_loss`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["tokens"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if name == "eval_loss" else None)
    axes.set(xlabel="tokens", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _correlation(rows: pd.DataFrame) -> float:
    return rows["repetition"].rank().corr(rows["AI_Score"].rank()) if len(rows) > 2 else math.nan


def _inner_range(scores: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest score, without 0.5 % of the documents at either end."""
    order = np.argsort(scores)
    below = counts[order].cumsum() / counts.sum()
    low, high = scores[order][[np.searchsorted(below, 0.005), np.searchsorted(below, 0.995)]]
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _panels(figure: Figure, names: list[str]) -> Iterator[tuple[Axes, str]]:
    """A panel for each domain."""
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure.set_size_inches(3.6 * columns, 0.9 + 1.9 * rows)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid, names, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        yield axes, name


@contextmanager
def _colours(dark: bool) -> Iterator[dict[str, str]]:
    """Use light or dark colours for the drawings in the block."""
    colours = DARK if dark else LIGHT
    text = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    surfaces = ("figure.facecolor", "axes.facecolor", "legend.facecolor")
    settings = {
        **dict.fromkeys(text, colours["text"]),
        **dict.fromkeys(surfaces, colours["figure"]),
        "axes.titlesize": "small",
        "xtick.labelsize": "x-small",
        "ytick.labelsize": "x-small",
        "text.parse_math": False,  # a domain's name may hold a $
    }
    with rc_context(settings):
        yield colours
