"""What the pictures show is what they were given."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from common.pages.pictures import distributions_picture, heads_picture, loss_picture, repetition_picture, save_picture

NONE = np.array([], int)


def test_the_heads_picture_shows_every_score_and_outlines_the_chosen():
    scores = np.random.default_rng(0).random((5, 3))
    axes = heads_picture(scores, [(4, 2), (0, 1)]).axes[0]
    assert np.array_equal(axes.images[0].get_array(), scores.T)
    assert [tuple(np.add(patch.get_xy(), 0.5)) for patch in axes.patches] == [(4, 2), (0, 1)]


def test_distributions_hold_every_document_and_the_threshold():
    rng = np.random.default_rng(0)
    scores, counts, left_out = rng.normal(size=500), rng.integers(1, 9, 500), rng.integers(0, 2, 500)
    figure = distributions_picture(
        {
            "a": (scores, counts, left_out, 0.7),
            "none": (np.array([]), NONE, NONE, None),
            "all left out": (scores[:3], np.zeros(3, int), np.ones(3, int), None),
        }
    )
    axes, none, gone = figure.axes
    for container, wanted in zip(axes.containers, (counts, left_out), strict=True):
        assert sum(patch.get_height() for patch in container) == wanted.sum()
    ranked, grey = (container[0].get_facecolor() for container in axes.containers)
    assert np.ptp(grey[:3]) < 0.1 < np.ptp(ranked[:3])
    assert axes.lines[0].get_xdata()[0] == 0.7
    assert axes.get_title() == f"a: {counts.sum():,} documents + {left_out.sum():,} left out, threshold 0.700"
    assert not none.patches and not gone.lines
    assert sum(patch.get_height() for patch in gone.patches) == 3


@pytest.mark.parametrize("documents", [1, 2, 7, 24, 5000])
def test_few_documents_have_few_bars_and_whole_numbers(tmp_path, documents):
    scores = np.random.default_rng(0).normal(size=documents)
    spread = (scores, np.ones(documents, int), np.zeros(documents, int), 0.0)
    figure = distributions_picture({"a": spread})
    save_picture(figure, tmp_path / "x.png")
    [axes] = figure.axes
    assert len(axes.containers[0]) == {1: 1, 2: 1, 7: 3, 24: 7, 5000: 40}[documents]
    assert all(float(tick).is_integer() for tick in axes.get_yticks())


@pytest.mark.parametrize(("points", "marker"), [(1, "o"), (3, "None")])
def test_a_curve_of_one_point_can_be_seen(points, marker):
    figure = loss_picture([{"tokens": 100 * n, "loss": 3.0} for n in range(points)])
    assert figure.axes[0].lines[0].get_marker() == marker


def test_one_score_for_all_is_drawn_too_and_a_name_is_no_formula(tmp_path):
    save_picture(
        distributions_picture({r"a $\b$_": (np.array([0.5]), np.array([7]), np.array([0]), 0.5)}), tmp_path / "x.png"
    )
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_scores_as_large_as_floats_are_drawn_too(tmp_path):
    scores = np.array([-1.7e308, 0.5, 1.7e308])
    spread = (scores, np.array([1, 1, 1]), np.array([0, 1, 0]), 1.7e308)
    save_picture(distributions_picture({"a": spread}), tmp_path / "x.png")
    sample = pd.DataFrame({"repetition": scores, "AI_Score": scores, "kept": [True, False, True]})
    save_picture(repetition_picture({"a": sample}), tmp_path / "y.png")
    assert (tmp_path / "y.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
def test_a_loss_is_drawn_before_its_first_point():
    assert loss_picture([]).axes[0].get_legend() is None


def test_repetition_is_shown_with_spearmans_correlation_before_and_after(tmp_path):
    rng = np.random.default_rng(0)
    sample = pd.DataFrame({"repetition": rng.random(300).round(1)})
    sample["AI_Score"] = sample["repetition"] + rng.normal(0, 0.3, 300)
    sample["kept"] = sample["repetition"] <= 0.3
    figure = repetition_picture({"a": sample, "one": sample.head(1)})
    kept = sample[sample["kept"]]
    before, after = (scipy.stats.spearmanr(rows["repetition"], rows["AI_Score"]).statistic for rows in (sample, kept))
    assert figure.axes[0].get_title() == f"a: ρ {before:.2f}, of the ranked {after:.2f}"
    assert figure.axes[1].get_title() == "one: ρ –, of the ranked –"
    left_out, ranked = (points.get_offsets() for points in figure.axes[0].collections)
    assert np.array_equal(ranked, kept[["repetition", "AI_Score"]])
    assert len(left_out) + len(ranked) == 300
    save_picture(figure, tmp_path / "x.png")
