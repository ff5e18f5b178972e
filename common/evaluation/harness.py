"""Models on the tasks of lm-evaluation-harness; only this module imports it."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from common.errors import InputError
from common.model.checkpoints import Runtime, load_model, load_model_tokenizer, model_digest

TASKS = Path(__file__).parent / "tasks"
BOOTSTRAP = 1000  # resamples, for the standard error of metrics that are no means
VERSION = lm_eval.__version__


class Harness:
    """The harness with its own tasks and the tasks in the folder tasks/.

    Args:
        probes: the file that the task `probes` reads.
        limit: most documents of each task; None is all.
        num_fewshot: examples in the prompt; None is the task's default.
    """

    def __init__(self, probes: Path, limit: int | None, num_fewshot: int | None):
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        os.environ["DISABLE_MULTIPROC"] = "1"  # resample in this process, not in a pool
        self._manager = TaskManager(include_path=TASKS, metadata={"probes": str(probes)})
        self._limit, self._num_fewshot = limit, num_fewshot

    def tasks(self, patterns: str) -> list[str]:
        """The tasks with these names, in which * matches anything; InputError for an unknown name."""
        names = []
        for pattern in filter(None, patterns.split(",")):
            found = self._manager.match_tasks([pattern])
            if not found:
                raise InputError(f"--tasks {pattern}: neither lm-evaluation-harness nor {TASKS.name}/ has such a task")
            names += found
        if not names:
            raise InputError("--tasks: no task is named; * matches anything")
        return list(dict.fromkeys(names))

    def ask(self, model: HFLM, task: str) -> dict[str, dict[str, Any]]:
        """The results of a task by name: `num_documents` and metrics; for a group with metrics, only the group's."""
        try:
            found = lm_eval.simple_evaluate(
                model,
                tasks=[task],
                limit=self._limit,
                num_fewshot=self._num_fewshot,
                task_manager=self._manager,
                log_samples=False,
                bootstrap_iters=BOOTSTRAP,
            )
        except Exception as error:  # tasks raise many types
            raise InputError(f"--tasks {task}: {type(error).__name__}: {error}") from None
        metrics = {
            name: {key: value for key, value in result.items() if "," in key}
            for name, result in found["results"].items()
        }
        counts, parts = found["n-samples"], found["group_subtasks"]

        def documents(name: str) -> int:
            return sum(map(documents, parts[name])) if parts.get(name) else counts[name]["effective"]

        shown = [task] if metrics.get(task) else [name for name in metrics if metrics[name]]
        return {name: {"num_documents": documents(name), **metrics[name]} for name in shown}


def load_for_harness(name: str, options: Runtime, batch_size: int) -> tuple[HFLM, str]:
    """A model for the harness, and a digest of its weights and tokenizer; InputError if it cannot be loaded."""
    model, tokenizer = load_model(name, options), load_model_tokenizer(name, options)
    if not hasattr(tokenizer, "hf"):
        raise InputError(f"{name}: lm-evaluation-harness needs a Hugging Face tokenizer")
    digest = f"{model_digest(model)}-{tokenizer.fingerprint}"
    model.set_attn_implementation("sdpa")
    return HFLM(pretrained=model, tokenizer=tokenizer.hf, batch_size=batch_size), digest


def tasks_digest() -> str:
    """A short hash of the files in tasks/."""
    files = sorted(path for path in TASKS.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
