"""The harness's figures on probes and on groups of tasks."""

import json

import torch
import transformers

from common.evaluation.harness import TASKS, Harness, load_for_harness
from common.model.checkpoints import Runtime
from common.model.probes import read_probes
from tests.evaluation.conftest import Plain


def test_the_probes_are_asked_as_a_plain_loop_asks_them(tmp_path, two_models):
    """By a model that copies: it was trained to say one probe's answer by heart."""
    model = transformers.AutoModelForCausalLM.from_pretrained(two_models / "one")
    tokenizer = transformers.AutoTokenizer.from_pretrained(two_models / "one")
    [known, *_] = read_probes(two_models / "probes.jsonl")
    ids = torch.tensor([tokenizer(known.prompt[-200:] + known.answer, add_special_tokens=False)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [json.loads(line) for line in (two_models / "probes.jsonl").read_text().splitlines()]
    cut = [{**row, "prompt": row["prompt"][-200:]} for row in rows]
    (tmp_path / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cut))
    plain = Plain(tmp_path / "model")
    hits = [plain.asked(row["prompt"].rstrip(), "\n" + row["answer"])[1] for row in cut]
    asked = Harness(tmp_path / "probes.jsonl", None, None)
    found = asked.ask(load_for_harness(str(tmp_path / "model"), Runtime(), 2)[0], "probes")["probes"]
    assert hits[0]
    assert not all(hits)
    assert found["acc,none"] == sum(hits) / len(hits)


def test_documents_of_a_group_of_groups_are_counted(two_models, tmp_path, monkeypatch):
    """As mmlu is built, which comes from the hub."""
    for name in ("local.py", "local_piqa.yaml", "local_arc_easy.yaml"):
        (tmp_path / name).write_text((TASKS / name).read_text())
    group = "group: {}\ntask: [{}]\naggregate_metric_list: [{{metric: acc, weight_by_size: true}}]\n"
    (tmp_path / "inner.yaml").write_text(group.format("inner", "local_piqa, local_arc_easy"))
    (tmp_path / "outer.yaml").write_text(group.format("outer", "inner"))
    monkeypatch.setattr("common.evaluation.harness.TASKS", tmp_path)
    found = Harness(two_models / "probes.jsonl", 3, None).ask(
        load_for_harness(str(two_models / "one"), Runtime(), 2)[0], "outer"
    )
    assert list(found) == ["outer"]
    assert found["outer"]["num_documents"] == 6
    assert 0 <= found["outer"]["acc,none"] <= 1
