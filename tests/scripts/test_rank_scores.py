"""rank_scores.py: the selection, and bad input."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rank_scores
from tests.conftest import ROOT, error_of
from tests.scripts.conftest import spoil


def test_the_selection_is_the_best_of_each_domain(run):
    scores, top = pd.read_parquet("data/ai_scores.parquet"), pd.read_parquet("data/top20.parquet")
    scores = scores[(scores["repetition"] <= 0.3) & (scores["near_duplicate_of"] == "")]
    for domain, rows in scores.groupby("domain"):
        wanted = sorted(rows["AI_Score"], reverse=True)[: -(-len(rows) // 5)]
        assert top[top["domain"] == domain]["AI_Score"].tolist() == pytest.approx(wanted, rel=1e-9)
    assert pd.read_csv("data/top20.tsv", sep="\t")["doc_id"].tolist() == top["doc_id"].tolist()


def test_the_other_end_and_a_share_of_tokens_can_be_selected(run):
    scores = pd.read_parquet("data/ai_scores.parquet")
    everything = "--max_repetition 1 --dedup none".split()
    rank_scores.main(["--bottom_pct", "10", *everything])
    bottom = pd.read_parquet("data/bottom10.parquet")
    rank_scores.main(["--by", "tokens", "--top_pct", "30", "--out", "data/tokens.tsv", *everything])
    by_tokens = pd.read_parquet("data/tokens.parquet")
    for domain, rows in scores.groupby("domain"):
        assert bottom[bottom["domain"] == domain]["AI_Score"].iloc[0] == pytest.approx(rows["AI_Score"].min())
        lengths = by_tokens[by_tokens["domain"] == domain]["num_tokens"]
        assert lengths.sum() >= 0.3 * rows["num_tokens"].sum() > lengths.iloc[:-1].sum()


def test_a_budget_has_a_name_of_its_own_and_says_what_is_short(run, capsys):
    table = pd.read_parquet("data/ai_scores.parquet")
    rank_scores.main("--budget 2K --shares a=0.9 --max_repetition 1 --dedup none".split())
    tokens = table.groupby("domain")["num_tokens"].sum()
    assert tokens["a"] < 1800 < tokens.sum()
    found = pd.read_parquet("data/budget2K.parquet").groupby("domain")["num_tokens"].sum()
    assert found["a"] == tokens["a"]
    assert 200 <= found["b"] < 200 + table["num_tokens"].max()
    assert f"'a': all {tokens['a']:,} tokens are selected, but 1,800 were wanted" in capsys.readouterr().out


def test_a_filter_that_empties_a_domain_says_so_and_goes_on(run, capsys):
    rank_scores.main(["--where", "domain <> 'a'", "--out", "b.tsv"])
    assert set(pd.read_parquet("b.parquet")["domain"]) == {"b"}
    assert "warning: 'a': no document is left to rank" in capsys.readouterr().out


def test_the_second_writer_of_an_output_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, common.files as f; lock = f.sole_writer('top20.tsv'); lock.__enter__(); "
         "print('held', flush=True); sys.stdin.read()"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    table = {
        "doc_id": ["x:0-5"],
        "domain": ["a"],
        "num_tokens": [5],
        "L_base": [1.0],
        "L_ref": [2.0],
        "AI_Score": [1.0],
    }
    pd.DataFrame(table).to_parquet("scores.parquet")
    command = "--scores scores.parquet --out top20.tsv --max_repetition 1 --dedup none"
    assert "another run is writing it" in error_of(rank_scores, command, capsys)
    assert not Path("top20.tsv").exists()
    holder.kill()  # a lock dies with its process, however that dies
    holder.wait()
    rank_scores.main(command.split())
    assert Path("top20.tsv").exists()


def with_cell(folder, column, value):
    """The scores with one cell of the second row changed, in `nulls.parquet`."""
    table = pq.read_table(folder / "data/ai_scores.parquet")
    rows = table.to_pylist()
    rows[1][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "nulls.parquet")


GUARDS = 3 * b"\t1.5" + b"\t5\t0\t0\t0\t\t" + 5 * b"\t" + b"\n"  # of a row of the table
RANK = [rank_scores, "--out", "new.tsv"]


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "a selection over the scores": (
        [rank_scores, *"--scores data/ai_scores.tsv --out data/ai_scores.tsv".split()],
        None,
        ["data/ai_scores.tsv", "an input"],
    ),
    "a doc_id twice": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b.splitlines()[-1] + b"\n"),
        ["data/ai_scores.tsv", "twice"],
    ),
    "no scores": ([*RANK, "--scores", "gone.tsv"], None, ["gone.tsv"]),
    "scores lack a column": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b.replace(b"AI_Score", b"score", 1)),
        ["data/ai_scores.tsv", "'AI_Score'"],
    ),
    "a broken row": (RANK, lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"x\ty\n"), ["data/ai_scores.tsv"]),
    "a parquet that is not one": (
        [*RANK, "--scores", "data/ai_scores.parquet"],
        lambda d: (d / "data/ai_scores.parquet").write_bytes(b"PAR1 not parquet PAR1"),
        ["data/ai_scores.parquet", "not a score table"],
    ),
    "a parquet of something else": (
        [*RANK, "--scores", "data/mine/fineweb_train_000001.index.parquet"],
        None,
        ["fineweb_train_000001.index.parquet", "'doc_id'"],
    ),
    "a score that is no number": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"x:0-5\ta\t5\t1.0\thigh\t0.5\n"),
        ["data/ai_scores.tsv", "high"],
    ),
    "scores that are not UTF-8": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"\xff\xfe\ta\t5\t1.0\t1.0\t0.5\n"),
        ["data/ai_scores.tsv"],
    ),
    "a row of the table cut short": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b[:-40]),
        ["data/ai_scores.tsv"],
    ),
    "a table without a row": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b.splitlines(keepends=True)[0]),
        ["data/ai_scores.tsv", "no rows"],
    ),
    "no finite score": (
        RANK,
        lambda d: spoil(
            d / "data/ai_scores.tsv",
            lambda b: b.splitlines(keepends=True)[0] + b"x:0-5\ta\t5\tnan\tnan\tnan" + GUARDS,
        ),
        ["data/ai_scores.tsv", "finite"],
    ),
    "an id in the table with an absurd number": (
        RANK,
        lambda d: spoil(
            d / "data/ai_scores.tsv", lambda b: b + b"x:0-99999999999999999999\ta\t5\t1.0\t9.0\t8.0" + GUARDS
        ),
        ["x:0-99999999999999999999", "start-end"],
    ),
    "a null doc_id in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "doc_id", None),
        ["nulls.parquet", "row 2"],
    ),
    "a null num_tokens in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "num_tokens", None),
        ["nulls.parquet", "row 2"],
    ),
    "a negative num_tokens in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "num_tokens", -3),
        ["nulls.parquet", "row 2"],
    ),
    "a control character in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "domain", "a\nb\x1b[31m"),
        ["nulls.parquet", "row 2", "control"],
    ),
    "an id in the table that runs backwards": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"x:9-5\ta\t5\t1.0\t9.0\t8.0\n"),
        ["x:9-5"],
    ),
    "a column of the table twice": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b.replace(b"L_ref", b"L_base", 1)),
        ["data/ai_scores.tsv"],
    ),
    "no name for the table": ([*RANK, "--scores", ""], None, ["."]),
    "an output that is a pipe": (
        [*RANK[:-1], "pipe.tsv"],
        lambda d: os.mkfifo(d / "pipe.tsv"),
        ["pipe.tsv", "device or pipe"],
    ),
    "an id in the table that is none": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"nowhere\ta\t5\t1.0\t9.0\t8.0" + GUARDS),
        ["data/ai_scores.tsv: doc_id 'nowhere'", "start-end"],
    ),
    "a filter over no column": ([*RANK, "--where", "edu > 1"], None, ["--where edu > 1", "no column 'edu'"]),
    "a score that is text": ([*RANK, "--score", "domain"], None, ["--score domain", "not a number"]),
    "a value that is no number": ([*RANK, "--score", "doc_id::INT"], None, ["data/ai_scores.tsv", "convert"]),
    "groups of text": ([*RANK, "--within", "domain:10"], None, ["--within domain", "not a number"]),
    "groups without a number": ([*RANK, "--within", "num_tokens"], None, ["--within", "COLUMN:N"]),
    "no group": ([*RANK, "--within", "num_tokens:0"], None, ["--within", "0 is not at least 1"]),
    "a filter that leaves nothing": ([*RANK, "--where", "false"], None, ["all rows are left out", "--where"]),
    "a budget and a percentage": ([*RANK, *"--budget 1e3 --top_pct 5".split()], None, ["not allowed"]),
    "a budget of documents": ([*RANK, *"--budget 1e3 --by documents".split()], None, ["--by documents", "tokens"]),
    "half a token": ([*RANK, *"--budget 0.5".split()], None, ["--budget"]),
    "a budget that is no number": ([*RANK, *"--budget 7X".split()], None, ["--budget", "7X"]),
    "shares of nothing": ([*RANK, *"--shares a=1".split()], None, ["--shares", "--budget"]),
    "shares above 1": ([*RANK, *"--budget 9 --shares a=0.7 b=0.4".split()], None, ["--shares", "1.1", "at most 1"]),
    "a share twice": ([*RANK, *"--budget 9 --shares a=0.1 a=0.4".split()], None, ["--shares", "twice"]),
    "a share of no domain": ([*RANK, *"--budget 9 --shares c=0.1".split()], None, ["--shares", "no domain 'c'"]),
    "too little memory": ([*RANK, *"--memory 10MB".split()], None, ["--memory", "200MB"]),
    "bottom_pct 0": ([*RANK, "--bottom_pct", "0"], None, ["--bottom_pct"]),
    "top and bottom": ([*RANK, *"--top_pct 20 --bottom_pct 20".split()], None, ["not allowed"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
