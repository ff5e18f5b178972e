"""Pictures of a run: the heads, the scores of each domain, score against repetition, and the loss curve."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.files import atomic
from common.model.heads import Head
from common.prefilter.price_list import SHARES, Price
from common.table.schema import NO_DOMAIN

COLUMNS, BINS, NAME_CHARS = 3, 40, 80
MOST = 1e100  # what is drawn; the width of a larger axis is no number
TEXT, RANKED, LEFT_OUT, CHOSEN = "#1f2328", "#5b91c9", "#a9aeb5", "#d1242f"
# The ground is that of the page, which inverts the brightness of its pictures where the reader's system is dark.
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "none"),
    "axes.titlesize": "small",
    "xtick.labelsize": "x-small",
    "ytick.labelsize": "x-small",
    "text.parse_math": False,  # a domain's name may hold a $
}


def save_picture(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG on white, whole or not at all: other programs may show it on any ground."""
    with atomic(path) as tmp:
        figure.savefig(tmp, format="png", dpi=dpi, facecolor="white")


def heads_picture(scores: np.ndarray, chosen: Sequence[Head]) -> Figure:
    """Retrieval scores as layers × heads, the chosen heads outlined.

    Args:
        scores: in [0, 1], shape [num_hidden_layers, num_attention_heads].
    """
    num_layers, num_heads = scores.shape
    with rc_context(STYLE):
        figure = Figure(
            figsize=(max(4, 1.6 + 0.28 * num_layers), max(2.6, 1.1 + 0.28 * num_heads)), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(scores.T, cmap="Blues", vmin=0, aspect="auto")
        for layer, index in chosen:
            axes.add_patch(Rectangle((layer - 0.5, index - 0.5), 1, 1, fill=False, edgecolor=CHOSEN, linewidth=1.6))
        axes.set(
            xlabel="layer", ylabel="query head", title=f"retrieval scores; the {len(chosen)} chosen heads outlined"
        )
        axes.locator_params(integer=True)
        figure.colorbar(image, label="share of answer tokens copied", pad=0.01)
    return figure


def distributions_picture(
    domains: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, float | None]], score: str = "AI_Score"
) -> Figure:
    """The distribution of scores in each domain, and its threshold; a grey part of a bar was left out.

    Args:
        domains: by name: scores, the numbers of documents with each that were ranked and that were left out, and the
            threshold, None if none was ranked.
        score: what was ranked by.
    """
    with rc_context(STYLE):
        figure = Figure()
        for axes, name in _panels(figure, list(domains)):
            scores, *parts, threshold = domains[name]
            counts = sum(parts)
            if not counts.sum():
                continue
            scores = np.clip(scores, -MOST, MOST)
            low, high = _inner_range(scores, counts)
            bars = min(BINS, 2 * math.isqrt(counts.sum()) - 1)
            axes.hist(
                [scores.clip(low, high)] * 2,
                np.linspace(low, high, bars + 1),
                weights=parts,
                stacked=True,
                color=[RANKED, LEFT_OUT],
                label=["ranked", "left out"],
            )
            axes.locator_params(axis="y", integer=True)
            title = f"{name or NO_DOMAIN}: {parts[0].sum():,} documents"
            title += f" + {parts[1].sum():,} left out" if parts[1].any() else ""
            if threshold is not None:
                threshold = np.clip(threshold, -MOST, MOST)
                axes.axvline(threshold, color=CHOSEN, linewidth=1.4)
                title += f", threshold {threshold:.3f}"
            axes.set_title(title)
        figure.supxlabel(f"{score[:NAME_CHARS]} (the outermost bars include all scores beyond them)", fontsize="small")
        figure.supylabel("documents", fontsize="small")
        _legend(figure)
    return figure


def repetition_picture(domains: dict[str, pd.DataFrame], score: str = "AI_Score") -> Figure:
    """Score against repetition, and the documents left out; Spearman's rank correlation with and without them.

    Args:
        domains: by name: a row per document: repetition, AI_Score (or the other score), kept (it was ranked).
        score: what was ranked by.
    """
    with rc_context(STYLE):
        figure = Figure()
        for axes, name in _panels(figure, list(domains)):
            sample = domains[name].dropna(subset="repetition")
            sample = sample.assign(**sample[["repetition", "AI_Score"]].clip(-MOST, MOST))
            kept = sample[sample["kept"]]
            left_out = sample[~sample["kept"]]
            axes.scatter(left_out["repetition"], left_out["AI_Score"], s=8, color=LEFT_OUT, label="left out")
            axes.scatter(kept["repetition"], kept["AI_Score"], s=8, color=RANKED, label="ranked")
            before, after = (_correlation(rows) for rows in (sample, kept))
            axes.set_title(f"{name or NO_DOMAIN}: ρ {before}, of the ranked {after}")
        figure.supxlabel("repetition (share of tokens in 10-grams that occurred before)", fontsize="small")
        figure.supylabel(score[:NAME_CHARS], fontsize="small")
        _legend(figure)
    return figure


def recall_picture(domains: dict[str, Price], top_pct: float) -> Figure:
    """The recall of the true selection by the share of the documents that is scored, with its band, and chance."""
    with rc_context(STYLE):
        figure = Figure()
        for axes, name in _panels(figure, list(domains)):
            price = domains[name]
            axes.fill_between(SHARES, price.low, price.high, color=LEFT_OUT, alpha=0.5, linewidth=0)
            axes.plot(SHARES, price.recall, color=RANKED)
            axes.plot([0, 1], [0, 1], color=LEFT_OUT, linewidth=0.8)
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
            axes.set_title(f"{name or NO_DOMAIN}: {price.documents:,} documents")
        figure.supxlabel("share of the documents that is scored", fontsize="small")
        figure.supylabel(f"recall of the true top {top_pct:g} %", fontsize="small")
    return figure


def loss_picture(rows: Sequence[dict]) -> Figure:
    """Training and validation loss by tokens; a row has `tokens`, and `loss` or `eval_loss`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["tokens"], row[name]) for row in rows if name in row]
        if points:
            marked = name == "eval_loss" or len(points) == 1
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if marked else None)
    axes.set(xlabel="tokens", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize="small")


def _correlation(rows: pd.DataFrame) -> str:
    found = rows["repetition"].rank().corr(rows["AI_Score"].rank()) if len(rows) > 2 else math.nan
    return "–" if math.isnan(found) else f"{found:.2f}"


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
