"""A linear predictor of a document's rank within its domain, and how it is stored: JSON that anyone can read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import read_json, write_json
from common.prefilter.features import FEATURES

RIDGE = 100.0  # how firmly weights are held at 0, and those of a domain at the common ones
FAR = 4.0  # standard deviations, at which features are cut
SAME = 1e-12  # the standard deviation, at most, of a feature that is the same in all documents
FOLDS = 10
MEAN, SCALE, WEIGHTS = range(3)
PREDICTOR = "predictor.json"


@dataclass(frozen=True)
class Predictor:
    """Predicts ranks from features.

    Attributes:
        domains: by name, mean and standard deviation of each feature, and its weight; shape [3, num_features].
    """

    domains: dict[str, np.ndarray]

    def __call__(self, domain: str, features: np.ndarray) -> np.ndarray:
        """The predicted rank of documents of a known domain, 0 in the middle and best highest; float32."""
        known = self.domains[domain]
        return (_standardized(features, known) @ known[WEIGHTS]).astype(np.float32)

    def write(self, path: Path) -> None:
        """Write the predictor as JSON."""
        domains = {
            name: dict(zip(("mean", "scale", "weights"), known.tolist(), strict=True))
            for name, known in self.domains.items()
        }
        write_json(path, {"features": FEATURES, "domains": domains})

    @classmethod
    def read(cls, path: Path) -> "Predictor":
        """Read what `write` wrote; InputError if it is something else."""
        found = read_json(path)
        try:
            domains = {
                name: np.array([known["mean"], known["scale"], known["weights"]], float)
                for name, known in found["domains"].items()
            }
            whole = all(each.shape == (3, len(FEATURES)) and np.isfinite(each).all() for each in domains.values())
        except (AttributeError, KeyError, TypeError, ValueError):
            whole = False
        if not whole or found.get("features") != json.loads(json.dumps(FEATURES)):
            raise InputError(f"{path}: not a predictor of this version; make it with prefilter_scores.py learn")
        return cls(domains)


def fit(features: np.ndarray, ranks: np.ndarray, domains: np.ndarray) -> Predictor:
    """A ridge regression on all documents, and one for each domain on what is left of its ranks.

    A feature that is the same in all documents of a domain has weight 0 there.

    Args:
        features: as `features_of` gives them.
        ranks: of documents within their domain, with mean 0.
        domains: their names.
    """
    known = {}
    standard = np.empty_like(features)
    for name in np.unique(domains).tolist():
        own = features[domains == name]
        scale = own.std(axis=0)
        varies = scale > SAME
        known[name] = np.stack([own.mean(axis=0), np.where(varies, scale, 1), varies])
        standard[domains == name] = _standardized(own, known[name])
    common = _ridge(standard, ranks)
    left = ranks - standard @ common
    for name, each in known.items():
        each[WEIGHTS] *= common + _ridge(standard[domains == name], left[domains == name])
    return Predictor(known)


def held_out(features: np.ndarray, ranks: np.ndarray, domains: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The rank of each document as predicted from the documents of the other folds; float32.

    Args:
        folds: the fold of each document; equal texts must share one.
    """
    predicted = np.zeros(len(ranks), np.float32)
    for fold in np.unique(folds):
        others = folds != fold
        predictor = fit(features[others], ranks[others], domains[others])
        for name in predictor.domains:
            here = ~others & (domains == name)
            predicted[here] = predictor(name, features[here])
    return predicted


def _standardized(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.clip((features - known[MEAN]) / known[SCALE], -FAR, FAR)


def _ridge(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    penalty = RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(features.T @ features + penalty, features.T @ wanted)
