"""Step 8: evaluate models side by side, by lm-evaluation-harness.

    python evaluate.py --models data/SmolLM2-135M-Instruct reference-model --tasks 'probes,local_*' --limit 200
    python evaluate.py --models data/pretrained/model --tasks gsm8k,mmlu,hellaswag      the harness's own, from the hub

Reads   models by name or folder; tasks of the harness, or from files (tasks/): local_arc_easy, local_arc_challenge,
        local_drop, local_gsm8k, local_hellaswag, local_lambada, local_mmlu, local_piqa, local_squad, and probes, the
        in-context retrieval of step 1's data/probes.jsonl
Writes  data/evaluation.tsv: task, metric, model, value, stderr, num_documents; data/evaluation.json: all of it, with
        what it was made with. A run that was stopped goes on at the next task

The table on the screen shows every metric with its standard error. `local_*` needs requirements/tasks.txt.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import transformers

from common import cli
from common.errors import InputError
from common.files import atomic, read_json, refuse_inputs, sole_writer, write_json
from common.flags import add_runtime_flags, runtime
from common.model.probes import read_probes
from common.shards.format import file_digest


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--models", nargs="+", required=True, help="names or folders")
    parser.add_argument(
        "--tasks", default="probes,local_*", help="names with commas between them; * stands for anything"
    )
    parser.add_argument("--limit", type=cli.positive_int, help="documents of each task at most (default: all)")
    parser.add_argument("--num_fewshot", type=cli.non_negative_int, help="examples in the prompt (default: the task's)")
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="documents in a forward pass")
    parser.add_argument("--probes", type=Path, default=Path("data/probes.jsonl"), help="what the task `probes` asks")
    add_runtime_flags(parser)
    parser.add_argument("--out", type=Path, default=Path("data/evaluation.tsv"), help="the table; .json beside it")
    parser.add_argument("--overwrite", action="store_true", help="evaluate anew what another run left in --out")
    return parser.parse_args(argv)


def started(record_path: Path, settings: dict, overwrite: bool) -> dict:
    """The record of an earlier run to go on with, or a new one; InputError if that run had other settings."""
    if overwrite or not record_path.exists():
        return {"settings": settings, "models": {}}
    record = read_json(record_path)
    before = record.get("settings", {})
    if changed := [name for name in settings if before.get(name) != settings[name]]:
        name = changed[0]
        raise InputError(
            f"{record_path}: made with {name} {before.get(name)!r}, now {settings[name]!r}; give another --out, or "
            "--overwrite"
        )
    return record


def evaluate(models: list[str], tasks: list[str], harness: Any, load: Callable, record: dict, path: Path) -> None:
    """Have each model do the tasks that it has not done yet, and write the record after each."""
    for name in models:
        model, digest = load(name)
        entry = record["models"].get(name)
        if not entry or entry["digest"] != digest:
            entry = record["models"][name] = {"digest": digest, "tasks": {}}
        for number, task in enumerate(tasks, 1):
            if task not in entry["tasks"]:
                print(f"{name}: {task}, {number} of {len(tasks)}", flush=True)
                entry["tasks"][task] = harness.ask(model, task)
                write_json(path, record)


def table_of(record: dict, models: list[str], tasks: list[str]) -> pd.DataFrame:
    """The record as a table: a row for each task, metric and model."""
    rows = []
    for task, model in itertools.product(tasks, models):
        for name, results in record["models"][model]["tasks"][task].items():
            for key, value in results.items():
                metric, _, kind = key.partition(",")
                if kind and not metric.endswith("_stderr"):
                    shown = metric if kind == "none" else f"{metric} ({kind})"
                    error = pd.to_numeric(results.get(f"{metric}_stderr,{kind}"), errors="coerce")  # or "N/A"
                    rows.append((name, shown, model, value, error, results["num_documents"]))
    return pd.DataFrame(rows, columns=["task", "metric", "model", "value", "stderr", "num_documents"])


def show(table: pd.DataFrame) -> None:
    """Print a line for each metric, a column for each model."""
    short = {model: Path(model).name for model in table["model"]}
    names = short if len(set(short.values())) == len(short) else {model: model for model in short}
    cells = [
        f"{row.value:.3f}" + ("" if math.isnan(row.stderr) else f" ± {row.stderr:.3f}") for row in table.itertuples()
    ]
    shown = table.assign(model=table["model"].map(names), cell=cells)
    wide = shown.pivot_table(
        index=["task", "metric", "num_documents"], columns="model", values="cell", aggfunc="first", sort=False
    )
    print(wide.rename_axis(columns=None).reset_index().to_string(index=False))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        from common.evaluation import harness  # slow, and not everybody has it
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise InputError("lm-evaluation-harness is not installed; pip install -r requirements/eval.txt") from None
    path = args.out.with_suffix(".json")
    refuse_inputs([args.out, path], [args.probes])
    asked = harness.Harness(args.probes, args.limit, args.num_fewshot)
    tasks, models = asked.tasks(args.tasks), list(dict.fromkeys(args.models))
    if "probes" in tasks:
        read_probes(args.probes)  # which checks them
    settings = {
        "limit": args.limit,
        "num_fewshot": args.num_fewshot,
        "dtype": args.dtype,
        "probes": file_digest(args.probes).hex()[:16] if "probes" in tasks else None,
        "tasks": harness.tasks_digest(),
        "lm_eval": harness.VERSION,
        "transformers": transformers.__version__,
    }
    with sole_writer(args.out):
        record = started(path, settings, args.overwrite)
        load = partial(harness.load, options=runtime(args), batch_size=args.batch_size)
        evaluate(models, tasks, asked, load, record, path)
        table = table_of(record, models, tasks)
        with atomic(args.out) as tmp:
            table.to_csv(tmp, sep="\t", index=False, float_format="%.6g")
    show(table)
    print(f"wrote {args.out} and {path}")


if __name__ == "__main__":
    cli.run(main)
