"""What became of each row of a table: against pandas, also after a filter; other tables and damage are refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from common.errors import InputError
from common.table import ranking, tables
from common.table.ranking import Limits, Ranking
from common.table.schema import EXACT, LEFT_OUT, NEAR, RANKED
from common.table.selection import read_ranked, selection_next_to, with_states, write_selection


def scores() -> pd.DataFrame:
    """Two domains with a repetitive document, copies, and scores that are not finite."""
    rows = [
        ("x:0-10", "a", 1 / 3, 0.0, ""),
        ("x:10-20", "a", 0.9, 0.0, "x:0-10"),
        ("x:20-30", "b", 0.8, 0.5, ""),
        ("x:30-40", "b", 0.7, 0.1, "x:0-10"),
        ("x:40-50", "b", np.nan, 0.0, ""),
        ("x:50-60", "a", -0.25, 0.0, ""),
        ("x:60-70", "b", np.inf, 0.9, "x:0-10"),
        ("x:70-80", "b", 0.1, 0.3, ""),
    ]
    table = pd.DataFrame(rows, columns=["doc_id", "domain", "AI_Score", "repetition", NEAR])
    return table.assign(num_tokens=10, L_base=1.0, L_ref=1.0, longest_run=0, compression=0.5, **{EXACT: ""})


STATE_OF = ["selected", "duplicates", "repetitive", "duplicates", None, "not selected", None, "selected"]


@pytest.fixture
def folder(tmp_path):
    """The table in both formats, and a selection of the best half of its documents."""
    (tmp_path / "scratch").mkdir()
    write(tmp_path, scores())
    select(tmp_path)
    return tmp_path


def write(folder, table) -> None:
    table.to_parquet(folder / "ai_scores.parquet", index=False)
    table.to_csv(folder / "ai_scores.tsv", sep="\t", index=False, float_format="%.10g", na_rep="nan")


def select(folder, source: str = "ai_scores.tsv", lowest: bool = False) -> None:
    found = Ranking(folder / source, 50, "documents", lowest, folder / "scratch", Limits(0.3, "near"))
    write_selection(found, folder / "top20.tsv")


def states(folder, source: str = "ai_scores.parquet") -> list[str | None]:
    return pa.concat_tables(with_states(folder / source, folder / "top20.parquet"))["state"].to_pylist()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_each_row_has_its_state_whatever_the_format_and_the_batches(folder, monkeypatch, size):
    monkeypatch.setattr(tables, "BATCH_ROWS", size)
    monkeypatch.setattr(ranking, "BATCH_ROWS", 5)
    select(folder)
    assert states(folder) == states(folder, "ai_scores.tsv") == STATE_OF
    ranked = pa.concat_tables(read_ranked(folder / "ai_scores.parquet", folder / "top20.parquet"))
    assert ranked["doc_id"].to_pylist() == ["x:0-10", "x:50-60", "x:70-80"]
    assert sum(map(len, read_ranked(folder / "ai_scores.parquet", None))) == 8


def test_of_a_filtered_table_the_stand_in_is_ranked(folder):
    write(folder, scores()[1:])
    select(folder)
    assert states(folder) == ["selected", "repetitive", "duplicates", None, "not selected", None, "selected"]


def test_states_agree_with_the_record_on_a_table_of_any_kind(folder):
    rng = np.random.default_rng(0)
    ids = [f"x:{i}-{i + 1}" for i in range(500)]
    table = pd.concat([scores()] * 63)[:500].assign(
        doc_id=ids, AI_Score=rng.normal(size=500).round(2), repetition=rng.random(500) / 2
    )
    table[NEAR] = np.where(rng.random(500) < 0.3, rng.choice(ids, 500), "")
    write(folder, table)
    for lowest in (False, True):
        select(folder, "ai_scores.parquet", lowest)
        table["state"] = states(folder)
        chosen = pd.read_parquet(folder / "top20.parquet")
        assert set(table["doc_id"][table["state"] == "selected"]) == set(chosen["doc_id"])
        record = pd.read_json(folder / "top20.json")["domains"].dropna()
        for name, rows in table.groupby("domain"):
            counts = rows["state"].value_counts()
            assert {state: counts[state] for state in LEFT_OUT if state in counts} == record[name]["left_out"]
            assert counts[RANKED].sum() == record[name]["documents"]


OTHER = {
    "another document": lambda table: table.assign(doc_id=["y:0-10", *table["doc_id"][1:]]),
    "another score": lambda table: table.assign(AI_Score=[0.33, *table["AI_Score"][1:]]),
    "a score that is now finite": lambda table: table.assign(AI_Score=table["AI_Score"].fillna(0)),
    "another domain": lambda table: table.assign(domain=["b", *table["domain"][1:]]),
    "another order": lambda table: table[::-1],
    "fewer rows": lambda table: table[:-1],
    "more rows": lambda table: pd.concat([table, table[:1].assign(doc_id="x:80-90")]),
}


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("case", OTHER)
def test_a_selection_of_another_table_is_refused(folder, monkeypatch, case, size):
    monkeypatch.setattr(tables, "BATCH_ROWS", size)
    write(folder, OTHER[case](scores()))
    with pytest.raises(InputError, match=rf"^{folder}/top20\.parquet: selected from another table than.*rank_scores"):
        states(folder)


@pytest.mark.parametrize("damage", ["gone", "cut", "of other columns", "of a state that there is not"])
def test_damaged_states_are_refused_by_name(folder, damage):
    path = folder / "top20.states.parquet"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "of other columns":
        scores().to_parquet(path)
    else:
        pd.read_parquet(path).assign(state="lost").to_parquet(path, index=False)
    with pytest.raises(InputError, match=rf"^{folder}/top20\.(states\.)?parquet: .*rank_scores\.py"):
        states(folder)


def test_the_selection_next_to_a_table_is_taken_if_it_is_of_that_table(folder):
    for name in ("ai_scores.tsv", "ai_scores.parquet"):
        assert selection_next_to(folder / name) == folder / "top20.parquet"
    assert selection_next_to(folder / "mine.tsv") is None
    (folder / "top20.json").unlink()
    assert selection_next_to(folder / "ai_scores.tsv") is None
