"""What does_it_help.py measures on a model: the losses of held-out documents and of answers, text by text."""

import itertools
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from run_script import ROOT

from common.errors import InputError
from common.files import read_json, write_json
from common.text.tokenization import TextTokenizer

SEQ_LEN, ASKED_LEN = 512, 200  # tokens of a held-out document or, at most, a probe; of a question with its answer
HELD_OUT, MOST = 10, 4  # documents of a domain; how many times as many texts are kept for --measured
EARLY, LATE = slice(40, 60), slice(490, 510)  # around token 50 and token 500
PRIMARY, CONTEXT, GAIN = (
    "loss, mean of the domains",
    "loss, mean of what needs the context",
    "fall from token 50 to 500",
)
# By task: its data in common/evaluation/tasks/, and how many of its texts are measured.
TASKS = {
    "GSM8K": ("gsm8k/gold_bpb_5shot", 20),
    "MATH": ("minerva_math_500/gold_bpb_0shot", 20),
    "LAMBADA": ("lambada/bpb_0shot", 60),
    "SQuAD": ("squad/bpb_5shot", 30),
    "DROP": ("drop/bpb_5shot", 25),
}
PROBES = 10
NEEDS_CONTEXT = ("LAMBADA", "SQuAD", "DROP", "probes")

Text = tuple[list[int], int]  # token ids, and the first of them whose loss counts
Texts = dict[str, dict[str, list[Text]]]  # by kind, `held out` or `asked`, and by domain or task
Found = dict[str, list[float]]  # by group of texts, a value of each text


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def questions(task: str) -> Iterator[tuple[str, str]]:
    """Questions of a task with their first accepted answers, from the data of common/evaluation/tasks/."""
    sys.path.insert(0, str(ROOT / "common/evaluation/tasks"))
    import local

    for document in (row["doc"] for row in local.read_requests(task)):
        answer = document["choices"][0]
        query = document.get("query") or f"Question: {document['question']}\nAnswer:"
        yield query, " " + (answer if isinstance(answer, str) else answer[0])


def texts(held_out: Path, folder: Path, tokenizer: TextTokenizer) -> Texts:
    """What models are measured on, `MOST` times over; kept in a file. InputError if a domain has too few documents."""
    path, encode = folder / "texts.json", tokenizer.encode
    if not path.exists():
        found: Texts = {"held out": {}, "asked": {}}
        for document in read_jsonl(held_out):
            ids = encode(document["text"])[: SEQ_LEN + 1]
            found["held out"].setdefault(document["domain"], []).extend([(ids, 1)] * (len(ids) > SEQ_LEN))
        for domain, each in found["held out"].items():
            if len(each) < HELD_OUT:
                raise InputError(f"{held_out}: {domain}: {len(each)} documents of {SEQ_LEN + 1} tokens, not {HELD_OUT}")
        asked = {name: (questions(task), count) for name, (task, count) in TASKS.items()}
        probes = ((probe["prompt"], probe["answer"]) for probe in read_jsonl(folder / "probes.jsonl"))
        for name, (pairs, count) in (asked | {"probes": (probes, PROBES)}).items():
            encoded = ((encode(query), encode(answer)) for query, answer in pairs)
            longest = SEQ_LEN if name == "probes" else ASKED_LEN
            short = ((query + answer, len(query)) for query, answer in encoded if len(query + answer) <= longest)
            found["asked"][name] = list(itertools.islice(short, MOST * count))
            if len(found["asked"][name]) < count:
                raise InputError(f"{name}: not {count} texts of at most {longest} tokens with this tokenizer")
        write_json(path, found)
    return read_json(path)


def first_of(found: Texts, times: int) -> Texts:
    """The texts that are measured: the first of each domain and task."""
    counts = {name: count for name, (_, count) in TASKS.items()} | {"probes": PROBES}
    return {
        kind: {name: each[: times * counts.get(name, HELD_OUT)] for name, each in of_kind.items()}
        for kind, of_kind in found.items()
    }


def sizes(measured: Texts) -> dict[str, dict[str, int]]:
    """Of each domain and task, how many texts are measured, and how many tokens of them count."""
    return {
        name: {"texts": len(each), "tokens": sum(len(ids) - first for ids, first in each)}
        for of_kind in measured.values()
        for name, each in of_kind.items()
    }


@torch.inference_mode()
def losses(model: transformers.PreTrainedModel, text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss in nats of each token that counts, and whether it was the most likely token."""
    ids, first = torch.tensor([text[0]], device=model.device), text[1]
    logits = model(input_ids=ids, logits_to_keep=ids.shape[1] - first + 1).logits[0, :-1].float()
    targets = ids[0, first:]
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu(), (
        logits.argmax(-1) == targets
    ).cpu()


def measure(path: str | Path, measured: Texts) -> Found:
    """All values of one model.

    In float32: bfloat16 changes the difference of two models by more than the arms differ.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    found: Found = {}
    for kind, of_kind in measured.items():
        for name, each in of_kind.items():
            both = [losses(model, text) for text in each]
            found[f"loss, {name}"] = [loss.mean().item() for loss, _ in both]
            if kind == "held out":
                found[f"fall, {name}"] = [(loss[EARLY].mean() - loss[LATE].mean()).item() for loss, _ in both]
            if name == "probes":
                found["token accuracy, probes"] = [hit.float().mean().item() for _, hit in both]
    return found


def groups(found: Found) -> dict[str, list[str]]:
    """Of each measure the groups of texts that it is the mean of; a group is itself the mean of its texts."""
    domains = [name.removeprefix("fall, ") for name in found if name.startswith("fall, ")]
    return {
        PRIMARY: [f"loss, {name}" for name in domains],
        CONTEXT: [f"loss, {name}" for name in NEEDS_CONTEXT],
        GAIN: [f"fall, {name}" for name in domains],
        **{name: [name] for name in found if not name.startswith("fall, ")},
    }


def means(found: Found) -> dict[str, float]:
    """The measures of one model."""
    return {
        name: statistics.mean(statistics.mean(found[each]) for each in of_name)
        for name, of_name in groups(found).items()
    }
