"""A scored pilot to a predictor: what is told about its domains, and what is refused."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import prefilter_scores
from tests.conftest import error_of, write_jsonl
from tests.prefilter.conftest import SIZES

LEARN = ["learn", "--scores", "scores.parquet"]


@pytest.fixture
def scored_pilot(pilot, tmp_path, monkeypatch):
    """A copy of the pilot, as the working directory."""
    shutil.copytree(pilot, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record():
    return json.loads(Path("data/prefilter/learn.json").read_text())


def test_a_function_of_the_text_is_learnt_and_chance_and_few_documents_are_told(scored_pilot, capsys):
    prefilter_scores.main(LEARN)
    out = capsys.readouterr().out
    assert "told: score 40% of the documents, lose 0% (0% to " in out
    assert "random: the predictor is no better than chance; it will be kept whole" in out
    assert "tiny: too few documents in the pilot; it will be kept whole" in out
    prices = record()["prices"]
    assert {name: price["documents"] for name, price in prices.items()} == {"told": 240, "random": 120}
    assert prices["told"]["recall"][39] > 0.97
    assert record()["whole"].keys() == {"random", "tiny"}
    table = pd.read_csv("data/prefilter/price_list.tsv", sep="\t")
    assert list(table.columns) == ["domain", "share", "tokens", "recall", "low", "high"]
    assert len(table) == 2 * 20
    assert Path("data/prefilter/price_list.png").read_bytes().startswith(b"\x89PNG")


def test_the_empty_domain_has_a_name(scored_pilot, capsys):
    pd.read_parquet("scores.parquet").replace({"domain": {"told": "", "tiny": ""}}).to_parquet("scores.parquet")
    prefilter_scores.main([*LEARN, "--overwrite"])
    assert "\n(no domain): score 40% of the documents" in f"\n{capsys.readouterr().out}"
    rows = [json.loads(line) | {"kind": ""} for line in Path("pilot.jsonl").read_text().splitlines()]
    write_jsonl("pilot.jsonl", rows)
    prefilter_scores.main("apply --input pilot.jsonl --domain_column kind --keep 0.4".split())
    assert "\n(no domain): 152 of 380 documents" in f"\n{capsys.readouterr().out}"


def test_the_cost_is_what_is_scored_of_each_document(scored_pilot):
    assert record()["prices"]["told"]["tokens"][39] != 0.4
    pd.read_parquet("scores.parquet").assign(scored_tokens=7).to_parquet("scores.parquet")
    prefilter_scores.main([*LEARN, "--overwrite"])
    assert record()["prices"]["told"]["tokens"][39] == 0.4


def test_texts_from_tokens_teach_the_same(scored_pilot):
    wanted = Path("data/prefilter/predictor.json").read_bytes()
    Path("pilot.jsonl").unlink()
    prefilter_scores.main([*LEARN, "--from_tokens", "--overwrite"])
    assert Path("data/prefilter/predictor.json").read_bytes() == wanted


def test_what_was_kept_goes_when_another_predictor_comes(scored_pilot, capsys):
    prefilter_scores.main("apply --input pilot.jsonl --domain_column kind --keep 0.4".split())
    line = error_of(prefilter_scores, [*LEARN, "--top_pct", "10"], capsys)
    assert "data/prefilter holds the work of another run (top_pct was 20.0, is 10.0)" in line
    assert Path("data/prefilter/kept.parquet").exists()
    prefilter_scores.main([*LEARN, "--top_pct", "10", "--overwrite"])
    assert record()["top_pct"] == 10
    assert not list(Path("data/prefilter").glob("kept.*"))


def test_documents_that_have_changed_are_left_out(scored_pilot, capsys):
    lines = Path("pilot.jsonl").read_text().splitlines()
    place = next(place for place, line in enumerate(lines) if '"told"' in line)
    row = json.loads(lines[place]) | {"text": "another text"}
    Path("pilot.jsonl").write_text("\n".join([*lines[:place], json.dumps(row), *lines[place + 1 :]]) + "\n")
    with pytest.raises(SystemExit) as status:
        prefilter_scores.main(LEARN)
    assert status.value.code == 3
    assert f"1 of {sum(SIZES.values())} documents have changed since they were scored" in capsys.readouterr().err
    assert record()["prices"]["told"]["documents"] == SIZES["told"] - 1


def test_the_same_again_leaves_what_was_kept(scored_pilot, capsys):
    prefilter_scores.main("apply --input pilot.jsonl --domain_column kind --keep 0.4".split())
    prefilter_scores.main(LEARN)
    assert Path("data/prefilter/kept.json").exists()
    capsys.readouterr()
    Path("scores.json").write_text('{"sample": 0.01, "base_model": "base", "seq_len": 32}')
    predictor = Path("data/prefilter/predictor.json").read_bytes()
    prefilter_scores.main(LEARN)
    assert Path("data/prefilter/predictor.json").read_bytes() == predictor and record()["pilot"]["seq_len"] == 32
    deleted = "deleted data/prefilter/kept.json and data/prefilter/kept.parquet: made with another learn.json;"
    assert deleted in capsys.readouterr().out


def test_a_pilot_whose_record_says_no_sample_is_doubted(scored_pilot, capsys):
    prefilter_scores.main(LEARN)
    assert "does not say --sample" not in capsys.readouterr().err
    Path("scores.json").write_text('{"sample": null}')
    prefilter_scores.main(LEARN)
    assert "warning: scores.json: does not say --sample" in capsys.readouterr().err


def few_rows(path):
    pd.read_parquet(path).head(50).to_parquet(path)


def without_score(path):
    pd.read_parquet(path).assign(AI_Score=float("nan")).to_parquet(path)


def chosen(path):
    pd.read_parquet(path).assign(prefilter_predicted=0.5).to_parquet(path)


def selected(path):
    pd.read_parquet(path).assign(shard="a.bin", start=0, end=9).to_csv("top.tsv", sep="\t", index=False)


def emptied(path):
    lines = map(json.loads, Path("pilot.jsonl").read_text().splitlines())
    write_jsonl("pilot.jsonl", [row | {"text": ""} for row in lines])


def without_hashes(path):
    pd.read_parquet(path).drop(columns="text_hash").to_parquet(path)


def emptied_without_hashes(path):
    emptied(path)
    without_hashes(path)


BAD = {
    "--from_tokens": (chosen, "scores.parquet: a prefilter chose these documents (column prefilter_predicted)"),
    "--scores top.tsv": (selected, "top.tsv: a selection (columns shard, start, end), which is no fair sample"),
    "--score nothing": (None, "--score nothing: not a measure of score tables; name one of L_base, L_ref, AI_Score"),
    "--score AI_Score_novel": (None, "scores.parquet: no document has a finite AI_Score_novel; name another --score"),
    "--scores none.parquet": (None, "none.parquet: no such file"),
    "--scores pilot.jsonl": (None, "pilot.jsonl: "),
    "--text_column nothing": (None, "no column 'nothing'"),
    "--prefilter s3://bucket/x": (None, "s3://bucket/x: give a folder of this machine"),
    "--text_column text": (emptied, "scores.parquet: no document has a text, as it was when it was scored"),
    "--score AI_Score": (
        emptied_without_hashes,
        "scores.parquet: no document has a text, as it was when it was scored",
    ),
    "--text_column none": (without_hashes, "pilot.jsonl: no column 'none'; name the right one with --text_column"),
    "": (few_rows, "scores.parquet: no domain has 100 documents with a finite AI_Score"),
    "--top_pct 5": (without_score, "scores.parquet: no document has a finite AI_Score"),
}


@pytest.mark.parametrize("flags", BAD)
def test_a_pilot_that_cannot_teach_is_refused_in_one_line(scored_pilot, flags, capsys):
    change, wanted = BAD[flags]
    if change:
        change("scores.parquet")
    before = Path("data/prefilter/predictor.json").read_bytes()
    assert wanted in error_of(prefilter_scores, [*LEARN, "--overwrite", *flags.split()], capsys)
    assert Path("data/prefilter/predictor.json").read_bytes() == before
