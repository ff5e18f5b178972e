"""validate_docs.py: the scores and tokens that it shows, which ids it takes, and bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import transformers

import validate_docs
from common.shards.writer import DatasetWriter
from common.text.corpus import SourceDocument
from tests.conftest import error_of
from tests.scripts.conftest import plain_token_losses, shown_losses, token_ids


def test_an_id_from_a_table_shows_the_same_score_again(run, spm_folder, capsys):
    row = pd.read_csv("data/top20.tsv", sep="\t").iloc[0]
    validate_docs.main(["--doc_id", row.doc_id, "--base_model", spm_folder, "--seq_len", "64"])
    assert shown_losses(capsys.readouterr().out) == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    validate_docs.main(["--scores", "data/ai_scores.tsv", "--base_model", spm_folder])
    assert (
        pd.read_csv("data/ai_scores.tsv", sep="\t").sort_values("AI_Score").iloc[-1].doc_id in capsys.readouterr().out
    )


def test_an_id_is_accepted_in_other_spellings_and_for_a_part(run, spm_folder, capsys):
    flags = ["--base_model", spm_folder, "--seq_len", "64", "--doc_id"]
    row = pd.read_csv("data/top20.tsv", sep="\t").iloc[0]
    validate_docs.main([*flags, "./" + row.doc_id.replace(":", ".bin:")])
    out = capsys.readouterr().out
    assert shown_losses(out) == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    assert "a part of" not in out
    shard, _, span = row.doc_id.rpartition(":")
    start, end = map(int, span.split("-"))
    validate_docs.main([*flags, f"{shard}:{start + 1}-{end}"])
    assert f"a part of {row.doc_id}" in capsys.readouterr().out


def test_the_tokens_shown_are_those_whose_loss_rises_most(run, spm_folder, capsys):
    doc_id = pd.read_csv("data/top20.tsv", sep="\t").iloc[0].doc_id
    ids = token_ids(doc_id)
    losses = [plain_token_losses(name, ids, 1000, bos_id=1) for name in (spm_folder, "reference-model")]
    rises = [losses[1][place] - losses[0][place] for place in range(len(ids))]
    worst = int(np.argmax(rises))
    validate_docs.main(["--doc_id", doc_id, "--base_model", spm_folder, "--seq_len", "1000", "--tokens", "1"])
    shown = capsys.readouterr().out.splitlines()[-1]
    assert list(map(float, shown.split()[:3])) == pytest.approx(
        [rises[worst], losses[0][worst], losses[1][worst]], abs=2e-3
    )
    piece = transformers.AutoTokenizer.from_pretrained(spm_folder).convert_ids_to_tokens(ids[worst])
    assert piece.strip("▁") in shown.split("after")[0]


@pytest.fixture
def scored(tmp_path, spm_folder, spm, monkeypatch):
    """A shard outside of the working folder, and a table of scores that leads there."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.mkdir()
    for folder in (outside, inside / "data"):
        writer = DatasetWriter(folder, spm, 1000, 0)
        for domain in ("a", "b"):
            writer.add(SourceDocument("", "id", domain), spm.encode("The quick brown fox jumps."))
        writer.close()
    monkeypatch.chdir(inside)
    return tmp_path


def write_table(shard):
    """A table of scores with one document of the shard."""
    row = {"doc_id": f"{shard}:0-9", "domain": "a", "num_tokens": 9, "L_base": 1.0, "L_ref": 2.0, "AI_Score": 1.0}
    pd.DataFrame([row]).to_csv("scores.tsv", sep="\t", index=False)


@pytest.mark.parametrize("shard", ["../outside/fineweb_train_000001", "OUT/fineweb_train_000001",
                                   "data/../../outside/fineweb_train_000001"])  # fmt: skip
def test_an_id_leads_out_of_the_folder_only_with_data_dir(scored, spm_folder, capsys, shard):
    shard = shard.replace("OUT", str(scored / "outside"))
    write_table(shard)
    for what in ("--scores scores.tsv", f"--doc_id {shard}:0-9"):
        line = error_of(validate_docs, f"--base_model {spm_folder} {what}", capsys)
        assert "leads outside" in line and "--data_dir" in line
    if "data/.." not in shard:
        folder = shard.removesuffix("/fineweb_train_000001")
        validate_docs.main(f"--base_model {spm_folder} --scores scores.tsv --data_dir {folder}".split())
        assert "quick brown fox" in capsys.readouterr().out


def test_ids_inside_the_folder_are_accepted_in_every_spelling(scored, spm_folder, capsys):
    for shard in (
        "data/fineweb_train_000001",
        "./data/fineweb_train_000001",
        f"{Path.cwd()}/data/fineweb_train_000001",
    ):
        write_table(shard)
        validate_docs.main(f"--base_model {spm_folder} --scores scores.tsv".split())
        assert "quick brown fox" in capsys.readouterr().out


SHOW = [validate_docs, *"--base_model BASE --seq_len 64 --doc_id".split()]


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "doc_id with thousands of digits": ([*SHOW, "data/mine/x:0-" + "9" * 5000], None, ["start-end"]),
    "doc_id without a span": ([*SHOW, "data/mine/fineweb_train_000001"], None, ["start-end"]),
    "doc_id backwards": ([*SHOW, "data/mine/fineweb_train_000001:9-4"], None, ["9-4"]),
    "doc_id of no shard": ([*SHOW, "data/mine/fineweb_train_000999:0-4"], None, ["fineweb_train_000999.bin"]),
    "doc_id outside the shard": ([*SHOW, "data/mine/fineweb_train_000001:0-999999"], None, ["ends at token"]),
    "doc_id across an edge": ([*SHOW, "data/mine/fineweb_train_000001:1-400"], None, ["edge", "1:0-"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
