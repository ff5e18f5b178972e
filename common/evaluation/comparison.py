"""Models side by side: the record of their results, and the table made from it."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.evaluation.harness import Harness
from common.files import read_json, write_json


def open_record(record_path: Path, settings: dict, overwrite: bool) -> dict:
    """The record of an earlier run, or a new one; InputError if that run had other settings."""
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


def evaluate(models: list[str], tasks: list[str], harness: Harness, load: Callable, record: dict, path: Path) -> None:
    """Run the tasks that a model has no results for yet, and write the record after each."""
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
    """The record as a table with a row for each task, metric and model."""
    rows = []
    for task, model in itertools.product(tasks, models):
        for name, results in record["models"][model]["tasks"][task].items():
            for key, value in results.items():
                metric, _, kind = key.partition(",")
                if kind and not metric.endswith("_stderr"):
                    shown = metric if kind == "none" else f"{metric} ({kind})"
                    error = pd.to_numeric(results.get(f"{metric}_stderr,{kind}"), errors="coerce")  # or "N/A"
                    about = {"task": name, "metric": shown, "model": model, "value": value, "stderr": error}
                    rows.append(about | {"num_documents": results["num_documents"]})
    return pd.DataFrame(rows, columns=["task", "metric", "model", "value", "stderr", "num_documents"])


def show_table(table: pd.DataFrame) -> None:
    """Print a line for each metric, with a column for each model."""
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
