"""Do the retrieval heads matter only for tasks that need the context? SmolLM2-135M with and without heads.

    python experiments/heads_matter.py           about half an hour on two cores with AMX; continues a stopped run

Needs   steps 1 to 3 done (bash pipeline.sh), pip install -r requirements/eval.txt, --no-deps -r requirements/tasks.txt
Writes  data/heads_matter/: the masked models, the probes, the results of evaluate.py
        experiments/results/heads_matter.json and .png; python docs/fill_tables.py puts the table into docs/results.md

The paper claims that masking these heads harms tasks that need the context, and hardly harms tasks that need knowledge.
The whole model is compared with the model without its retrieval heads, and with DRAWS models without as many random
other heads. The probes are not those that found the heads. All models get the same LIMIT questions of each task, in
bfloat16. A score that is at chance for the whole model cannot fall, so it shows nothing.
"""

import json
import os
import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from run_script import RESULTS, ROOT, run

from common import cli

WORK = Path("data/heads_matter")
BASE, MASKED = "data/SmolLM2-135M-Instruct", "reference-model"
DRAWS = 3
LIMIT = 100
CONTEXT = {
    "probes": "acc",
    "local_squad": "f1",
    "local_drop": "f1",
    "local_lambada": "acc",
    "local_labels": "exact_match (stripped)",
}
KNOWLEDGE = {
    "local_arc_easy": "acc",
    "local_arc_challenge": "acc",
    "local_piqa": "acc",
    "local_hellaswag": "acc",
    "local_mmlu": "acc",
}
METRICS = {**CONTEXT, **KNOWLEDGE}
CHANCE = {task: 0.5 if task == "local_piqa" else 0.25 for task in KNOWLEDGE}
RESULT = RESULTS / "heads_matter.json"


def mask_random_heads(number: int) -> str:
    """Make a copy of the base with random other heads masked, as many as retrieval heads; returns its folder."""
    heads = pd.read_csv("data/retrieval_heads.tsv", sep="\t")
    others = heads.loc[~heads["selected"], ["layer", "head"]].to_numpy().tolist()
    chosen = random.Random(number).sample(others, int(heads["selected"].sum()))
    WORK.mkdir(parents=True, exist_ok=True)
    folder = WORK / f"random-{number}"
    Path(f"{folder}.txt").write_text("".join(f"{layer},{head}\n" for layer, head in chosen))
    run("make_reference_model.py", f"--base_model {BASE} --retrieval_heads {folder}.txt --out {folder}")
    return str(folder)


def compared(found: pd.DataFrame, draws: list[str]) -> list[dict]:
    """A row for each task: the score of every model, with its standard error."""
    rows = []
    for task, metric in METRICS.items():
        one = found[(found["task"] == task) & (found["metric"] == metric)].set_index("model")
        value, error = one["value"].to_dict(), one["stderr"].to_dict()
        rows.append(
            {
                "task": task.removeprefix("local_"),
                "needs": "context" if task in CONTEXT else "knowledge",
                "metric": metric.partition(" ")[0],
                "chance": CHANCE.get(task, 0),
                "documents": int(one.loc[BASE, "num_documents"]),
                "base": [value[BASE], error[BASE]],
                "masked": [value[MASKED], error[MASKED]],
                "random": [[value[draw], error[draw]] for draw in draws],
            }
        )
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Draw the change of each score, compared with the whole model."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    base = np.array([row["base"][0] for row in rows])
    masked = np.array([row["masked"][0] for row in rows])
    others = np.array([statistics.mean(value for value, _ in row["random"]) for row in rows])
    axes.bar(places - 0.2, masked - base, 0.4, color="tab:red", label="retrieval heads masked")
    axes.bar(places + 0.2, others - base, 0.4, color="tab:gray", label="random heads masked, mean of 3 draws")
    for place, row in zip(places, rows, strict=True):
        axes.scatter([place + 0.2] * DRAWS, [value - row["base"][0] for value, _ in row["random"]], s=9, color="black")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(len(CONTEXT) - 0.5, color="black", linestyle=":", linewidth=0.8)
    axes.set_xticks(places, [f"{row['task']}\n({row['metric']})" for row in rows], fontsize=8)
    axes.set(ylabel="change of the score", title="needs the context  |  needs knowledge")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    cli.Parser(__doc__).parse_args(argv)
    os.chdir(ROOT)
    draws = [mask_random_heads(number) for number in range(DRAWS)]
    flags = f"--tokenizer {BASE} --num_probes 100 --max_tokens 768 --seed 1 --out {WORK}/probes.jsonl"
    run("generate_retrieval_probes.py", flags)
    run(
        "evaluate.py",
        f"--models {BASE} {MASKED} {' '.join(draws)} --tasks {','.join(METRICS)} --limit {LIMIT} --dtype bfloat16 "
        f"--probes {WORK}/probes.jsonl --out {WORK}/evaluation.tsv",
    )
    rows = compared(pd.read_csv(WORK / "evaluation.tsv", sep="\t"), draws)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, RESULT.with_suffix(".png"))
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
