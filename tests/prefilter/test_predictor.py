"""The linear predictor: what it learns, holds out, writes and reads."""

import json

import numpy as np
import pytest

from common.errors import InputError
from common.prefilter.features import FEATURES, features_of
from common.prefilter.predictor import Predictor, fit, held_out
from tests.prefilter.conftest import repeats, text_of

RNG = np.random.default_rng(0)
FEATURES_OF = RNG.normal(3, 2, (600, len(FEATURES)))
DOMAINS = np.array(["up", "down", "up2"] * 200)
# One feature counts in all domains, with the other sign in `down`; a second is the same everywhere.
SIGNS = np.where(DOMAINS == "down", -1, 1)
RANKS = np.clip((SIGNS * (FEATURES_OF[:, 0] - 3) + FEATURES_OF[:, 1] - 3) / 12, -0.5, 0.5)


def test_common_and_own_parts_of_a_rank_are_learnt():
    predicted = held_out(FEATURES_OF, RANKS, DOMAINS, np.arange(600) % 10)
    for name in ("up", "down", "up2"):
        assert np.corrcoef(predicted[name == DOMAINS], RANKS[name == DOMAINS])[0, 1] > 0.9


def test_a_fold_is_predicted_without_its_documents():
    noise = RNG.normal(size=600) / 4
    folds = np.arange(600) % 10
    same = held_out(np.zeros_like(FEATURES_OF), noise, DOMAINS, folds)
    assert abs(same).max() < 1e-6  # features that say nothing
    changed = np.where(folds == 3, -RANKS, RANKS)
    before, after = (held_out(FEATURES_OF, ranks, DOMAINS, folds)[folds == 3] for ranks in (RANKS, changed))
    np.testing.assert_array_equal(before, after)


def test_a_feature_that_is_the_same_in_a_domain_says_nothing_there():
    plain = [text_of(number) for number in range(400)]
    texts = plain[:200] + [text + " {" * (number % 20) for number, text in enumerate(plain[200:])]
    domains = np.repeat(["a", "b"], 200)
    ranks = np.append([repeats(text) for text in plain[:200]], np.arange(200) % 20 / 20)
    ranks -= np.repeat([ranks[:200].mean(), ranks[200:].mean()], 200)
    predictor = fit(features_of(texts), ranks, domains)
    low = sorted(plain[:200], key=lambda text: predictor("a", features_of([text])))[16]  # the 8th percentile
    after = predictor("a", features_of([low + " {"]))
    others = predictor("a", features_of(plain[:200]))
    assert np.mean(others < after) < 0.2
    assert predictor("b", features_of([low + " {"])) > predictor("b", features_of([low]))


def test_what_is_written_predicts_the_same(tmp_path):
    predictor = fit(FEATURES_OF, RANKS, DOMAINS)
    predictor.write(tmp_path / "p.json")
    again = Predictor.read(tmp_path / "p.json")
    assert again.domains.keys() == {"up", "down", "up2"}
    for name in again.domains:
        np.testing.assert_array_equal(again(name, FEATURES_OF), predictor(name, FEATURES_OF))
        assert predictor(name, FEATURES_OF).dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["features"].pop(),
        lambda found: found["domains"]["up"]["mean"].pop(),
        lambda found: found["domains"]["up"].update(weights=["x"] * len(FEATURES)),
        lambda found: found["domains"]["up"].update(scale=[float("nan")] * len(FEATURES)),
        lambda found: found.update(domains=[]),
    ],
)
def test_what_is_no_predictor_is_refused(tmp_path, change):
    fit(FEATURES_OF, RANKS, DOMAINS).write(tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())
    change(found)
    (tmp_path / "p.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"p\.json: not a predictor of this version"):
        Predictor.read(tmp_path / "p.json")
