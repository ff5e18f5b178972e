"""What a score goes with: rank correlations and overlaps, against scipy and plain sets."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from common.table.ranking import Limits, Ranking
from common.table.schema import EXACT, NEAR
from common.table.selection import write_selection


def scores(seed: int) -> pd.DataFrame:
    """400 rows of two domains, with ties, a NaN score and two documents that repeat too much."""
    rng, count = np.random.default_rng(seed), 400
    table = pd.DataFrame({"doc_id": [f"x:{i}-{i + 1}" for i in range(count)], "domain": ["a", "b"] * (count // 2)})
    table["num_tokens"] = rng.integers(1, 500, count)
    table["L_base"] = rng.normal(3, 0.5, count)
    table["L_ref"] = 4.0
    table["AI_Score"] = (4 / table["L_base"] - 1 + rng.normal(0, 0.1, count)).round(2)
    table = table.assign(repetition=rng.choice([0.0, 0.1, 0.2], count), longest_run=0, compression=0.5)
    table[EXACT] = table[NEAR] = ""
    table.loc[3, "AI_Score"] = np.nan
    table.loc[[4, 5], "repetition"] = 0.9
    return table


@pytest.mark.parametrize("lowest", [False, True])
def test_correlations_are_scipys_and_overlaps_those_of_sets(tmp_path, lowest):
    table = scores(1)
    table.to_parquet(tmp_path / "s.parquet", index=False)
    (tmp_path / "scratch").mkdir()
    ranking = Ranking(tmp_path / "s.parquet", 20, "documents", lowest, tmp_path / "scratch", Limits(0.3, "none"))
    record = write_selection(ranking, tmp_path / "top.tsv")
    assert json.loads((tmp_path / "top.json").read_text())["goes_with"] == record.goes_with
    chosen = set(pd.read_parquet(tmp_path / "top.parquet")["doc_id"])
    for domain, found in record.goes_with.items():
        every = table[(table["domain"] == domain) & table["AI_Score"].notna()]
        ranked = every[every["repetition"] <= 0.3]
        here = chosen & set(ranked["doc_id"])
        for name, sign in (("L_base", 1), ("num_tokens", -1), ("repetition", -1)):
            for what, rows in (("all", every), ("ranked", ranked)):
                assert found[name][what] == pytest.approx(spearmanr(rows["AI_Score"], rows[name])[0], abs=6e-4)
            order = (sign * (-1 if lowest else 1) * ranked[name]).sort_values(kind="stable").index
            simpler = set(ranked["doc_id"][order[: len(here)]])
            assert found[name]["overlap"] == pytest.approx(len(here & simpler) / len(here), abs=6e-4)
    assert record.goes_with["a"]["L_base"]["all"] < -0.8


def test_what_is_not_known_or_the_same_everywhere_has_no_correlation(tmp_path):
    table = scores(2).assign(L_base=np.nan, repetition=0.0)
    table.to_parquet(tmp_path / "s.parquet", index=False)
    (tmp_path / "scratch").mkdir()
    ranking = Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path / "scratch")
    found = write_selection(ranking, tmp_path / "top.tsv").goes_with["a"]
    assert found["L_base"] == {"all": None, "ranked": None, "overlap": None}
    assert found["repetition"] == found["L_base"]
    assert found["num_tokens"]["all"] is not None
