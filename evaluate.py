"""Step 8: evaluate models side by side, by lm-evaluation-harness.

    python evaluate.py --models data/SmolLM2-135M-Instruct reference-model --tasks 'probes,local_*' --limit 200
    python evaluate.py --models data/pretrained/model --tasks gsm8k,mmlu,hellaswag      the harness's own, from the hub

Reads   models by name or folder; tasks of the harness, or from files (tasks/): local_arc_easy, local_arc_challenge,
        local_drop, local_gsm8k, local_hellaswag, local_lambada, local_mmlu, local_piqa, local_squad, and probes, the
        in-context retrieval of step 1's data/probes.jsonl
Writes  data/evaluation.tsv: task, metric, model, value, stderr, num_documents; data/evaluation.json: all of it, with
        what it was made with. A run that was stopped goes on at the next task

The table on the screen shows every metric with its standard error. `local_*` needs requirements-tasks.txt.
"""

import logging
import os
from pathlib import Path
from typing import Any

import lm_eval
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from common import cli
from common.checkpoints import load_model, load_model_tokenizer, model_digest
from common.errors import InputError
from common.files import atomic, read_json, refuse_inputs, sole_writer, write_json
from common.options import Runtime, add_runtime_flags, runtime
from common.shards import file_digest

TASKS = Path(__file__).parent / "tasks"
BOOTSTRAP = 1000  # resamples, for the standard error of what is no mean
os.environ["DISABLE_MULTIPROC"] = "1"  # in this process, not in a pool of them
Row = tuple[str, str, str, float, float | None, int]  # task, metric, model, value, standard error, documents


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


def matched(patterns: str, manager: TaskManager) -> list[str]:
    """The tasks of these names; InputError for one that nobody knows."""
    names = []
    for pattern in filter(None, patterns.split(",")):
        found = manager.match_tasks([pattern])
        if not found:
            raise InputError(f"--tasks {pattern}: neither lm-evaluation-harness nor {TASKS.name}/ has such a task")
        names += found
    return list(dict.fromkeys(names))


class Evaluator:
    """A model, ready to be asked."""

    def __init__(self, name: str, options: Runtime, batch_size: int):
        model = load_model(name, options)
        self.digest = model_digest(model)
        model.set_attn_implementation("sdpa")
        tokenizer = getattr(load_model_tokenizer(name, options), "hf", None)
        if tokenizer is None:
            raise InputError(f"{name}: lm-evaluation-harness needs a Hugging Face tokenizer")
        self._lm = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, trust_remote_code=options.trust_remote_code
        )

    def __call__(self, task: str, manager: TaskManager, limit: int | None, num_fewshot: int | None) -> dict[str, Any]:
        """The harness's results: of the task, or of a group that has its own the group alone."""
        try:
            found = lm_eval.simple_evaluate(
                self._lm,
                tasks=[task],
                limit=limit,
                num_fewshot=num_fewshot,
                task_manager=manager,
                log_samples=False,
                bootstrap_iters=BOOTSTRAP,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"--tasks {task}: {type(error).__name__}: {error} (all but probes and local_… come from the hub)"
            ) from None
        results, counts = found["results"], found["n-samples"]
        shown = [task] if any("," in key for key in results.get(task, {})) else list(results)
        return {
            name: {
                "num_documents": sum(
                    counts[part]["effective"] for part in found["group_subtasks"].get(name) or [name] if part in counts
                ),
                **{key: value for key, value in results[name].items() if "," in key},
            }
            for name in shown
        }


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


def evaluate(record: dict, evaluator: Evaluator, name: str, tasks: list[str], manager: TaskManager, path: Path) -> None:
    """Have a model do the tasks that it has not done yet, and write the record after each."""
    entry = record["models"].get(name)
    if not entry or entry["digest"] != evaluator.digest:
        entry = record["models"][name] = {"digest": evaluator.digest, "tasks": {}}
    settings = record["settings"]
    for number, task in enumerate(tasks, 1):
        if task not in entry["tasks"]:
            print(f"{name}: {task}, {number} of {len(tasks)}", flush=True)
            entry["tasks"][task] = evaluator(task, manager, settings["limit"], settings["num_fewshot"])
            write_json(path, record)


def rows(record: dict, models: list[str], tasks: list[str]) -> list[Row]:
    """The record as a table, model behind model for each metric."""
    found = []
    for task in tasks:
        for name in record["models"][models[0]]["tasks"][task]:
            results = {model: record["models"][model]["tasks"][task][name] for model in models}
            for key in results[models[0]]:
                metric, _, filter_ = key.partition(",")
                if not filter_ or metric.endswith("_stderr"):
                    continue
                for model, result in results.items():
                    error = result.get(f"{metric}_stderr,{filter_}")
                    shown = metric if filter_ == "none" else f"{metric} ({filter_})"
                    error = error if isinstance(error, float) else None
                    found.append((name, shown, model, result[key], error, result["num_documents"]))
    return found


def show(table: list[Row], models: list[str]) -> None:
    """Print a line for each metric, a column for each model."""
    short = {model: Path(model).name for model in models}
    if len(set(short.values())) < len(models):
        short = {model: model for model in models}
    lines = [["task", "metric", "documents", *(short[model] for model in models)]]
    for at in range(0, len(table), len(models)):
        task, metric, _, _, _, count = table[at]
        cells = [
            f"{value:.3f}" + (f" ± {error:.3f}" if error else "")
            for *_, value, error, _ in table[at : at + len(models)]
        ]
        lines.append([task, metric, f"{count:,}", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write_tsv(table: list[Row], path: Path) -> None:
    """Write the table, a row for each task, metric and model."""
    with atomic(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.write("task\tmetric\tmodel\tvalue\tstderr\tnum_documents\n")
        for task, metric, model, value, error, count in table:
            file.write(f"{task}\t{metric}\t{model}\t{value:.6g}\t{'' if error is None else f'{error:.6g}'}\t{count}\n")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    refuse_inputs([args.out, args.out.with_suffix(".json")], [args.probes])
    manager = TaskManager(include_path=TASKS, metadata={"probes": str(args.probes)})
    tasks = matched(args.tasks, manager)
    settings = {
        "limit": args.limit,
        "num_fewshot": args.num_fewshot,
        "dtype": args.dtype,
        "probes": file_digest(args.probes).hex()[:16] if "probes" in tasks else None,
        "lm_eval": lm_eval.__version__,
        "transformers": transformers.__version__,
    }
    path = args.out.with_suffix(".json")
    with sole_writer(args.out):
        record = started(path, settings, args.overwrite)
        for name in args.models:
            evaluate(record, Evaluator(name, runtime(args), args.batch_size), name, tasks, manager, path)
        table = rows(record, args.models, tasks)
        write_tsv(table, args.out)
    show(table, args.models)
    print(f"wrote {args.out} and {path}")


if __name__ == "__main__":
    cli.run(main)
