"""Asking models by lm-evaluation-harness, which is imported with this module alone."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from common.errors import InputError
from common.flags import Runtime
from common.model.checkpoints import load_model, load_model_tokenizer, model_digest

TASKS = Path(__file__).parent / "tasks"
BOOTSTRAP = 1000  # resamples, for the standard error of what is no mean
VERSION = lm_eval.__version__


class Harness:
    """The harness with its own tasks and those of tasks/.

    Args:
        probes: what the task `probes` asks.
        limit: documents of each task at most; None is all.
        num_fewshot: examples in the prompt; None is what the task says.
    """

    def __init__(self, probes: Path, limit: int | None, num_fewshot: int | None):
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        os.environ["DISABLE_MULTIPROC"] = "1"  # resampling in this process, not in a pool of them
        self._manager = TaskManager(include_path=TASKS, metadata={"probes": str(probes)})
        self._limit, self._num_fewshot = limit, num_fewshot

    def tasks(self, patterns: str) -> list[str]:
        """The tasks of these names, in which * stands for anything; InputError for one that nobody knows."""
        names = []
        for pattern in filter(None, patterns.split(",")):
            found = self._manager.match_tasks([pattern])
            if not found:
                raise InputError(f"--tasks {pattern}: neither lm-evaluation-harness nor {TASKS.name}/ has such a task")
            names += found
        return list(dict.fromkeys(names))

    def ask(self, model: HFLM, task: str) -> dict[str, dict[str, Any]]:
        """A task's results by name: `num_documents` and metrics; of a group that has metrics, the group's alone."""
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
        except (OSError, ImportError, ValueError, RuntimeError) as error:
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


def load(name: str, options: Runtime, batch_size: int) -> tuple[HFLM, str]:
    """A model as the harness takes it, and a digest of its weights and tokenizer; InputError if there is none."""
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
