"""How much of the true selection does a cheap predictor find? On the scored documents of pilot.py.

    python experiments/prefilter.py 'texts/*.jsonl.zst'        a few minutes on one core

Needs   experiments/results/pilot.parquet, from pilot.py and the same files; scikit-learn (requirements/eval.txt);
        fasttext, if it shall be compared
Writes  experiments/results/prefilter.json and prefilter.png

The true selection is the best fifth of each domain by AI_Score. Predictions are of documents held out in turn: a tenth,
or a fifth for the sizes of the pilot. Copies of a text are held out together.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from pilot import RESULT as PILOT
from pilot import cut, documents_of
from run_script import RESULTS, ROOT
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge

from common import cli
from common.pages.pictures import recall_picture, save_picture
from common.prefilter.features import FEATURES, KINDS, features_of
from common.prefilter.predictor import FAR, FOLDS, WEIGHTS, fit, held_out
from common.prefilter.price_list import Price, price
from common.text.corpus import hash_of

TOP_PCT, SCORED, RECALL, SEEDS, PARTS = 20, 0.4, 0.95, 5, 5
TOP = "__label__top"
HASHED = "hashed 3- to 5-grams of characters, ridge"
SIZES = (500, 2000, 5000)
GROUPS = {
    "length": ("bytes", "word_bytes"),
    "compression": ("compressed", "entropy"),
    "marks and letters": ("mark_", "upper", "digits", "not_ascii"),
    "kinds of words": ("all_", *(f"distinct_{kind}" for kind in KINDS)),
    "repeated words": ("distinct_words", "distinct_triples"),
}


def recalls(table: pd.DataFrame, predicted: np.ndarray) -> dict[str, Price]:
    """The price list of each domain."""
    columns = [table[name].to_numpy() for name in ("AI_Score", "num_tokens")]
    names = table["domain"].to_numpy()
    return {
        name: price(predicted[names == name], *(column[names == name] for column in columns), TOP_PCT)
        for name in table["domain"].unique().tolist()
    }


def shown(prices: dict[str, Price]) -> dict[str, dict]:
    """The recall of each domain where `SCORED` of its documents or tokens are scored, and the share for `RECALL`."""
    return {
        name: {
            **each.at(SCORED),
            "at_tokens": float(np.interp(SCORED, each.tokens, each.recall)),
            "share_for": each.share_for(RECALL),
        }
        for name, each in prices.items()
    }


def by_folds(table: pd.DataFrame, fitted: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    """Predictions of each fold by what `fitted` makes from the places of the other documents."""
    folds, predicted = table["fold"].to_numpy(), np.zeros(len(table))
    for fold in range(FOLDS):
        here = np.flatnonzero(folds == fold)
        predicted[here] = fitted(np.flatnonzero(folds != fold))(here)
    return predicted


def with_hashed_words(table: pd.DataFrame, analyzer: str, ngrams: tuple[int, int]) -> np.ndarray:
    """A ridge regression on hashed n-grams, for all domains."""
    hashed = HashingVectorizer(analyzer=analyzer, ngram_range=ngrams, n_features=2**18).transform(table["text"])
    ranks = table["rank"].to_numpy()

    def fitted(train: np.ndarray) -> Callable:
        model = Ridge().fit(hashed[train], ranks[train])
        return lambda places: model.predict(hashed[places])

    return by_folds(table, fitted)


def with_fasttext(table: pd.DataFrame) -> np.ndarray:
    """A fastText classifier of the best fifth, for all domains."""
    import fasttext

    lines = [" ".join(text.split()) for text in table["text"]]
    labels = np.where(table["rank"] > 0.5 - TOP_PCT / 100, TOP, "__label__rest")

    def fitted(train: np.ndarray) -> Callable:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.writelines(f"{labels[place]} {lines[place]}\n" for place in train)
            file.flush()
            model = fasttext.train_supervised(
                file.name, epoch=5, wordNgrams=2, dim=50, bucket=2**18, thread=1, verbose=0
            )
        return lambda places: np.array(
            [dict(zip(*model.predict(lines[place], k=2), strict=True))[TOP] for place in places]
        )

    return by_folds(table, fitted)


def with_boosting(table: pd.DataFrame, features: np.ndarray) -> np.ndarray:
    """Gradient boosting on the same features and the domain."""
    known = np.column_stack([features, table["domain"].astype("category").cat.codes])
    ranks = table["rank"].to_numpy()

    def fitted(train: np.ndarray) -> Callable:
        model = HistGradientBoostingRegressor(categorical_features=[known.shape[1] - 1], random_state=0)
        model.fit(known[train], ranks[train])
        return lambda places: model.predict(known[places])

    return by_folds(table, fitted)


def ngram_loss(table: pd.DataFrame) -> np.ndarray:
    """The loss in nats per character of a 5-gram model of characters, learnt from the texts of the other folds.

    Each 5-gram counts once more than it occurs.
    """
    longer, shorter = (
        HashingVectorizer(analyzer="char", ngram_range=(n, n), n_features=2**20, norm=None, alternate_sign=False)
        .transform(table["text"])
        .tocsr()
        for n in (5, 4)
    )
    different, lengths = len(set("".join(table["text"]))), np.asarray(longer.sum(axis=1)).ravel()

    def fitted(train: np.ndarray) -> Callable:
        seen, before = (np.asarray(counts[train].sum(axis=0))[0] for counts in (longer, shorter))
        gain, cost = np.log(seen + 1), np.log(before + different)
        # the last 4-gram of a text begins no 5-gram, which changes a loss by next to nothing
        return lambda places: (shorter[places] @ cost - longer[places] @ gain) / lengths[places]

    return by_folds(table, fitted)


def by_size(table: pd.DataFrame, features: np.ndarray) -> dict[int, dict[str, float]]:
    """The recall of each domain by the number of documents in the pilot: the mean over `SEEDS` pilots."""
    parts, ranks, names = table["fold"].to_numpy() % PARTS, table["rank"].to_numpy(), table["domain"].to_numpy(str)
    most, found = min(int((parts != part).sum()) for part in range(PARTS)), {}
    for size in (size for size in SIZES if size <= most):
        each = []
        for rng in map(np.random.default_rng, range(SEEDS)):
            predicted = np.zeros(len(table))
            for part in range(PARTS):
                train = rng.permutation(np.flatnonzero(parts != part))[:size]
                predictor = fit(features[train], ranks[train], names[train])
                for name in predictor.domains:
                    here = (parts == part) & (names == name)
                    predicted[here] = predictor(name, features[here])
            each.append(shown(recalls(table, predicted)))
        found[size] = {name: float(np.mean([one[name]["estimate"] for one in each])) for name in each[0]}
    return found


def across(table: pd.DataFrame, features: np.ndarray) -> dict[str, float]:
    """The recall in each domain by a predictor from the other domains; of the domain, only the texts are known."""
    names, ranks, found = table["domain"].to_numpy(str), table["rank"].to_numpy(), {}
    for name in np.unique(names).tolist():
        others = names != name
        predictor = fit(features[others], ranks[others], names[others])
        weights = np.mean([known[WEIGHTS] for known in predictor.domains.values()], axis=0)
        own = features[~others]
        predicted = ((own - own.mean(axis=0)) / (own.std(axis=0) + 1e-9)).clip(-FAR, FAR) @ weights
        found[name] = shown(recalls(table[~others], predicted))[name]["estimate"]
    return found


def by_features(table: pd.DataFrame, features: np.ndarray) -> dict[str, dict[str, float]]:
    """The recall of each domain with other features and predictors."""
    ranks, names, folds = table["rank"].to_numpy(), table["domain"].to_numpy(str), table["fold"].to_numpy()

    def linear(chosen: np.ndarray) -> np.ndarray:
        return held_out(chosen, ranks, names, folds)

    found = {"all": linear(features)}
    for group, beginnings in GROUPS.items():
        among = np.array([name.startswith(beginnings) for name in FEATURES])
        found |= {f"only {group}": linear(features[:, among]), f"without {group}": linear(features[:, ~among])}
    found["hashed words and pairs, ridge"] = with_hashed_words(table, "word", (1, 2))
    found[HASHED] = with_hashed_words(table, "char_wb", (3, 5))
    found[f"all, and a quarter of {HASHED}"] = (
        found["all"] / found["all"].std() + found[HASHED] / found[HASHED].std() / 4
    )
    try:
        found["fastText"] = with_fasttext(table)
    except ModuleNotFoundError:
        print("without fastText: it is not installed")
    found["all, gradient boosting"] = with_boosting(table, features)
    found["all, and the loss of a 5-gram model of characters"] = linear(np.column_stack([features, ngram_loss(table)]))
    found["L_base alone"] = -table["L_base"].to_numpy()
    found["all, and L_base"] = linear(np.column_stack([features, table["L_base"]]))
    found |= {f"score of the first {n} tokens": table[f"AI_Score_first_{n}"].to_numpy() for n in (64, 128, 256)}
    return {
        what: {name: each["estimate"] for name, each in shown(recalls(table, predicted)).items()}
        for what, predicted in found.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="+", help="the files that were given to pilot.py")
    texts = {
        (each.domain, each.id): cut(each.text)
        for all_ in documents_of(parser.parse_args(argv).files).values()
        for each in all_
    }
    os.chdir(ROOT)
    table = pd.read_parquet(PILOT)
    table["text"] = [texts[key] for key in zip(table["domain"], table["id"], strict=True)]
    table["fold"] = [hash_of(text.encode()) % FOLDS for text in table["text"]]
    table["rank"] = table.groupby("domain")["AI_Score"].rank(pct=True) - 0.5
    features = features_of(table["text"].tolist())
    predicted = held_out(features, *(table[name].to_numpy() for name in ("rank", "domain", "fold")))
    prices = recalls(table, predicted)
    save_picture(recall_picture(prices, TOP_PCT), RESULTS / "prefilter.png")
    about = {"documents": len(table), "tokens": int(table["num_tokens"].sum()), "scored": SCORED, "top_pct": TOP_PCT}
    result = {**about, "domains": shown(prices)}
    for name, measured in (("across", across), ("by_size", by_size), ("by_features", by_features)):
        result[name] = measured(table, features)
        print(name, result[name], flush=True)
    (RESULTS / "prefilter.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
