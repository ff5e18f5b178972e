"""Compare the scores of two models: the last step of two_models.sh.

Reads   the folders of two runs of pipeline.sh: retrieval heads, causal check, scores, and the shards' indexes
Writes  experiments/results/two_models.json; python docs/fill_tables.py puts the tables into docs/results.md

Documents are matched by the id of their source, because each model has its own tokens. Agreement is Spearman's rank
correlation of AI_Score within a domain, and the share of one model's best 20 % that is also in the other's.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
import pyarrow.parquet as pq
from run_script import RESULTS, ROOT

from common import cli
from common.shards.index import INDEX_SUFFIX, read_index
from common.table.tables import with_slices

RUNS = {
    "SmolLM2-135M": ("data", "reference-model"),
    "Gemma 3 270M": ("data/data_gemma-3-270m-sample", "data/data_gemma-3-270m-sample/reference-model"),
}
RESULT = RESULTS / "two_models.json"


def scores_by_source(folder: Path) -> pd.DataFrame:
    """The scores of a run; the index is the source's own id of each document."""
    scores = with_slices(pq.read_table(folder / "ai_scores.parquet")).to_pandas()
    indexes = []
    for shard in scores["shard"].unique():
        index = read_index((ROOT / shard).with_suffix(INDEX_SUFFIX))[0].to_pandas()
        indexes.append(index[["start", "id"]].assign(shard=shard))
    return scores.merge(pd.concat(indexes), on=["shard", "start"]).set_index("id")


def best(scores: pd.Series) -> set:
    return set(scores.nlargest(-(-len(scores) // 5)).index)


def facts(folder: Path, reference: Path, scores: pd.DataFrame) -> dict:
    """The heads of a run's model, its causal check and its mean scores."""
    heads = pd.read_csv(folder / "retrieval_heads.tsv", sep="\t")
    chosen = heads[heads["selected"]]
    return {
        "heads": len(heads),
        "retrieval_heads": [f"{row.layer},{row.head} ({row.retrieval_score:.2f})" for row in chosen.itertuples()],
        "causal_check": json.loads((reference / "causal_check.json").read_text(encoding="utf-8")),
        "mean_AI_Score": scores.groupby("domain", observed=True)["AI_Score"].mean().to_dict(),
    }


def main(argv: list[str] | None = None) -> None:
    cli.Parser(__doc__).parse_args(argv)
    tables = {name: scores_by_source(ROOT / folder) for name, (folder, _) in RUNS.items()}
    models = {name: facts(ROOT / RUNS[name][0], ROOT / RUNS[name][1], scores) for name, scores in tables.items()}
    one, other = tables.values()
    both = one.join(other, rsuffix="_other", how="inner")
    agreement = {}
    for domain, rows in both.groupby("domain", observed=True):
        chosen = best(rows["AI_Score"])
        agreement[domain] = {
            "documents": len(rows),
            "spearman": float(rows["AI_Score"].rank().corr(rows["AI_Score_other"].rank())),
            "best_in_common": len(chosen & best(rows["AI_Score_other"])) / len(chosen),
        }
    result = {"models": models, "agreement": agreement}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
