"""A selection goes next to its table, and does not replace the selection from another."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import rank_scores
from tests.conftest import error_of


@pytest.fixture(autouse=True)
def tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [(f"s/x:{n}-{n + 1}", "d", 1, 2.0, 3.0, n / 10) for n in range(10)]
    table = pd.DataFrame(rows, columns=["doc_id", "domain", "num_tokens", "L_base", "L_ref", "AI_Score"])
    Path("data/mine").mkdir(parents=True)
    for name in ("data/ai_scores.tsv", "data/mine/ai_scores.tsv", "data/other.tsv"):
        table.to_csv(name, sep="\t", index=False)
        table.to_parquet(Path(name).with_suffix(".parquet"))


def rank(scores: str, *flags: str) -> None:
    rank_scores.main(["--scores", scores, "--max_repetition", "1", "--dedup", "none", *flags])


def test_each_table_has_its_own_selection(capsys):
    rank("data/ai_scores.tsv")
    rank("data/mine/ai_scores.parquet", "--bottom_pct", "10")
    rank("data/other.tsv")
    found = {str(path): json.loads(path.read_text())["scores"] for path in Path("data").rglob("*.json")}
    assert found == {
        "data/top20.json": "data/ai_scores.tsv",
        "data/mine/bottom10.json": "data/mine/ai_scores.parquet",
        "data/other.top20.json": "data/other.tsv",
    }
    next_lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("next:", "then:"))]
    assert next_lines[:2] == [
        "next: python validate_docs.py --scores data/ai_scores.tsv --selection data/top20.parquet --top 1 --bottom 1",
        "then: python report.py --scores data/ai_scores.tsv --selection data/top20.parquet",
    ]


def test_a_selection_from_another_table_is_kept_unless_told_otherwise(capsys):
    rank("data/ai_scores.tsv")
    before = Path("data/top20.parquet").read_bytes()
    rank("data/ai_scores.parquet", "--out", "data/top20.tsv")  # the same table
    flags = "--scores data/other.tsv --max_repetition 1 --dedup none --top_pct 50 --out data/top20.tsv"
    line = error_of(rank_scores, flags, capsys)
    assert "data/top20.tsv: a selection from data/ai_scores.parquet, not from data/other.tsv" in line
    assert Path("data/top20.parquet").read_bytes() == before
    rank("data/other.tsv", "--out", "data/top20.tsv", "--overwrite")
    assert json.loads(Path("data/top20.json").read_text())["scores"] == "data/other.tsv"
    shutil.rmtree("data/mine")
