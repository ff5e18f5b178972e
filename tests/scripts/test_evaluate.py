"""evaluate.py: its figures against plain loops, side by side; a second run, and bad input."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import evaluate
from common.evaluation.harness import Harness
from tests.conftest import error_of
from tests.evaluation.conftest import Plain, local

LIMIT = 6
ASKED = ["local_lambada", "local_arc_easy", "local_mmlu", "local_squad", "probes"]


@pytest.fixture(scope="module")
def evaluated(two_models):
    models = f"--models {two_models}/one {two_models}/two --probes {two_models}/probes.jsonl"
    flags = f"{models} --tasks {','.join(ASKED)} --limit {LIMIT}"
    evaluate.main([*flags.split(), "--out", str(two_models / "evaluation.tsv")])
    return flags, two_models / "evaluation.tsv"


def value(table: Path, task: str, metric: str, model: Path) -> float:
    rows = pd.read_csv(table, sep="\t")
    [found] = rows[(rows["task"] == task) & (rows["metric"] == metric) & (rows["model"] == str(model))].to_dict(
        "records"
    )
    return found


@pytest.mark.parametrize("name", ["one", "two"])
def test_likelihoods_are_those_of_a_plain_loop(two_models, evaluated, name):
    folder, table = two_models / name, evaluated[1]
    plain = Plain(folder)
    rows = local.asked("lambada/bpb_0shot")["test"].select(range(LIMIT))
    found = [plain.asked(row["query"], " " + row["answers"][0][0]) for row in rows]
    perplexity = torch.tensor([likelihood for likelihood, _ in found]).mean().neg().exp().item()
    assert value(table, "local_lambada", "perplexity", folder)["value"] == pytest.approx(perplexity, rel=1e-3)
    assert value(table, "local_lambada", "acc", folder)["value"] == pytest.approx(sum(hit for _, hit in found) / LIMIT)
    assert value(table, "local_lambada", "acc", folder)["num_documents"] == LIMIT


@pytest.mark.parametrize("name", ["one", "two"])
def test_choices_are_those_of_a_plain_loop(two_models, evaluated, name):
    folder, hits, hits_by_length = two_models / name, 0, 0
    plain = Plain(folder)
    for row in local.stored("ai2_arc/ARC-Easy/validation")["test"].select(range(LIMIT)):
        choices, answer = row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
        likelihoods = [plain.asked(f"Question: {row['question']}\nAnswer:", f" {choice}")[0] for choice in choices]
        hits += max(range(len(choices)), key=lambda n: likelihoods[n]) == answer
        hits_by_length += max(range(len(choices)), key=lambda n: likelihoods[n] / len(choices[n])) == answer
    assert value(evaluated[1], "local_arc_easy", "acc", folder)["value"] == pytest.approx(hits / LIMIT, rel=1e-5)
    assert value(evaluated[1], "local_arc_easy", "acc_norm", folder)["value"] == pytest.approx(
        hits_by_length / LIMIT, rel=1e-5
    )


def test_table_and_record_hold_every_task_with_standard_errors(two_models, evaluated):
    table = pd.read_csv(evaluated[1], sep="\t")
    assert list(table.columns) == ["task", "metric", "model", "value", "stderr", "num_documents"]
    assert set(table["task"]) == set(ASKED)
    record = json.loads(evaluated[1].with_suffix(".json").read_text())
    assert record["settings"]["limit"] == LIMIT
    found = record["models"][str(two_models / "two")]["tasks"]["local_arc_easy"]["local_arc_easy"]
    share = found["acc,none"]
    assert found["acc_stderr,none"] == pytest.approx((share * (1 - share) / (LIMIT - 1)) ** 0.5)
    assert value(evaluated[1], "probes", "acc", two_models / "one")["num_documents"] == 4


def test_a_second_run_asks_nothing_again_and_shows_the_table(evaluated, monkeypatch, capsys):
    flags, out = evaluated
    before = out.read_bytes()
    monkeypatch.setattr(Harness, "ask", None)
    evaluate.main([*flags.split(), "--out", str(out)])
    assert out.read_bytes() == before
    shown = capsys.readouterr().out
    [header] = [line for line in shown.splitlines() if "num_documents" in line]
    assert header.split() == ["task", "metric", "num_documents", "one", "two"]
    assert "±" in shown


def test_a_model_that_changed_is_asked_again(two_models, evaluated, tmp_path):
    flags, out = evaluated
    record = json.loads(out.with_suffix(".json").read_text())
    name = str(two_models / "one")
    record["models"][name] = {"digest": "of another model", "tasks": {"probes": {"probes": {"acc,none": 7.0}}}}
    (tmp_path / "e.json").write_text(json.dumps(record))
    fewer = flags.replace(",".join(ASKED), "probes").split()
    evaluate.main([*fewer, "--out", str(tmp_path / "e.tsv")])
    assert value(tmp_path / "e.tsv", "probes", "acc", two_models / "one")["value"] <= 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("--limit 3", "made with limit 6, now 3"),
        ("--tasks local_nothing", "--tasks local_nothing: neither"),
        ("--tasks ,", "--tasks: no task is named"),
        ("--models nowhere", "nowhere: no such folder"),
        ("--probes nowhere.jsonl", "nowhere.jsonl"),
        ("--tasks wikitext --out other.tsv", "--tasks wikitext"),
        ("--tasks humaneval --out other.tsv", "--tasks humaneval: AttributeError"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2_and_changes_no_file(
    evaluated, changed, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flags, out = evaluated
    before = out.read_bytes(), out.with_suffix(".json").read_bytes()
    assert says in error_of(evaluate, [*flags.split(), "--out", str(out), *changed.split()], capsys)
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == before
