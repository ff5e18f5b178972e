"""What does it cost the order of the documents to score long ones in part (--score_tokens)? On your own texts.

    python experiments/score_tokens.py 'texts/*.jsonl.zst'        10 to 20 minutes on two cores, in bfloat16 with AMX

Needs   a base model and its reference (bash pipeline.sh); files of documents, one for each domain, named after it
Writes  experiments/results/score_tokens.json and .png; python docs/fill_tables.py puts the table into docs/results.md

Python's own library is a domain of its own, code. Of each domain, documents at random that have TOKENS[1] tokens or
more are cut to lengths between TOKENS[0] and that, each doubling of which is equally likely; the lengths are the same
in all domains. Each is scored whole, on its first N tokens and N from a random place, as --score_tokens does it, and on
its first 2N, which are as many; a shorter one is scored whole. A score in part then chooses a fifth of a domain, or
what is scored whole before a fifth is chosen from that: which share of the true top fifth is kept? And if both choose
inside fifths of length, as rank_scores.py --within num_tokens:5 does?
"""

import json
import math
import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from matplotlib.figure import Figure
from pilot import documents_of
from run_script import RESULTS, ROOT
from scipy.stats import spearmanr

from common import cli
from common.files import as_path, claim, expand, read_json, write_json
from common.model.checkpoints import Runtime
from common.pages.pictures import save_picture
from common.scoring.pair import Pair, PairOptions, load_pair
from common.shards.documents import Document

TOKENS, TOP, STRATA = (256, 1536), 0.2, 5
PARTS = (64, 128, 256)
KEPT = (TOP, 0.4, 0.6)
DRAWS = 1000
RESULT = RESULTS / "score_tokens.json"


def mixed_documents(texts: list[str], pair: Pair, count: int) -> list[Document]:
    """Documents at random that are long enough, cut to lengths at random; without a separator."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(*np.log(TOKENS), count)).astype(int)
    found = (pair.tokenizer.encode(texts[place]) for place in rng.permutation(len(texts)))
    long = islice((ids for ids in found if len(ids) >= TOKENS[1]), count)
    separator = pair.tokenizer.separator_id
    return [Document("", 0, np.array(ids[:end]), separator, "") for ids, end in zip(long, lengths, strict=False)]


def scores(pair: Pair, document: Document) -> dict[str, float]:
    """The length of a document, and its AI_Score by each way to score it."""
    bos_id = pair.tokenizer.bos_id
    whole = pair.scorer.score(list(document.windows(TOKENS[1], bos_id)))
    targets = document.targets(len(whole.base))
    found = {"tokens": len(document), "whole": whole.means().AI_Score}
    for count in PARTS:
        windows = list(document.in_part(count).windows(TOKENS[1], bos_id))
        found[f"first {count} and {count}"] = pair.scorer.score(windows).means().AI_Score
        # no later token changes the losses of the first ones
        found[f"first {2 * count}"] = whole.of(targets < 2 * count).means().AI_Score
    return found


def all_scores(pair: Pair, patterns: list[str], count: int, work: Path) -> dict[str, dict[str, list[float]]]:
    """By domain and way, the score of each document; a stopped run continues after its last document."""
    found = {}
    for domain, texts in documents_of(patterns).items():
        documents, of_domain = mixed_documents([each.text for each in texts], pair, count), []
        for number, document in enumerate(cli.progress(len(documents), domain, "documents", documents)):
            done = work / f"{domain}-{number}.json"
            if not done.exists():
                write_json(done, scores(pair, document))
            of_domain.append(read_json(done))
        found[domain] = {name: [round(each[name], 6) for each in of_domain] for name in of_domain[0]}
    return found


def best(values: np.ndarray, share: float) -> np.ndarray:
    """Whether each is among the best, a share of all, rounded up."""
    return values >= np.sort(values)[-math.ceil(share * len(values))]


def best_within(values: np.ndarray, lengths: np.ndarray, share: float) -> np.ndarray:
    """Whether each is among the best of those of like length."""
    found = np.zeros(len(values), bool)
    for group in np.array_split(np.argsort(lengths, kind="stable"), STRATA):
        found[group] = best(values[group], share)
    return found


def recall(true: np.ndarray, kept: np.ndarray) -> float:
    """The share of the true ones that is kept."""
    return float((true & kept).sum() / true.sum())


def read_share(lengths: np.ndarray, count: int, kept: np.ndarray | None = None) -> float:
    """The share of all tokens that the models read: `count` of each document, and what is kept whole after that."""
    again = 0 if kept is None else lengths[kept & (lengths > count)].sum()
    return float((lengths.clip(max=count).sum() + again) / lengths.sum())


def figures(of_domain: dict[str, np.ndarray], way: str) -> dict[str, float]:
    """The rank correlation of a way with the whole score in a domain, its recalls, and the shares of tokens read."""
    lengths, whole, part = (of_domain[name] for name in ("tokens", "whole", way))
    count, true = read_by(way), best(whole, TOP)
    found = {"spearman": float(spearmanr(whole, part).statistic), "read": read_share(lengths, count)}
    found["within"] = recall(best_within(whole, lengths, TOP), best_within(part, lengths, TOP))
    for share in KEPT:
        kept = best(part, share)
        found[f"recall {share}"] = recall(true, kept)
        found[f"read {share}"] = read_share(lengths, count, kept)
    return found


def read_by(way: str) -> int:
    """How many tokens of a document a way reads: the sum of the numbers in its name."""
    return sum(int(word) for word in way.split() if word.isdigit())


def summary(by_domain: dict[str, dict[str, np.ndarray]]) -> dict[str, dict]:
    """For each way to score in part, figures by domain, and 90 % bands of their means by a bootstrap over documents."""
    found, rng = {}, np.random.default_rng(0)
    for way in (name for name in next(iter(by_domain.values())) if name.startswith("first")):
        domains = {domain: figures(of, way) for domain, of in by_domain.items()}
        drawn = []
        for _draw in range(DRAWS):
            again = [figures(redrawn(of, rng), way) for of in by_domain.values()]
            drawn.append({name: np.mean([each[name] for each in again]) for name in again[0]})
        bands = {name: np.percentile([each[name] for each in drawn], [5, 95]).round(4).tolist() for name in drawn[0]}
        rounded = {domain: {name: round(value, 4) for name, value in each.items()} for domain, each in domains.items()}
        found[way] = {"domains": rounded, "bands": bands}
    return found


def redrawn(of_domain: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As many documents, drawn with replacement; a trifle is added to each score, so that no two are equal."""
    places = rng.integers(0, len(of_domain["whole"]), len(of_domain["whole"]))
    trifle = 1e-9 * np.arange(len(places))
    return {name: values[places] + (0 if name == "tokens" else trifle) for name, values in of_domain.items()}


def draw(by_domain: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """The recall, mean of the domains, against the share of the tokens that goes through the models."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shares = np.linspace(TOP, 1, 41)
    ways = [name for name in next(iter(by_domain.values())) if name.startswith("first")]
    for way in ways:
        costs, recalls = [], []
        for share in shares:
            kept = [(of, best(of[way], share)) for of in by_domain.values()]
            costs.append(np.mean([read_share(of["tokens"], read_by(way), each) for of, each in kept]))
            recalls.append(np.mean([recall(best(of["whole"], TOP), each) for of, each in kept]))
        axes.plot(costs, recalls, "-" if "and" in way else ":", label=way)
    axes.plot(shares, shares, color="gray", linewidth=0.8, label="at random")
    axes.set(
        xlabel="share of all tokens that the models read: of all documents in part, then of what is kept whole",
        ylabel="share of the true top fifth that is kept",
        xlim=(TOP, 1),
    )
    axes.legend(title="scored in part, tokens")
    save_picture(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="+", help="files or globs, one file for each domain")
    parser.add_argument("--documents", type=cli.positive_int, default=60, help="of each domain")
    parser.add_argument("--base_model", default=str(ROOT / "data/SmolLM2-135M-Instruct"), help="name or folder")
    parser.add_argument("--reference_model", default=str(ROOT / "reference-model"), help="its masked copy")
    parser.add_argument("--work", type=as_path, default=ROOT / "data/score_tokens", help="finished scores")
    parser.add_argument("--out", type=as_path, default=RESULT, help="the result, .json; a picture next to it")
    args = parser.parse_args(argv)
    paths = expand(args.files)
    models = {"base_model": args.base_model, "reference_model": args.reference_model}
    claim(args.work / "run.json", {**models, "tokens": TOKENS, "files": list(map(str, paths))}, False, "*-*.json")
    pair = load_pair(PairOptions(**models, seq_len=TOKENS[1], runtime=Runtime("cpu", "bfloat16")))
    found = all_scores(pair, args.files, args.documents, args.work)
    by_domain = {domain: {name: np.array(each) for name, each in of.items()} for domain, of in found.items()}
    counts = {domain: len(of["whole"]) for domain, of in found.items()}
    result = {"tokens": TOKENS, "documents": counts, "ways": summary(by_domain), "scores": found}
    args.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    draw(by_domain, args.out.with_suffix(".png"))
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
