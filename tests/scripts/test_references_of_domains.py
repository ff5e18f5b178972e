"""A reference of its own for a domain: scores of plain models, both pages, and flags that do not fit."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

import attention_influence_scoring
import make_reference_model
import rank_scores
import report
import validate_docs
from common.model.reference import read_record
from common.scoring.units import UnitScorer
from tests.conftest import error_of, load_plain, plain_loss, plain_windows
from tests.scripts.conftest import shown_losses, token_ids

TWO = ["--reference_model", "default=reference-model", "b=reference-b"]


@pytest.fixture
def scored(run, spm_folder, monkeypatch):
    """The flags of a run in which domain b has a reference that masks other heads."""
    others = [(layer, head) for layer in (1, 2) for head in range(4)]
    others = [head for head in others if head not in read_record("reference-model").heads][:3]
    Path("b.txt").write_text("".join(f"{layer},{head}\n" for layer, head in others))
    make_reference_model.main(f"--base_model {spm_folder} --retrieval_heads b.txt --out reference-b".split())
    flags = ["--base_model", str(spm_folder), "--seq_len", "64", "--data", "data/mine/*.bin"]
    monkeypatch.setattr("common.scoring.loss.TOKENS_PER_BATCH", {"cpu": 200})  # many batches in a unit
    attention_influence_scoring.main([*flags, *TWO, "--out", "data/two/ai_scores.tsv"])
    return flags


def test_each_document_has_the_losses_of_its_domain_s_reference(scored, spm_folder):
    scores = pd.read_parquet("data/two/ai_scores.parquet")
    before = pd.read_parquet("data/ai_scores.parquet")  # all by reference-model
    assert scores["doc_id"].tolist() == before["doc_id"].tolist()
    references = {"a": "reference-model", "b": "reference-b"}
    for row in scores.iloc[[0, 1, 5, 40, 41, -2, -1]].itertuples():
        windows = plain_windows(token_ids(row.doc_id), 64, 1)
        base, reference = (plain_loss(load_plain(name), windows) for name in (spm_folder, references[row.domain]))
        assert row.L_base == pytest.approx(base, abs=1e-4)
        assert row.L_ref == pytest.approx(reference, abs=1e-4)
    assert {"a", "b"} == set(scores.iloc[[0, 1, 5, 40, 41, -2, -1]]["domain"])
    change = (scores["L_ref"] - before["L_ref"]).abs()
    assert change[scores["domain"] == "a"].max() < 1e-5
    assert change[scores["domain"] == "b"].min() > 1e-5


def test_the_record_and_both_pages_know_the_references(scored, capsys):
    record = json.loads(Path("data/two/ai_scores.json").read_text())
    assert record["reference_model"] == "reference-model"
    assert record["reference_of"] == {"b": "reference-b"}
    assert "; b: 3 heads masked" in record["summary"]
    rows = pd.read_parquet("data/two/ai_scores.parquet").iloc[[0, 1]]
    assert rows["domain"].tolist() == ["a", "b"]
    validate_docs.main(["--scores", "data/two/ai_scores.tsv"])  # its command knows them
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("validate_docs.py")[2])
    command = command[: command.index("--doc_id")]
    assert [*TWO[1:]] == command[command.index("--reference_model") + 1 : command.index("--seq_len")]
    for row in rows.itertuples():
        validate_docs.main([*command, "--doc_id", row.doc_id])
        out = capsys.readouterr().out
        which = {"a": "for all other domains", "b": "of its own"}[row.domain]
        assert f"domain {row.domain}, scored under the reference {which}" in out
        assert shown_losses(out) == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=2e-6)
    validate_docs.main([*command, "--doc_id", *rows["doc_id"], "--html", "tokens.html"])
    page = Path("tokens.html").read_text()
    shown = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert shown["reference"] == "default=reference-model b=reference-b"
    for document, row in zip(shown["documents"], rows.itertuples(), strict=True):
        assert document["means"] == pytest.approx([row.L_base, row.L_ref, row.AI_Score], abs=2e-6)
    rank_scores.main(["--scores", "data/two/ai_scores.tsv", "--out", "data/two/top20.tsv"])
    report.main(["--scores", "data/two/ai_scores.parquet"])
    page = Path("data/two/report.html").read_text()
    assert "b: reference-b" in page
    assert "Domains with a reference of their own: b. Heads and verdict are of reference-model." in page


@pytest.mark.parametrize("steps", [[], ["--granularity", "step"]])
def test_a_stopped_run_goes_on_to_the_same_bits(scored, monkeypatch, steps):
    monkeypatch.setattr("common.scoring.units.MIN_UNIT_TOKENS", {"cpu": 400})
    attention_influence_scoring.main([*scored, *TWO, *steps, "--out", "whole.tsv"])
    pieces, call = [], UnitScorer.__call__

    def stopped(self, unit):
        for piece in call(self, unit):
            pieces.append(piece)
            if len(pieces) in (2, 5):
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(UnitScorer, "__call__", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            attention_influence_scoring.main([*scored, *TWO, *steps, "--out", "stopped.tsv"])
    attention_influence_scoring.main([*scored, *TWO, *steps, "--out", "stopped.tsv"])
    assert len(pieces) > 5
    assert Path("stopped.tsv").read_bytes() == Path("whole.tsv").read_bytes()
    if steps:
        assert Path("stopped.steps.tsv").read_bytes() == Path("whole.steps.tsv").read_bytes()


def test_an_estimate_of_several_references_writes_nothing(scored, capsys, monkeypatch):
    monkeypatch.setattr("common.scoring.units.MIN_UNIT_TOKENS", {"cpu": 400})
    attention_influence_scoring.main([*scored, *TWO, "--out", "new.tsv", "--estimate"])
    assert "tokens/s on this device" in capsys.readouterr().out
    assert not list(Path().glob("new*"))


def test_a_run_with_other_references_does_not_go_on(scored, capsys):
    out = ["--out", "data/two/ai_scores.tsv"]
    capsys.readouterr()
    attention_influence_scoring.main([*scored, *TWO, *out])
    assert "wrote" in capsys.readouterr().out
    line = error_of(attention_influence_scoring, [*scored, "--reference_model", "reference-model", *out], capsys)
    assert "reference_of" in line and "--overwrite" in line
    line = error_of(attention_influence_scoring, [*scored, *TWO, "a=reference-b", *out], capsys)
    assert "reference_of" in line and "--overwrite" in line


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("default=reference-model c=reference-model", "has the domain 'c'; there are 'a', 'b'"),
        ("b=reference-model", "give one folder, or default=FOLDER"),
        ("default=reference-model =reference-model", "give one folder, or default=FOLDER"),
        ("reference-model b=reference-model", "give one folder, or default=FOLDER"),
        ("b=reference-model a=reference-model", "give one folder, or default=FOLDER"),
        ("default=reference-model b=x b=y", "give one folder, or default=FOLDER"),
        ("default=reference-model b=", "give one folder, or default=FOLDER"),
        ("default=reference-model b=nowhere", "nowhere"),
        ("default=reference-model b=plays", "plays is no masked copy of"),
    ],
)
def test_references_that_do_not_fit_are_refused_in_a_line(run, spm_folder, capsys, values, fault):
    if values.endswith("plays"):
        Path("plays").symlink_to(spm_folder)
    flags = ["--base_model", str(spm_folder), "--data", "data/mine/*.bin", "--out", "data/two/ai_scores.tsv"]
    line = error_of(attention_influence_scoring, [*flags, "--reference_model", *values.split()], capsys)
    assert fault in line
    assert not Path("data/two").exists() or not list(Path("data/two").glob("*.tsv"))
