"""A corpus through a prefilter: the same selection as from all of it, and every step says what was scored."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import attention_influence_scoring
import fineweb
import rank_scores
from common.model.heads import write_head_scores
from common.scoring.plan import prefilter_of
from common.table.selection import KEPT_BY
from common.text.kept import PREDICTED
from tests.conftest import MASKED, SENTENCES, error_of, write_jsonl
from tests.scripts.conftest import page_data, report_page, write_kept

SAID = "by the price list about 90 % (80 to 100 %) of its true top 20 % (without guards) is in it"
NO_GUARDS = "--max_repetition 1 --dedup none"


def documents(number: int) -> list[dict]:
    rng = np.random.default_rng(number)
    texts = ["\n\n".join(rng.choice(SENTENCES, 1 + i % 4)) for i in range(40)]
    return [{"text": text, "kind": "ab"[i % 3 == 0]} for i, text in enumerate(texts)]


def tokenize(out: str, more: str = "") -> None:
    flags = f"--tokenizer base --input in --domain_column kind --shard_size 500 --out_dir {out} {more}"
    fineweb.main(flags.split())


SCORE = "--base_model base --seq_len 64 --dtype float32 --data {0}/fineweb_train_*.bin --out {0}/ai_scores.tsv"


def rows_of(table: str) -> list[tuple]:
    found = pd.read_parquet(table)
    return list(zip(found["file"], found["row"], strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory, pair_folders):
    """A folder with a corpus, `whole` and `part` scored, and `whole` selected; of each domain some 40 % are kept."""
    folder = tmp_path_factory.mktemp("cascade")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(pair_folders["no BOS"] / "model", "base")
        shutil.copytree(pair_folders["no BOS"] / "reference-model", "reference-model")
        Path("in").mkdir()
        for number in range(2):
            write_jsonl(f"in/{number}.jsonl", documents(number))
        tokenize("whole")
        attention_influence_scoring.main(SCORE.format("whole").split())
        table = pd.read_parquet("whole/ai_scores.parquet")
        table["rank"] = table.groupby("domain")["AI_Score"].rank(pct=True)
        table["kept"] = (table["rank"] > 0.75) | (table["rank"] < 0.15)
        characters = [len(each["text"]) for number in range(2) for each in documents(number)]
        write_kept(
            zip(table["file"], table["row"], table["domain"], characters, table["rank"], table["kept"], strict=True)
        )
        rank_scores.main([*"--scores whole/ai_scores.tsv".split(), *NO_GUARDS.split()])
        tokenize("part", "--prefilter data/prefilter")
        attention_influence_scoring.main([*SCORE.format("part").split(), "--granularity", "step"])
        write_head_scores("data/retrieval_heads.tsv", np.random.default_rng(0).random((4, 8)), MASKED)
    return folder


@pytest.fixture
def folder(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_the_selection_is_that_of_the_whole_corpus_and_says_what_was_scored(folder, capsys):
    rank_scores.main([*"--scores part/ai_scores.tsv".split(), *NO_GUARDS.split()])
    said = capsys.readouterr().out
    assert rows_of("part/top20.parquet") == rows_of("whole/top20.parquet")
    assert len(rows_of("part/ai_scores.parquet")) == 31
    assert "\nkept by the prefilter: 38.8 % of the corpus (" in said and SAID in said and "another" not in said
    assert "the selection is of about 80 documents: the ranked ones, and their share of those that" in said
    assert "warning" not in said
    kept = json.loads(Path("data/prefilter/kept.json").read_text())
    record = json.loads(Path("part/top20.json").read_text())
    scoring = json.loads(Path("part/ai_scores.json").read_text())
    assert scoring["prefilter"] == record["cascade"] == json.loads(Path("part/dataset.json").read_text())["prefilter"]
    assert record["cascade"]["domains"]["a"] == {
        name: kept["domains"]["a"][name] for name in ("documents", "kept", "characters", "kept_characters", "recall")
    }
    assert {name: each["whole"] for name, each in record["domains"].items()} == {"a": 52, "b": 28}
    data = page_data(report_page("--scores", "part/ai_scores.parquet", "--selection", "part/top20.parquet"))
    [kept_by] = [value for name, value in data["facts"] if name == KEPT_BY]
    assert SAID in kept_by
    assert json.loads(Path("whole/ai_scores.json").read_text())["prefilter"] is None


def test_a_sample_of_what_was_kept_is_not_said_to_be_of_the_whole_corpus(folder, capsys):
    attention_influence_scoring.main([*SCORE.format("part").replace("ai_scores", "half").split(), "--sample", "50%"])
    rank_scores.main([*"--scores part/half.tsv".split(), *NO_GUARDS.split()])
    said = capsys.readouterr().out
    total = sum(each["whole"] for each in json.loads(Path("part/half.top20.json").read_text())["domains"].values())
    assert 20 < total < 60
    assert f"the selection is of about {total} documents: the ranked ones" in said
    assert "\nkept by the prefilter: 38.8 %" in said and "\nscored: " not in said


def test_steps_and_tsv_are_of_the_whole_corpus_too(folder):
    Path("part/ai_scores.parquet").rename("away")
    try:
        rank_scores.main([*"--scores part/ai_scores.tsv --overwrite".split(), *NO_GUARDS.split()])
        assert rows_of("part/top20.parquet") == rows_of("whole/top20.parquet")
    finally:
        Path("away").rename("part/ai_scores.parquet")
    rank_scores.main([*"--scores part/ai_scores.steps.tsv".split(), *NO_GUARDS.split()])
    record = json.loads(Path("part/ai_scores.steps.top20.json").read_text())
    steps = {name: domain["documents"] for name, domain in record["domains"].items()}
    assert steps["a"] > 20 and steps["b"] > 11  # of so many documents that are kept
    assert record["domains"]["a"]["whole"] == round(steps["a"] * 52 / 20)
    assert record["domains"]["b"]["whole"] == round(steps["b"] * 28 / 11)


def test_shards_with_and_without_a_prefilter_are_not_scored_together(folder, capsys):
    both = "--base_model base --data whole/fineweb_train_*.bin part/fineweb_train_*.bin --out both.tsv"
    line = error_of(attention_influence_scoring, both, capsys)
    assert "whole and part went through different prefilters, or one through none" in line
    assert not Path("both.parts").exists()


def test_shards_of_one_prefilter_in_several_folders_are_one_corpus(folder):
    for number in range(2):
        tokenize(f"half{number}", f"--input in/{number}.jsonl --prefilter data/prefilter")
    halves = [Path(f"half{number}/fineweb_train_000001.bin") for number in range(2)]
    assert prefilter_of(halves[:1]).domains["a"].documents == 26
    together = prefilter_of(halves)
    assert together.domains == prefilter_of([Path("part/fineweb_train_000001.bin")]).domains
    assert prefilter_of([*halves, Path("half0").resolve() / "fineweb_train_000002.bin"]) == together
    record = json.loads(Path("half1/dataset.json").read_text())
    record["prefilter"]["pilot"] = {"seq_len": 64}  # of a folder of scores that lost its record
    Path("half1/dataset.json").write_text(json.dumps(record))
    assert prefilter_of(halves) == prefilter_of(halves[::-1]) == replace(together, pilot={"seq_len": 64})


def test_the_recall_of_the_whole_corpus_is_not_said_of_a_part_of_it(folder, capsys):
    tokenize("first", "--input in/0.jsonl --prefilter data/prefilter")
    attention_influence_scoring.main(SCORE.format("first").split())
    rank_scores.main([*"--scores first/ai_scores.tsv".split(), *NO_GUARDS.split()])
    said = capsys.readouterr().out
    assert "% of what was read (" in said and "of the corpus (" not in said
    assert f"{SAID}; that holds for all that was prefiltered, and is not known for the part that was read" in said
    tokenize("first", "--prefilter data/prefilter")
    assert prefilter_of([Path("first/x.bin")]) == prefilter_of([Path("part/x.bin")])


def test_a_pilot_that_was_scored_in_another_way_is_told(folder, capsys):
    shutil.copytree("part", "piloted", ignore=shutil.ignore_patterns("ai_scores*", "*top20*", "again*"))
    record = json.loads(Path("piloted/dataset.json").read_text())
    pilot = {"base_model": str(folder / "base"), "tokenizer": "./base/", "seq_len": 64, "score_tokens": None}
    changed = "(score_separator was False, is True; seq_len was 4096, is 64)"
    for more, wanted in (({}, 0), ({"seq_len": 4096, "score_separator": False}, 1)):
        record["prefilter"]["pilot"] = pilot | more
        Path("piloted/dataset.json").write_text(json.dumps(record))
        for mode in (["--estimate"], ["--max_tokens", "50"]):
            attention_influence_scoring.main([*SCORE.format("piloted").split(), *mode])
            assert capsys.readouterr().err.count(f"was scored in another way {changed}, and its") == wanted


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("--scores part/ai_scores.tsv --top_pct 50", "the prefilter left out some documents of such a domain"),
        ("--scores part/ai_scores.tsv --bottom_pct 20", "the prefilter left out the lowest documents"),
        ("--scores mine.parquet", "rows went through a prefilter (column prefilter_predicted), but mine.json does not"),
        ("--scores part/again.parquet", "again.json does not say what it kept"),
        ("--scores odd/ai_scores.parquet", "not the record of a prefilter (KeyError('model')); make it again"),
    ],
)
def test_what_cannot_be_selected_is_one_line(folder, flags, wanted, capsys):
    table = pd.read_parquet("part/ai_scores.parquet")
    assert table[PREDICTED].notna().all()
    table[table["num_tokens"] > 20].to_parquet("mine.parquet")
    rank_scores.main([*"--scores part/ai_scores.tsv --out part/again.tsv --overwrite".split(), *NO_GUARDS.split()])
    Path("odd").mkdir(exist_ok=True)
    table.to_parquet("odd/ai_scores.parquet")
    Path("odd/ai_scores.json").write_text(json.dumps({"prefilter": {"domains": {}}}))
    assert wanted in error_of(rank_scores, f"{flags} {NO_GUARDS}", capsys)
