"""Heads: their names, their files, and the choice of the best."""

import numpy as np
import pytest

from common.errors import InputError
from common.model.heads import (
    Head,
    choose_heads,
    concentration,
    read_head_scores,
    read_heads,
    write_head_scores,
    write_heads,
)


@pytest.mark.parametrize(
    ("shape", "percent", "count"),
    [
        ((30, 9), 5.0, 14),
        ((24, 20), 5.0, 24),
        ((30, 9), 100.0, 270),
        ((30, 9), 0.001, 1),
        ((10, 10), 7.0, 7),
        # 0.07 * 100 and 0.29 * 100 are a little more or less in binary
        ((10, 10), 29.0, 29),
        ((100, 100), 0.29, 29),
        ((2, 5), 10.1, 2),
    ],
)
def test_the_share_of_heads_is_rounded_up(shape, percent, count):
    scores = np.random.default_rng(0).permutation(shape[0] * shape[1]).reshape(shape) / 1e6
    chosen = choose_heads(scores, percent)
    ranked = sorted(np.ndindex(shape), key=lambda head: -scores[head])
    assert chosen == ranked[:count]


def test_ties_go_by_layer_and_head():
    scores = np.zeros((3, 4))
    scores[2, 1] = scores[1, 3] = scores[1, 0] = 0.5
    scores[0, 3] = 0.6
    assert choose_heads(scores, 50) == [(0, 3), (1, 0), (1, 3), (2, 1), (0, 0), (0, 1)]


def test_the_concentration_is_the_share_of_the_best_twentieth():
    scores = np.full((4, 10), 0.01)
    assert concentration(scores) == pytest.approx(2 / 40)
    scores[3, 4], scores[0, 9] = 0.4, 0.22
    assert concentration(scores) == pytest.approx(0.62 / (0.62 + 38 * 0.01))


def test_heads_are_written_and_read(tmp_path):
    path = tmp_path / "heads.txt"
    heads = [Head(3, 7), Head(0, 0), Head(2, 1)]
    write_heads(path, heads)
    assert path.read_text() == "3,7\n0,0\n2,1\n"
    assert read_heads(path, (4, 8)) == heads
    path.write_text("3, 7\r\n\r\n0,0")
    assert read_heads(path, (4, 8)) == [(3, 7), (0, 0)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("4,0", "4,0 is outside"),
        ("0,8", "0,8 is outside"),
        ("-1,0", "outside"),
        ("0,-1", "outside"),
        ("1", "not `layer,head`"),
        ("1,2,3", "not `layer,head`"),
        ("1.0,2", "not `layer,head`"),
        ("a,b", "not `layer,head`"),
        ("layer,head", "not `layer,head`"),
        ("1;2", "not `layer,head`"),
        ("0,1", "twice"),
    ],
)
def test_a_bad_line_of_heads_is_named(tmp_path, line, says):
    path = tmp_path / "heads.txt"
    path.write_text(f"0,1\n\n{line}\n2,2\n")
    with pytest.raises(InputError) as raised:
        read_heads(path, (4, 8))
    assert str(raised.value).startswith(f"{path}:3: ")
    assert says in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe1,2"])
def test_a_file_without_heads_is_refused(tmp_path, content):
    path = tmp_path / "heads.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"heads\.txt: "):
        read_heads(path, (4, 8))


def test_every_head_s_score_is_written_best_first(tmp_path):
    path = tmp_path / "scores.tsv"
    write_head_scores(path, np.array([[0.25, 0.0], [1 / 3, 0.25]]), [(1, 0)])
    assert path.read_text().splitlines() == [
        "layer\thead\tretrieval_score\tselected",
        "1\t0\t0.333333\tTrue",
        "0\t0\t0.250000\tFalse",
        "1\t1\t0.250000\tFalse",
        "0\t1\t0.000000\tFalse",
    ]


def test_heads_come_back_as_they_were_written(tmp_path):
    scores = np.random.default_rng(0).random((3, 5)).round(6)
    write_head_scores(tmp_path / "heads.tsv", scores, [(1, 2), (0, 4)])
    found, chosen = read_head_scores(tmp_path / "heads.tsv")
    assert np.array_equal(found, scores)
    assert chosen == sorted([(1, 2), (0, 4)], key=lambda head: -scores[head])
