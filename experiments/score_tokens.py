"""What does it cost the order of the documents to score long ones in part (--score_tokens)? On your own texts.

    python experiments/score_tokens.py 'texts/*.jsonl.zst'        10 to 20 minutes on two cores, in bfloat16 with AMX

Needs   a base model and its reference (bash pipeline.sh); files of documents, one for each domain, named after it
Writes  experiments/results/score_tokens.json and .png; python docs/fill_tables.py puts the table into docs/results.md

Python's own library is a domain of its own, code. The first documents of each domain that have TOKENS tokens or more
are cut to TOKENS. Each is scored whole, on its first N tokens, and on its first N and N from a random place, as
--score_tokens does it. The losses of the first tokens are those of the whole document, because no later token changes
them. A cheap score then chooses a fifth of a domain, or what is scored whole before a fifth is chosen from that: which
share of the true top fifth is kept?
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

TOKENS, TOP = 1536, 0.2
FIRST, PARTS = (64, 128, 256, 512), (64, 128, 256)
KEPT = (0.2, 0.4, 0.6)
RESULT = RESULTS / "score_tokens.json"


def long_documents(texts: list[str], pair: Pair, count: int) -> list[Document]:
    """The first documents that are long enough, cut; without a separator."""
    found = (pair.tokenizer.encode(text) for text in texts)
    long = islice((ids[:TOKENS] for ids in found if len(ids) >= TOKENS), count)
    return [Document("", 0, np.array(ids), pair.tokenizer.separator_id, "") for ids in long]


def scores(pair: Pair, document: Document) -> dict[str, float]:
    """AI_Score of a document by each way to score it."""
    bos_id = pair.tokenizer.bos_id
    whole = pair.scorer.score(list(document.windows(TOKENS, bos_id)))
    targets = document.targets(len(whole.base))
    found = {"whole": whole.means().AI_Score}
    for count in FIRST:
        found[f"first {count}"] = whole.of(targets < count).means().AI_Score
    for count in PARTS:
        windows = list(document.in_part(count).windows(TOKENS, bos_id))
        found[f"first {count} and {count}"] = pair.scorer.score(windows).means().AI_Score
    return found


def all_scores(pair: Pair, patterns: list[str], count: int, work: Path) -> dict[str, dict[str, list[float]]]:
    """By domain and way, the score of each document; a stopped run continues behind its last document."""
    found = {}
    for domain, texts in documents_of(patterns).items():
        documents, of_domain = long_documents([each.text for each in texts], pair, count), []
        for number, document in enumerate(cli.progress(len(documents), domain, "documents", documents)):
            done = work / f"{domain}-{number}.json"
            if not done.exists():
                write_json(done, scores(pair, document))
            of_domain.append(read_json(done))
        found[domain] = {name: [round(each[name], 6) for each in of_domain] for name in of_domain[0]}
    return found


def recall(whole: np.ndarray, cheap: np.ndarray, kept: float) -> float:
    """The share of the best `TOP` by the whole score that is among the best `kept` by the cheap one."""
    best, some = (
        set(np.argsort(-values)[: math.ceil(share * len(whole))].tolist())
        for values, share in ((whole, TOP), (cheap, kept))
    )
    return len(best & some) / len(best)


def summary(by_domain: dict[str, dict[str, list[float]]]) -> dict[str, dict]:
    """For each cheap way: the share of the tokens that it takes, and by domain its rank correlation and recalls."""
    found = {}
    for name in next(iter(by_domain.values())):
        if name != "whole":
            numbers = [int(word) for word in name.split() if word.isdigit()]
            pairs = {domain: (np.array(of["whole"]), np.array(of[name])) for domain, of in by_domain.items()}
            found[name] = {
                "share_of_tokens": round(sum(numbers) / TOKENS, 4),
                "spearman": {domain: round(float(spearmanr(*both).statistic), 4) for domain, both in pairs.items()},
                "recall": {
                    str(kept): {domain: round(recall(*both, kept), 4) for domain, both in pairs.items()}
                    for kept in KEPT
                },
            }
    return found


def draw(by_domain: dict[str, dict[str, list[float]]], ways: dict[str, dict], path: Path) -> None:
    """The recall, mean of the domains, against the share of the tokens that goes through the models."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shares = np.linspace(TOP, 1, 41)
    for name, way in ways.items():
        found = [
            np.mean([recall(np.array(of["whole"]), np.array(of[name]), kept) for of in by_domain.values()])
            for kept in shares
        ]
        axes.plot(way["share_of_tokens"] + shares, found, "-" if "and" in name else ":", label=name)
    axes.plot(shares, shares, color="gray", linewidth=0.8, label="at random")
    axes.set(
        xlabel="share of all tokens that the models read: for the cheap scores, and for what is kept",
        ylabel="share of the true top fifth that is kept",
        xlim=(TOP, 1),
    )
    axes.legend(title="cheap score, tokens")
    save_picture(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="+", help="files or globs, one file for each domain")
    parser.add_argument("--documents", type=cli.positive_int, default=40, help="of each domain")
    parser.add_argument("--base_model", default=str(ROOT / "data/SmolLM2-135M-Instruct"), help="name or folder")
    parser.add_argument("--reference_model", default=str(ROOT / "reference-model"), help="its masked copy")
    parser.add_argument("--work", type=as_path, default=ROOT / "data/score_tokens", help="finished scores")
    parser.add_argument("--out", type=as_path, default=RESULT, help="the result, .json; a picture next to it")
    args = parser.parse_args(argv)
    paths = expand(args.files)
    models = {"base_model": args.base_model, "reference_model": args.reference_model}
    claim(args.work / "run.json", {**models, "tokens": TOKENS, "files": list(map(str, paths))}, False, "*-*.json")
    pair = load_pair(PairOptions(**models, seq_len=TOKENS, runtime=Runtime("cpu", "bfloat16")))
    by_domain = all_scores(pair, args.files, args.documents, args.work)
    ways = summary(by_domain)
    counts = {domain: len(of["whole"]) for domain, of in by_domain.items()}
    result = {"tokens": TOKENS, "documents": counts, "ways": ways, "scores": by_domain}
    args.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    draw(by_domain, ways, args.out.with_suffix(".png"))
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
