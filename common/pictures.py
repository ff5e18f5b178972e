"""Drawings: which heads copy, and how scores are spread."""

from typing import TYPE_CHECKING

import numpy as np

from common.heads import Head

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(width: float, height: float, dark: bool) -> tuple["Figure", str, str]:
    """An empty figure on a transparent ground, and the colours of its lines and of its paper."""
    from matplotlib.figure import Figure

    ink, paper = ("#e4e6ea", "#15171a") if dark else ("#1d1f23", "#fcfcfa")
    return Figure((width, height), facecolor=(0, 0, 0, 0), layout="constrained"), ink, paper


def heads_picture(scores: np.ndarray, chosen: list[Head], dark: bool = False) -> "Figure":
    """Every head's retrieval score, shape [layers, heads], with the chosen ones outlined."""
    layers, heads = scores.shape
    figure, ink, _ = _figure(7, 1.2 + 4 * heads / layers, dark)
    axes = figure.subplots()
    image = axes.imshow(scores.T, cmap="magma" if dark else "magma_r", vmin=0, aspect="auto")
    axes.set_xlabel("layer", color=ink)
    axes.set_ylabel("head", color=ink)
    axes.tick_params(colors=ink)
    for layer, head in chosen:
        axes.add_patch(_outline(layer, head, ink))
    bar = figure.colorbar(image, ax=axes)
    bar.ax.tick_params(colors=ink)
    return figure


def _outline(layer: int, head: int, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((layer - 0.5, head - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=1.5)


def distributions_picture(domains: dict[str, tuple[np.ndarray, np.ndarray, float]], dark: bool = False) -> "Figure":
    """A histogram of AI_Score per domain (edges, counts), with the threshold of the selection."""
    figure, ink, _ = _figure(7, 0.6 + 1.1 * len(domains), dark)
    for axes, (name, (edges, counts, threshold)) in zip(
        figure.subplots(len(domains), squeeze=False, sharex=True)[:, 0], domains.items(), strict=True
    ):
        axes.stairs(counts, edges, fill=True, color="#8ab1f5" if dark else "#2b5fc4")
        axes.axvline(threshold, color=ink, linestyle="--", linewidth=1)
        axes.set_title(name, color=ink, fontsize=9, loc="left")
        axes.tick_params(colors=ink, labelsize=8)
        axes.patch.set_alpha(0)
    return figure
