"""Of copies one is ranked, also where a filter took away the document that they name."""

import numpy as np
import pandas as pd
import pytest

from common.table.ranking import Limits, Ranking
from common.table.schema import EXACT, NEAR


def table(rows) -> pd.DataFrame:
    """Rows of (doc_id, domain, AI_Score, repetition, the doc_id that it copies)."""
    found = pd.DataFrame(rows, columns=["doc_id", "domain", "AI_Score", "repetition", NEAR])
    return found.assign(num_tokens=10, L_base=1.0, L_ref=1.0, longest_run=0, compression=0.5, **{EXACT: found[NEAR]})


def ranked(folder, rows: pd.DataFrame, dedup: str, max_repetition: float = 0.3) -> tuple[list[str], int]:
    """The doc_ids that are ranked, by domain and from the best, and how many were left out as duplicates."""
    rows.to_parquet(folder / "s.parquet", index=False)
    found = Ranking(folder / "s.parquet", 100, "documents", False, folder, Limits(max_repetition, dedup))
    ids = [doc_id for part in found.selected() for doc_id in part["doc_id"].to_pylist()]
    return ids, sum(domain.left_out.get("duplicates", 0) for domain in found.domains.values())


ROWS = [("x:0-1", "a", 0.9, 0.0, ""), ("x:1-2", "a", 0.8, 0.2, "x:0-1"), ("x:2-3", "b", 0.7, 0.1, "x:0-1")]


@pytest.mark.parametrize("dedup", ["exact", "near"])
def test_a_copy_of_a_document_that_is_gone_or_not_finite_stands_for_the_others(tmp_path, dedup):
    whole = table(ROWS)
    assert ranked(tmp_path, whole, dedup) == (["x:0-1"], 2)
    assert ranked(tmp_path, whole[1:], dedup) == (["x:2-3"], 1)  # repeats least, though it is in another domain
    assert ranked(tmp_path, whole[1:2], dedup) == (["x:1-2"], 0)
    assert ranked(tmp_path, whole.assign(AI_Score=[np.nan, 0.8, 0.7]), dedup) == (["x:2-3"], 1)
    assert ranked(tmp_path, whole[1:].assign(repetition=[0.2, 0.2]), dedup) == (["x:1-2"], 1)  # the first of equals
    assert ranked(tmp_path, whole[1:].assign(repetition=np.nan), dedup, 1) == (["x:1-2"], 1)
    assert ranked(tmp_path, whole, "none") == (["x:0-1", "x:1-2", "x:2-3"], 0)


def test_a_document_that_names_itself_is_no_copy(tmp_path):
    assert ranked(tmp_path, table([("x:0-1", "a", 0.9, 0.0, "x:0-1"), *ROWS[1:]]), "near") == (["x:0-1"], 2)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dedup", ["exact", "near"])
def test_any_filtered_table_keeps_of_each_group_the_one_that_pandas_keeps(tmp_path, seed, dedup):
    rng = np.random.default_rng(seed)
    count = 200
    ids = np.array([f"x:{i}-{i + 1}" for i in range(count)])
    whole = table(zip(ids, rng.choice(["a", "b", "c"], count), rng.normal(size=count), [0.0] * count, ids, strict=True))
    whole["repetition"] = rng.integers(0, 8, count) / 20
    whole["group"] = rng.integers(0, 70, count)
    whole.loc[rng.random(count) < 0.1, "AI_Score"] = np.nan
    order = whole.assign(lost=whole["AI_Score"].isna()).sort_values(["lost", "repetition"], kind="stable")
    named = whole["group"].map(order.groupby("group")["doc_id"].first())
    whole[EXACT] = whole[NEAR] = named.where(named != whole["doc_id"], "")
    whole.loc[rng.random(count) < 0.1, "AI_Score"] = np.nan
    for share in (1, 0.6):
        left = whole[rng.random(count) < share]
        fit = left[left["AI_Score"].notna() & (left["repetition"] <= 0.3)]
        kept = fit.sort_values("repetition", kind="stable").groupby("group").head(1)
        kept = kept.sort_values(["domain", "AI_Score"], ascending=[True, False])
        found = ranked(tmp_path, left.drop(columns="group"), dedup)
        assert found == (kept["doc_id"].tolist(), len(fit) - len(kept))
