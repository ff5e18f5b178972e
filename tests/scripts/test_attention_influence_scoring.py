"""attention_influence_scoring.py: scores of plain models, and runs that stop, go on or differ."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import attention_influence_scoring
import fineweb
import make_reference_model
import validate_docs
from common import cli
from common.scoring.loss import TokenLosses
from common.scoring.units import UnitScorer
from tests.conftest import error_of, load_plain, plain_loss, plain_windows, save_pair, tiny_model, write_jsonl
from tests.scripts.conftest import SHARD, plain_token_losses, shown_losses, token_ids, write_llm_c_shard


def test_a_llama_2_checkpoint_goes_through_all_steps(run, spm_folder, corpus):
    scores = pd.read_parquet("data/ai_scores.parquet")
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert len(scores) == len(texts) - 2  # the empty document and the one of one token
    assert set(scores["domain"]) == {"a", "b"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(spm_folder)
    for row in scores.iloc[[0, 5, 40, -1]].itertuples():
        ids = token_ids(row.doc_id)
        assert tokenizer.decode(ids[:-1]) in texts
        assert ids[-1] == tokenizer.eos_token_id
        base, reference = (
            plain_loss(load_plain(name), plain_windows(ids, 64, tokenizer.bos_token_id))
            for name in (spm_folder, "reference-model")
        )
        assert row.L_base == pytest.approx(base, abs=1e-4)
        assert row.L_ref == pytest.approx(reference, abs=1e-4)
        assert row.AI_Score == pytest.approx((reference - base) / base, abs=1e-4)


def test_the_score_without_copies_leaves_out_what_the_document_held_before(run, spm_folder, capsys):
    scores, left_out = pd.read_parquet("data/ai_scores.parquet"), 0
    bos_id = transformers.AutoTokenizer.from_pretrained(spm_folder).bos_token_id
    for row in scores.sort_values("repetition").iloc[[0, 30, -20, -2, -1]].itertuples():
        ids = token_ids(row.doc_id)
        ngrams = [tuple(ids[place - 4 : place + 1]) for place in range(4, len(ids))]
        held = [place for place, ngram in enumerate(ngrams, 4) if ngram in ngrams[: place - 4]]
        base, reference = (
            np.mean([loss for place, loss in plain_token_losses(name, ids, 64, bos_id).items() if place not in held])
            for name in (spm_folder, "reference-model")
        )
        left_out += len(held)
        assert row.L_base_novel == pytest.approx(base, abs=1e-4)
        assert row.L_ref_novel == pytest.approx(reference, abs=1e-4)
        assert row.AI_Score_novel == pytest.approx((reference - base) / base, abs=1e-4)
    assert left_out


def test_the_separator_is_left_out_of_the_losses_on_request(run, spm_folder, corpus, capsys):
    flags = f"--base_model {spm_folder} --seq_len 64".split()
    score = [*flags, "--data", "data/mine/*.bin", "--score_separator", "no"]
    attention_influence_scoring.main([*score, "--out", "without.tsv"])
    scores, before = pd.read_parquet("without.parquet"), pd.read_parquet("data/ai_scores.parquet")
    assert scores["doc_id"].tolist() == before["doc_id"].tolist()
    of_losses = [name for name in scores if name.startswith(("L_", "AI_", "scored_"))]
    assert scores.drop(columns=of_losses).equals(before[scores.columns].drop(columns=of_losses))
    for row in scores.iloc[[0, 5, 40, -1]].itertuples():
        ids = token_ids(row.doc_id)
        losses = plain_token_losses(spm_folder, ids, 64, 1)
        assert row.L_base == pytest.approx(np.mean([losses[place] for place in range(len(ids) - 1)]), abs=1e-4)
    assert json.loads((run / "without.json").read_text())["score_separator"] is False
    capsys.readouterr()
    validate_docs.main([*flags, "--doc_id", scores["doc_id"][5], "--score_separator", "no"])
    assert shown_losses(capsys.readouterr().out)[0] == pytest.approx(scores["L_base"][5], abs=1e-3)
    assert "score_separator" in error_of(attention_influence_scoring, [*score, "--out", "data/ai_scores.tsv"], capsys)


def test_scoring_goes_on_from_its_parts_without_scoring_anything_twice(run, spm_folder, monkeypatch):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64"]
    before = (run / "data/ai_scores.parquet").read_bytes()
    parts = sorted((run / "data/ai_scores.parts").glob("*.parquet"))
    parts[1].unlink()
    (run / "data/ai_scores.tsv").unlink()
    scored = []
    score = UnitScorer.__call__

    def recording(scorer, unit):
        scored.extend(unit.documents)
        return score(scorer, unit)

    monkeypatch.setattr(UnitScorer, "__call__", recording)
    attention_influence_scoring.main(flags)
    assert 0 < len(scored) < 90
    assert (run / "data/ai_scores.parquet").read_bytes() == before


def test_compiled_models_give_the_same_table(run, spm_folder, capsys, monkeypatch):
    command = ["--base_model", spm_folder, "--seq_len", "64", "--data", "data/mine/*.bin"]
    attention_influence_scoring.main([*command, "--compile", "--out", "compiled.tsv"])
    assert "compiling" in capsys.readouterr().out
    found, expected = pd.read_parquet("compiled.parquet"), pd.read_parquet("data/ai_scores.parquet")
    assert found.doc_id.tolist() == expected.doc_id.tolist()
    assert np.allclose(found[["L_base", "L_ref"]], expected[["L_base", "L_ref"]], atol=1e-5)
    compiled = [json.loads((run / name).read_text())["compiled"] for name in ("data/ai_scores.json", "compiled.json")]
    assert compiled == [False, True]  # on a CPU it has to be asked for

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    line = error_of(attention_influence_scoring, [*command, "--compile", "--out", "broken.tsv"], capsys)
    assert "no compiler here" in line
    assert line.endswith("try --no-compile")
    assert not (run / "broken.tsv").exists()


def test_scoring_stops_after_the_document_that_reaches_max_tokens(run, spm_folder):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/few.tsv"]
    attention_influence_scoring.main([*flags, "--max_tokens", "700"])
    few, all_scores = pd.read_parquet("data/few.parquet"), pd.read_parquet("data/ai_scores.parquet")
    assert few["doc_id"].tolist() == all_scores["doc_id"].tolist()[: len(few)]
    assert few["num_tokens"].sum() >= 700 > few["num_tokens"].iloc[:-1].sum()


def test_fewer_tokens_after_a_run_with_gaps_give_the_beginning_alone(run, spm_folder):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64"]
    whole = pd.read_parquet("data/ai_scores.parquet")
    second = whole["doc_id"].str.startswith("data/mine/fineweb_train_000002").idxmax()
    for part in (run / "data/ai_scores.parts").glob("*.parquet"):
        if pd.read_parquet(part)["doc_id"].iloc[0] == whole["doc_id"][second]:
            part.unlink()
    attention_influence_scoring.main([*flags, "--max_tokens", "300"])
    beginning = pd.read_parquet("data/ai_scores.parquet")
    starts = whole["doc_id"][:second].str.extract(r":(\d+)-")[0].astype(int)
    pd.testing.assert_frame_equal(beginning, whole[:second][starts < 300])


def test_max_tokens_can_be_raised_later_and_keeps_what_is_scored(run, spm_folder):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/few.tsv"]
    for max_tokens in ("300", "1500", "600"):
        attention_influence_scoring.main([*flags, "--max_tokens", max_tokens])
        lengths = pd.read_csv("data/few.tsv", sep="\t")["num_tokens"]
        assert lengths.sum() >= int(max_tokens)
    attention_influence_scoring.main(flags)
    few, whole = pd.read_parquet("data/few.parquet"), pd.read_parquet("data/ai_scores.parquet")
    pd.testing.assert_frame_equal(few, whole, rtol=1e-6)


def test_a_shard_that_two_globs_match_is_scored_once(run, spm_folder):
    data = ["data/mine/*.bin", "./data/mine/*1.bin", str(run / "data/mine/fineweb_train_000002.bin")]
    attention_influence_scoring.main(
        ["--base_model", spm_folder, "--seq_len", "64", "--out", "data/once.tsv", "--data", *data]
    )
    assert (run / "data/once.tsv").read_bytes() == (run / "data/ai_scores.tsv").read_bytes()


def test_other_domains_for_the_same_tokens_are_another_run(run, spm_folder, corpus, capsys):
    flags = "--out_dir data/mine --shard_size 500 --overwrite".split()
    fineweb.main(["--tokenizer", spm_folder, "--input", str(corpus), *flags])
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64"]
    assert "7 of its shards differ" in error_of(attention_influence_scoring, flags, capsys)


def test_ctrl_c_keeps_the_finished_parts_and_leaves_nothing_half_written(run, spm_folder, monkeypatch, capsys):
    whole = (run / "data/ai_scores.tsv").read_bytes()
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/new.tsv"]
    means, calls = TokenLosses.means, []

    def interrupted(losses):
        calls.append(losses)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return means(losses)

    monkeypatch.setattr(TokenLosses, "means", interrupted)
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: attention_influence_scoring.main(flags))
    assert exit_.value.code == 130
    assert "stopped" in capsys.readouterr().err
    assert not (run / "data/new.tsv").exists()
    assert not list(run.rglob("*.tmp"))
    attention_influence_scoring.main(flags)
    assert (run / "data/new.tsv").read_bytes() == whole
    assert 2 * 88 <= len(calls) < 40 + 2 * 88  # two for each document, not from the start


def test_shards_of_llm_c_are_scored_with_an_eot_id(run, spm_folder):
    documents = [[10, 20, 30, 40], [50, 60, 70], [80], [90, 91, 92, 93, 94, 95]]
    write_llm_c_shard(run / "theirs.bin", documents, eot_id=2)
    attention_influence_scoring.main(
        f"--base_model {spm_folder} --data theirs.bin --seq_len 4 --eot_id 2 --out theirs.tsv".split()
    )
    scores = pd.read_csv("theirs.tsv", sep="\t")
    assert scores["doc_id"].tolist() == ["theirs:0-5", "theirs:5-9", "theirs:11-18"]
    for row, document in zip(scores.itertuples(), [documents[0], documents[1], documents[3]], strict=True):
        windows = plain_windows([2, *document], 4, bos_id=1)
        assert row.L_base == pytest.approx(plain_loss(load_plain(spm_folder), windows), abs=1e-4)
    validate_docs.main(f"--doc_id theirs:5-9 --eot_id 2 --base_model {spm_folder} --seq_len 4".split())


def test_the_record_can_be_pasted_back_as_flags(run, spm_folder):
    rng = np.random.default_rng(0)
    for name in ("their1.bin", "their2.bin"):
        write_llm_c_shard(run / name, rng.integers(3, 400, (30, 9)).tolist(), eot_id=2)
    command = (
        f"--base_model {spm_folder} --data their1.bin their[2-9].bin --seq_len 4 --sample 40% --score_separator no "
        "--score_tokens 3"
    )
    attention_influence_scoring.main(f"{command} --eot_id 2 --eot_side last --out one.tsv".split())
    record = json.loads((run / "one.json").read_text())
    assert record["data"] == ["their1.bin", "their[2-9].bin"]
    record["score_separator"] = "yes" if record["score_separator"] else "no"
    names = "base_model reference_model tokenizer seq_len score_separator score_tokens eot_id eot_side sample".split()
    flags = [text for name in names for text in (f"--{name}", str(record[name]))]
    attention_influence_scoring.main([*flags, "--data", *record["data"], "--out", "two.tsv"])
    assert (run / "two.tsv").read_bytes() == (run / "one.tsv").read_bytes()


def test_zero_masks_make_a_reference_that_is_recognised(run, spm_folder, capsys):
    make_reference_model.main(["--base_model", spm_folder, "--mask", "zero", "--out", "zero-model"])
    attention_influence_scoring.main(
        f"--base_model {spm_folder} --reference_model zero-model --data {SHARD} --seq_len 64 --out z.tsv".split()
    )
    assert "2 heads masked (zero)" in capsys.readouterr().out


def test_unrelated_models_are_compared_on_request(run, spm_folder):
    other = tiny_model("Llama", bos_token_id=1, eos_token_id=2)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    other.save_pretrained(run / "other")
    flags = f"--base_model {spm_folder} --reference_model other --data {SHARD} --seq_len 64 --out o.tsv".split()
    attention_influence_scoring.main([*flags, "--allow_unrelated_reference"])
    row = pd.read_csv("o.tsv", sep="\t").iloc[3]
    windows = plain_windows(token_ids(row.doc_id), 64, bos_id=1)
    assert row.L_ref == pytest.approx(plain_loss(load_plain("other"), windows), abs=1e-4)


def test_a_document_of_a_million_tokens(tmp_path, bytes_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = tiny_model("Llama", **small, vocab_size=257, max_position_embeddings=4096)
    save_pair(tmp_path, bytes_folder, [(1, 1)], model)
    text = np.random.default_rng(0).integers(97, 123, 1_000_000, dtype=np.uint8).tobytes().decode()
    write_jsonl("corpus.jsonl", ({"text": t} for t in ("before", text, "behind")))
    fineweb.main("--tokenizer model --input corpus.jsonl --out_dir shards --shard_size 5000".split())
    attention_influence_scoring.main("--base_model model --data shards/*.bin --seq_len 1024 --out s.tsv".split())
    table = pd.read_csv("s.tsv", sep="\t")
    assert table["num_tokens"].tolist() == [7, 1_000_001, 7]
    assert np.isfinite(table["AI_Score"]).all()
