"""Whether the model is good enough."""

import numpy as np
import pytest

from common.errors import InputError
from common.files import write_json
from common.model.heads import Head
from common.model.reference import Check, read_check
from common.pages.verdict import judge

SCORES = np.array([[0.6, 0.0], [0.1, 0.3]])
HEADS = [Head(0, 0), Head(1, 1)]


@pytest.mark.parametrize(
    ("base", "masked", "random", "answer"),
    [
        (0.96, 0.33, [0.59, 0.91, 0.96], "Yes"),
        (0.96, 0.48, [0.01, 0.49, 0.96], "Yes"),  # single draws may fall
        (0.49, 0.0, [0.49], "No: the model itself"),
        (0.96, 0.49, [0.9], "No: the model still copies"),
        (0.96, 0.1, [0.2, 0.48, 0.9], "Doubtful"),
    ],
)
def test_the_verdict_follows_its_rule(base, masked, random, answer):
    found = judge(Check(8, base, masked, random), SCORES, HEADS, "reference", "")
    assert found["verdict"].startswith(answer)
    assert "at least half" in found["rule"]
    shares = [share for share, _ in found["shares"]]
    assert shares == pytest.approx([base, masked, np.median(random), 0.9])
    assert f"median of {len(random)} draws" in found["shares"][2][1]
    assert found["shares"][3][1].endswith("2 masked of 4 heads")


def test_without_a_check_the_page_says_what_to_run():
    found = judge(None, SCORES, HEADS, "reference", "python make_reference_model.py …")
    assert found["verdict"].startswith("Not known: there is no reference/causal_check.json")
    assert found["command"] == "python make_reference_model.py …"
    assert [share for share, _ in found["shares"]] == pytest.approx([0.9])


CHECK = {"probes": 8, "base": 0.9, "masked": 0.3, "random": [0.8]}


def test_a_check_is_read_and_a_damaged_one_is_refused_by_name(tmp_path):
    assert read_check(tmp_path) is None
    write_json(tmp_path / "causal_check.json", CHECK)
    assert read_check(tmp_path) == (8, 0.9, 0.3, [0.8])
    for damage in ({"random": []}, {"base": "high"}, {"masked": 3}, {"random": None}, {"seed": 1}):
        write_json(tmp_path / "causal_check.json", CHECK | damage)
        with pytest.raises(InputError, match=rf"^{tmp_path}/causal_check\.json: not a causal check.*--probes"):
            read_check(tmp_path)
