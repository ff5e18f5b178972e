"""attention_influence_scoring.py --score_tokens: long documents scored on their beginning and on a random window."""

import hashlib
import json
import random
import re
import struct

import numpy as np
import pandas as pd
import pytest

import attention_influence_scoring
import rank_scores
import report
import validate_docs
from common.scoring import estimate
from common.scoring.units import UnitScorer
from tests.conftest import error_of, load_plain, plain_loss, plain_windows
from tests.scripts.conftest import page_data, shown_losses, token_ids, write_llm_c_shard

N = 6
LOSSES = ["L_base", "L_ref", "AI_Score"]
NOVEL = [f"{name}_novel" for name in LOSSES]


def passages(ids: list[int], separator_id: int) -> list[tuple[int, int]]:
    """What is scored of a document, as formats.md says."""
    if len(ids) <= 2 * N:
        return [(0, len(ids))]
    data = b"".join(struct.pack("<I", token) for token in ids if token != separator_id)
    number = struct.unpack("<I", hashlib.blake2b(data, digest_size=4).digest())[0]
    start = N + int(random.Random(number).random() * (len(ids) - 2 * N + 1))
    return [(0, N), (start, start + N)]


def windows(ids: list[int], separator_id: int, seq_len: int, bos_id: int | None) -> list[tuple[int, list[int]]]:
    """(place of its first target, its tokens) of every window, by hand."""
    found = []
    for start, end in passages(ids, separator_id):
        first = max(start, bos_id is None)
        cut = plain_windows(ids[first - (bos_id is None) : end], seq_len, bos_id)
        found += [(first + number * seq_len, window) for number, window in enumerate(cut)]
    return found


def by_hand(models, ids: list[int], cut: list[tuple[int, list[int]]], novel: bool) -> tuple[float, float, float]:
    """L_base, L_ref and AI_Score by plain transformers, a window at a time."""
    held = {p for p in range(4, len(ids)) if any(ids[p - 4 : p + 1] == ids[q - 4 : q + 1] for q in range(4, p))}
    means = []
    for model in models:
        losses = {
            place + target: plain_loss(model, [window[: target + 2]]) * (target + 1)
            - (plain_loss(model, [window[: target + 1]]) * target if target else 0)
            for place, window in cut
            for target in range(len(window) - 1)
        }
        means.append(np.mean([loss for place, loss in losses.items() if not (novel and place in held)]))
    return *means, (means[1] - means[0]) / means[0]


@pytest.fixture
def score(run, spm_folder):
    """Score into data/new.tsv; returns the table."""

    def score(*flags: str, out: str = "data/new.tsv") -> pd.DataFrame:
        command = f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64 --out {out}"
        attention_influence_scoring.main([*command.split(), *flags])
        return pd.read_parquet((run / out).with_suffix(".parquet"))

    return score


@pytest.mark.parametrize("seq_len", [4, 64])
@pytest.mark.parametrize(("kind", "bos_id", "separator_id"), [("no BOS", None, 0), ("SentencePiece", 1, 2)])
def test_the_scores_are_those_of_plain_models_over_both_windows(
    tmp_path, monkeypatch, pair_folders, kind, bos_id, separator_id, seq_len
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 300, length).tolist() for length in (3, 2 * N - 1, 2 * N, 30, 31)]
    documents.append(documents[-1][:7] * 5)  # of which most ends an n-gram that was there before
    write_llm_c_shard(tmp_path / "x.bin", documents, separator_id)
    folders = [pair_folders[kind] / name for name in ("model", "reference-model")]
    command = "--base_model {} --reference_model {} --data x.bin --out s.tsv --eot_id".format(*folders)
    flags = f"{separator_id} --seq_len {seq_len} --score_tokens {N} --tokenizer {folders[0]}"
    attention_influence_scoring.main(f"{command} {flags}".split())
    table, models = pd.read_parquet("s.parquet"), list(map(load_plain, folders))
    assert len(table) == len(documents)
    for row, document in zip(table.to_dict("records"), documents, strict=True):
        ids = [separator_id, *document]
        cut = windows(ids, separator_id, seq_len, bos_id)
        for names in (LOSSES, NOVEL):
            assert [row[name] for name in names] == pytest.approx(by_hand(models, ids, cut, names is NOVEL), abs=1e-4)
        assert row["num_tokens"] == len(ids)
        assert row["scored_tokens"] == sum(len(window) - 1 for _, window in cut)


def test_short_documents_guards_and_copies_are_those_of_a_whole_run(run, score):
    found, whole = score("--score_tokens", str(N)), pd.read_parquet("data/ai_scores.parquet")
    long = whole["num_tokens"] > 2 * N
    assert 5 < long.sum() < len(whole) - 5
    same = [name for name in whole if name not in [*LOSSES, *NOVEL, "scored_tokens"]]
    pd.testing.assert_frame_equal(found[same], whole[same])
    pd.testing.assert_frame_equal(found[~long], whole[~long], rtol=1e-5, atol=1e-6)
    assert (found["scored_tokens"][long] == 2 * N).all()
    assert (whole["scored_tokens"] == whole["num_tokens"]).all()
    assert (abs(found["L_base"] - whole["L_base"])[long] > 1e-3).mean() > 0.9


def test_batches_and_stops_change_no_score(run, score, monkeypatch):
    flags = ("--score_tokens", str(N))
    found = score(*flags)
    pd.testing.assert_frame_equal(score(*flags, "--tokens_per_batch", "1", out="one.tsv"), found, rtol=1e-5, atol=1e-6)
    sorted((run / "data/new.parts").glob("*.parquet"))[1].unlink()
    scorer, given = UnitScorer.__call__, []
    monkeypatch.setattr(UnitScorer, "__call__", lambda self, unit: given.extend(unit.documents) or scorer(self, unit))
    pd.testing.assert_frame_equal(score(*flags), found, rtol=0, atol=0)
    assert 0 < len(given) < len(found)


def test_two_workers_of_ray_give_the_scores_of_one_process(score):
    flags = ("--score_tokens", str(N))
    ray = score(*flags, "--engine", "ray", "--num_workers", "2", out="ray.tsv")
    pd.testing.assert_frame_equal(ray, score(*flags), rtol=1e-5, atol=1e-6)


def test_a_run_with_another_number_is_refused_and_the_record_has_it(run, score, spm_folder, capsys):
    score("--score_tokens", str(N))
    assert json.loads((run / "data/new.json").read_text())["score_tokens"] == N
    command = f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64 --out data/new.tsv"
    for flags, now in (("", None), ("--score_tokens 7", 7), ("--score_tokens 7 --estimate", 7)):
        line = error_of(attention_influence_scoring, f"{command} {flags}", capsys)
        assert f"score_tokens was {N}, is {now}" in line


def test_only_the_tokens_that_are_scored_count(run, score, spm_folder, capsys, monkeypatch):
    lengths = pd.read_parquet("data/ai_scores.parquet")["num_tokens"]
    read = lengths.clip(upper=2 * N)
    command = f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64 --out data/new.tsv --score_tokens {N}"
    attention_influence_scoring.main([*command.split(), "--estimate"])
    left = read.sum() + 3  # of two documents with nothing to predict
    said = capsys.readouterr().out
    assert f"to score: 90 documents, {left:,} tokens;" in said
    monkeypatch.setattr(estimate, "MOST_TOKENS", lengths.sum() // 10)  # a bound on memory: also of what is not read
    attention_influence_scoring.main([*command.split(), "--estimate"])
    assert 5 < int(re.search(r"on (\d+) documents", capsys.readouterr().out)[1]) < 12
    few = score("--score_tokens", str(N), "--max_tokens", "300")
    assert read[: len(few)].sum() + 3 >= 300 > read[: len(few) - 1].sum()
    score("--score_tokens", str(N))
    assert json.loads((run / "data/new.json").read_text())["scoring"]["tokens"] == left


def test_a_sample_has_the_scores_of_the_whole(score):
    part = score("--score_tokens", str(N), "--sample", "40%")
    whole = score("--score_tokens", str(N))
    kept = whole[whole["doc_id"].isin(part["doc_id"])].reset_index(drop=True)
    assert 0 < len(part) < len(whole)
    pd.testing.assert_frame_equal(part[LOSSES + NOVEL], kept[LOSSES + NOVEL], rtol=0, atol=0)


def test_a_document_shows_the_score_of_its_table_and_a_part_its_own(run, score, spm_folder, capsys):
    table = score("--score_tokens", str(N), "--overwrite", out="data/ai_scores.tsv")
    row = table.sort_values("num_tokens").iloc[-1]
    assert len(token_ids(row.doc_id)) > 4 * N
    capsys.readouterr()
    validate_docs.main(["--doc_id", row.doc_id])
    out = capsys.readouterr().out
    assert f"{row.num_tokens} tokens, {2 * N} of them scored" in out
    assert shown_losses(out) == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    shard, _, span = row.doc_id.rpartition(":")
    middle = sum(map(int, span.split("-"))) // 2
    validate_docs.main(["--doc_id", f"{shard}:{middle}-{middle + 3}"])
    assert "3 tokens  L_base" in capsys.readouterr().out
    rank_scores.main([])
    validate_docs.main(["--scores", "data/ai_scores.tsv"])
    assert f"--score_tokens {N}" in capsys.readouterr().out


def test_the_report_says_that_documents_were_scored_in_part(run, score):
    score("--score_tokens", str(N), "--overwrite", out="data/ai_scores.tsv")
    rank_scores.main([])
    report.main([])
    data = page_data(run / "data/report.html")
    assert f"longer than {2 * N} tokens" in dict(data["facts"])["scored in part"]
    assert f"--score_tokens {N}" in data["command"]
    assert "scored_tokens" in data["guards"]


@pytest.mark.parametrize("flags", ["--score_tokens 6 --granularity step", "--score_tokens 1", "--score_tokens x"])
def test_what_cannot_be_scored_in_part_is_refused(run, capsys, flags):
    if "step" in flags:
        line = error_of(attention_influence_scoring, flags, capsys)
        assert line.startswith("error: --score_tokens: ") and "--granularity step" in line
    else:
        with pytest.raises(SystemExit) as exit_:
            attention_influence_scoring.main(flags.split())
        assert exit_.value.code == 2
        assert "--score_tokens" in capsys.readouterr().err
