"""attention_influence_scoring.py --sample: which documents it takes, and how a share grows."""

import hashlib
import json
import struct

import numpy as np
import pandas as pd
import pytest

import attention_influence_scoring
from common import cli
from common.scoring import units
from common.scoring.loss import TokenLosses
from common.scoring.units import UnitScorer
from tests.conftest import error_of
from tests.scripts.conftest import token_ids, write_llm_c_shard

LOSSES = ["L_base", "L_ref", "AI_Score"]
COPIES = ["duplicate_of", "near_duplicate_of"]


def place(doc_id: str) -> float:
    """Where a document is between 0 and 1, as formats.md says; the separator is 2."""
    ids = [token for token in token_ids(doc_id) if token != 2]
    data = b"".join(struct.pack("<I", token) for token in ids)
    return struct.unpack("<I", hashlib.blake2b(data, digest_size=4).digest())[0] / 2**32


@pytest.fixture
def score(run, spm_folder):
    """Score into data/new.tsv; returns the table."""

    def score(*flags: str) -> pd.DataFrame:
        command = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/new.tsv"]
        attention_influence_scoring.main([*command, *flags])
        return pd.read_parquet("data/new.parquet")

    return score


@pytest.fixture
def whole(run):
    """The table of all documents, with their places."""
    table = pd.read_parquet("data/ai_scores.parquet")
    return table.assign(place=table["doc_id"].map(place))


def check(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows; losses may differ by rounding, because the documents share batches with others."""
    same = [name for name in found.columns if name not in LOSSES + COPIES]
    pd.testing.assert_frame_equal(found[same], expected[same].reset_index(drop=True))
    pd.testing.assert_frame_equal(found[LOSSES], expected[LOSSES].reset_index(drop=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("sample", "share"), [("30%", 0.3), ("0.65", 0.65), ("100%", None)])
def test_a_sample_is_the_documents_whose_hash_is_below_the_share(run, score, whole, sample, share):
    found = score("--sample", sample)
    assert len(found) > 0
    check(found, whole[whole["place"] < (share or 1)])
    assert json.loads((run / "data/new.json").read_text())["sample"] == share


def test_copies_are_in_a_sample_together_and_found_among_its_documents(run, spm_folder):
    rng = np.random.default_rng(0)
    documents = rng.integers(3, 400, (20, 30)).tolist()
    near = [[*ids[:-1], ids[0]] for ids in documents]
    for name, held in (("a.bin", documents), ("b.bin", documents[::-1]), ("c.bin", near)):
        write_llm_c_shard(run / name, held, eot_id=2)
    command = f"--base_model {spm_folder} --data a.bin b.bin c.bin --seq_len 64 --eot_id 2 --out".split()
    attention_influence_scoring.main([*command, "part.tsv", "--sample", "50%"])
    part = pd.read_parquet("part.parquet")
    same = part[~part["doc_id"].str.startswith("c:")]
    assert 0 < len(same) < 40
    assert (same["duplicate_of"] != "").sum() == len(same) / 2
    for name in COPIES:
        assert {*part[name]} - {""} <= {*part["doc_id"]}
    for out in ("part.tsv", "all.tsv"):
        attention_influence_scoring.main([*command, out])
    part, whole = pd.read_parquet("part.parquet"), pd.read_parquet("all.parquet")
    assert (whole["near_duplicate_of"] != "").sum() > 20
    assert part[["doc_id", *COPIES]].equals(whole[["doc_id", *COPIES]])


def test_max_tokens_takes_the_beginning_of_a_sample(score, whole):
    sample = whole[whole["place"] < 0.5]
    few = score("--sample", "50%", "--max_tokens", "300")
    check(few, sample[: len(few)])
    assert few["num_tokens"].sum() >= 300 > few["num_tokens"].iloc[:-1].sum()
    check(score("--sample", "50%"), sample)
    again = score("--sample", "50%", "--max_tokens", "300")
    pd.testing.assert_frame_equal(again[LOSSES], few[LOSSES])
    beginning = score("--max_tokens", "700")  # some of it in the sample
    check(beginning, whole[: len(beginning)])
    assert beginning["num_tokens"].sum() >= 700 > beginning["num_tokens"].iloc[:-1].sum()


def test_a_share_grows_through_kills_and_nothing_is_scored_twice(run, score, whole, monkeypatch):
    means, scorer, calls, given = TokenLosses.means, UnitScorer.__call__, [], []

    def interrupted(losses):
        calls.append(losses)
        if len(calls) == 24:  # two for each document
            raise KeyboardInterrupt
        return means(losses)

    def recording(self, unit):
        given.extend(document.doc_id for document in unit.documents)
        return scorer(self, unit)

    def in_parts() -> list[str]:
        parts = [pd.read_parquet(path) for path in (run / "data/new.parts").glob("*.parquet")]
        return pd.concat(parts)["doc_id"].tolist() if parts else []

    monkeypatch.setattr(TokenLosses, "means", interrupted)
    monkeypatch.setattr(UnitScorer, "__call__", recording)
    tables = {}
    for flags in (["--sample", "40%"], ["--sample", "0.7"], []):
        share = cli.share(flags[1]) if flags else 1
        for killed in (True, False):
            before = in_parts()
            given.clear()
            if killed:
                calls.clear()
                with pytest.raises(KeyboardInterrupt):
                    score(*flags)
                assert len(in_parts()) > len(before)
            else:
                tables[share] = score(*flags)
            assert not {*given} & {*before}
            assert len(in_parts()) == len({*in_parts()})
        check(tables[share], whole[whole["place"] < share])
    for smaller in (0.4, 0.7):  # rows stay as they are, to the last bit
        kept = tables[1][tables[1]["doc_id"].isin(tables[smaller]["doc_id"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept[LOSSES], tables[smaller][LOSSES], rtol=0, atol=0)
        pd.testing.assert_frame_equal(score("--sample", str(smaller)), tables[smaller], rtol=0, atol=0)


def test_a_larger_share_changes_no_bit_of_what_was_left_of_a_smaller_one(run, score, monkeypatch):
    monkeypatch.setitem(units.MIN_UNIT_TOKENS, "cpu", 1)
    monkeypatch.setattr(units, "UNITS", 20)  # small enough that the size of a unit depends on the number of tokens
    scorer, given = UnitScorer.__call__, []
    monkeypatch.setattr(UnitScorer, "__call__", lambda self, unit: given.append(unit) or scorer(self, unit))
    undisturbed = score("--sample", "40%")
    before = [[document.doc_id for document in unit.documents] for unit in given]
    given.clear()
    for path in list((run / "data/new.parts").glob("*.parquet"))[::2]:
        path.unlink()
    grown = score()
    kept = grown[grown["doc_id"].isin(undisturbed["doc_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[LOSSES], undisturbed[LOSSES], rtol=0, atol=0)
    again = [[document.doc_id for document in unit.documents] for unit in given if unit.hashes.start == 0]
    assert again
    assert all(unit in before for unit in again)  # tiny models may compute the same bits in other batches too


def test_a_share_cannot_shrink_unless_it_was_scored_itself(score, spm_folder, capsys):
    score("--sample", "40%")
    command = f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64 --out data/new.tsv --sample"
    line = error_of(attention_influence_scoring, f"{command} 10%", capsys)
    assert "--sample 0.1: data/new.parts holds a larger share, 0.4, and a share can only grow" in line
    assert "no document" in error_of(attention_influence_scoring, f"{command} 0.0000000001 --overwrite", capsys)
    few = score("--sample", "10%", "--overwrite")
    assert np.isfinite(few["AI_Score"]).all()


@pytest.mark.parametrize("sample", ["1", "0", "-1%", "101%", "many", "1.5"])
def test_what_is_no_share_is_refused(capsys, sample):
    with pytest.raises(SystemExit) as exit_:
        attention_influence_scoring.main([f"--sample={sample}"])
    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--sample" in line
