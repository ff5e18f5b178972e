"""What a share of the corpus costs: how much of the true selection is in the documents of the highest predictions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import beta

from common.files import atomic

SHARES = np.arange(1, 101) / 100
STEP = 5  # of them for each line of the table
RESAMPLED, SEED = 400, 0
LOWEST, HIGHEST = 5, 95  # percentiles of the band: below its lower edge is the truth in 5 % of cases
CHANCE = "the predictor is no better than chance"


@dataclass(frozen=True)
class Price:
    """The price list of a domain, at `SHARES`.

    Attributes:
        documents: of the pilot, held out in turn.
        tokens: the share of the domain's tokens that is scored.
        recall, low, high: of the true selection, and its band.
        gain: the mean recall above that of a choice at random.
        gain_low: the lower edge of its band.
    """

    documents: int
    tokens: list[float]
    recall: list[float]
    low: list[float]
    high: list[float]
    gain: float
    gain_low: float

    @property
    def is_chance(self) -> bool:
        """Whether the predictor may be no better than a choice at random."""
        return self.gain_low <= 0

    def sentence(self, share: float) -> str:
        """What a share costs and saves."""
        tokens, found = float(np.interp(share, SHARES, self.tokens)), self.at(share)
        lost, most, least = (f"{1 - found[name]:.0%}" for name in ("estimate", "low", "high"))
        return (
            f"score {share:.0%} of the documents, lose {lost} ({least} to {most}) of the selection, save "
            f"{1 - tokens:.0%} of the tokens"
        )

    def share_for(self, recall: float) -> float:
        """The smallest share at which the lower edge of the band reaches a recall; 1 if none does."""
        return float(next((share for share, low in zip(SHARES, self.low, strict=True) if low >= recall), 1.0))

    def at(self, share: float) -> dict[str, float]:
        """Recall and its band at a share."""
        edges = {"estimate": self.recall, "low": self.low, "high": self.high}
        return {name: float(np.interp(share, [0, *SHARES], [0, *edge])) for name, edge in edges.items()}


def write_price_list(path: Path, prices: dict[str, Price]) -> None:
    """Write, as TSV, a line for each domain and each twentieth of its documents."""
    columns = ("tokens", "recall", "low", "high")
    with atomic(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        print("domain", "share", *columns, sep="\t", file=file)
        for name, each in prices.items():
            for place in range(STEP - 1, len(SHARES), STEP):
                values = (getattr(each, column)[place] for column in columns)
                print(name, f"{SHARES[place]:.2f}", *(f"{value:.4f}" for value in values), sep="\t", file=file)


def price(predicted: np.ndarray, scores: np.ndarray, tokens: np.ndarray, top_pct: float) -> Price:
    """The price list of one domain; documents are drawn again `RESAMPLED` times for the bands.

    Args:
        predicted: of held-out documents.
        scores: their true scores; the `top_pct` % highest, rounded up, are the true selection.
        tokens: that are scored of each document.
    """
    num = len(scores)
    by_chance = np.random.default_rng(SEED).permutation(num)  # of equal predictions, not the order of equal scores
    orders = np.lexsort((by_chance, -predicted)), np.argsort(-scores, kind="stable")
    recall, kept_tokens = _curve(orders, np.ones(num), tokens, top_pct)
    rng = np.random.default_rng(SEED)
    drawn = (np.bincount(rng.integers(num, size=num), minlength=num) for _ in range(RESAMPLED))
    curves = np.stack([_curve(orders, weights, tokens, top_pct)[0] for weights in drawn])
    low, high = np.percentile(curves, [LOWEST, HIGHEST], axis=0)
    low[:-1] = np.minimum(low, _least(recall, _rounded_up(top_pct / 100 * num)))[:-1]
    gains = curves.mean(axis=1) - SHARES.mean()
    gain = float(recall.mean() - SHARES.mean())
    edges = [each.round(6).tolist() for each in (kept_tokens, recall, low, high)]
    return Price(num, *edges, gain, float(np.percentile(gains, LOWEST)))


def _curve(
    orders: tuple[np.ndarray, np.ndarray], weights: np.ndarray, tokens: np.ndarray, top_pct: float
) -> tuple[np.ndarray, np.ndarray]:
    """Recall, and the share of the tokens, at `SHARES`.

    Args:
        orders: of the documents by prediction and by score, best first.
        weights: how often each document counts.
    """
    by_prediction, by_score = orders
    total = weights.sum()
    top = np.zeros(len(weights))
    before = np.cumsum(weights[by_score]) - weights[by_score]
    top[by_score] = np.clip(_rounded_up(top_pct / 100 * total) - before, 0, weights[by_score])
    limits = _rounded_up(SHARES * total)
    places = np.cumsum(weights[by_prediction])
    found, kept_tokens = (
        np.interp(limits, np.append(0, places), np.append(0, np.cumsum(amounts[by_prediction]))) / amounts.sum()
        for amounts in (top, tokens * weights)
    )
    return found, kept_tokens


def _least(recall: np.ndarray, top: float) -> np.ndarray:
    """The lower edge (Clopper-Pearson) of a share of which so much was found in a sample of `top` documents.

    Samples with replacement of a selection that was found whole are found whole too, so they have no lower edge.
    """
    found = recall * top
    return np.nan_to_num(beta.ppf(LOWEST / 100, found, top - found + 1))


def _rounded_up(numbers: np.ndarray | float) -> np.ndarray | float:
    return np.ceil(np.round(numbers, 6))
