"""What does the score go with, without copies (for which n?) and within groups of documents? On the scored pilot.

    python experiments/what_it_goes_with.py        a minute

Needs   experiments/results/pilot.parquet (python experiments/pilot.py)
Writes  data/pilot/: the table in the form of step 5, and selections of step 6
        experiments/results/what_it_goes_with.json; python docs/fill_tables.py puts the tables into docs/results.md

Scores: AI_Score, and AI_Score_novel over the tokens that do not end an n-gram which the document held before, for each
n. Per domain: Spearman's rank correlation with repetition, L_base and length, and how much of the best fifth is also
that of AI_Score. Over all domains: AUC, how often a document of REASONING scores higher than one of PROSE, and the same
for a low L_base alone.

Selections: the best 20 % by rank_scores.py without guards, with each --within: the overlaps that it prints, with the
selections that the lowest L_base, the greatest length and the most repetition would make.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from run_script import RESULTS, ROOT, run
from scipy.stats import mannwhitneyu

from common import cli
from common.errors import InputError
from common.files import read_json, write_json

PILOT = RESULTS / "pilot.parquet"
RESULT = RESULTS / "what_it_goes_with.json"
SIMPLER = ("repetition", "L_base", "num_tokens")
REASONING, PROSE = ("code", "maths", "textbooks"), ("essays", "news", "novels")
WITHIN = ("", "L_base:10", "num_tokens:10", "repetition:10")
SCORE, COMMON = "AI_Score", "best fifth in common"


def best_fifth(rows: pd.DataFrame, score: str) -> set:
    return set(rows.nlargest(round(len(rows) / 5), score).index)


def auc(scores: pd.Series, domains: pd.Series) -> float:
    """How often a document of REASONING has the higher score than one of PROSE."""
    one, other = scores[domains.isin(REASONING)], scores[domains.isin(PROSE)]
    return float(mannwhitneyu(one, other).statistic / (len(one) * len(other)))


def of_score(table: pd.DataFrame, score: str) -> dict:
    """The figures of one score."""
    by_domain = {
        domain: {name: rows[score].corr(rows[name], method="spearman") for name in SIMPLER}
        | {COMMON: len(best_fifth(rows, score) & best_fifth(rows, SCORE)) / round(len(rows) / 5)}
        for domain, rows in table.groupby("domain")
    }
    return {"domains": by_domain, "auc": auc(table[score], table["domain"])}


def of_selection(table: pd.DataFrame, within: str) -> dict:
    """The figures of one selection: the overlaps of step 6, and how much of the best fifth is in it."""
    name = f"data/pilot/{within.replace(':', '_') or 'plain'}"
    flags = "--max_repetition 1 --dedup none --overwrite" + (f" --within {within}" if within else "")
    run("rank_scores.py", f"--scores data/pilot/ai_scores.parquet {flags} --out {name}.tsv")
    chosen = set(pd.read_parquet(ROOT / f"{name}.parquet", columns=["doc_id"])["doc_id"])
    goes_with = read_json(ROOT / f"{name}.json")["goes_with"]
    return {
        domain: {simple: goes_with[domain][simple]["overlap"] for simple in SIMPLER}
        | {COMMON: len(chosen & set(table["doc_id"][sorted(best_fifth(rows, SCORE))])) / round(len(rows) / 5)}
        for domain, rows in table.groupby("domain")
    }


def main(argv: list[str] | None = None) -> None:
    cli.Parser(__doc__).parse_args(argv)
    if not PILOT.exists():
        raise InputError(f"{PILOT}: no such file; run experiments/pilot.py first")
    table = pd.read_parquet(PILOT)
    scores = [SCORE, *(name for name in table if name.startswith(f"{SCORE}_novel"))]
    ends = table["num_tokens"].cumsum()
    table["doc_id"] = [
        f"data/pilot/pool:{end - size}-{end}" for end, size in zip(ends, table["num_tokens"], strict=True)
    ]
    (ROOT / "data/pilot").mkdir(parents=True, exist_ok=True)
    columns = ["doc_id", "domain", "num_tokens", "L_base", "L_ref", SCORE, "repetition"]
    kinds = dict.fromkeys(columns[3:], "float64") | {"num_tokens": "int64"}
    table[columns].astype(kinds).to_parquet(ROOT / "data/pilot/ai_scores.parquet", index=False)
    result = {
        "documents": len(table),
        "scores": {score: of_score(table, score) for score in scores},
        "auc of a low L_base": auc(-table["L_base"], table["domain"]),
        "within": {within or "the whole domain": of_selection(table, within) for within in WITHIN},
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 4))
    write_json(RESULT, rounded)
    for score, found in result["scores"].items():
        means = {name: np.mean([line[name] for line in found["domains"].values()]).round(3) for name in SIMPLER}
        print(score, means, f"AUC {found['auc']:.3f}")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
