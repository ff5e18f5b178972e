"""The record of a selection: against pandas, damaged records, and a writing that does not end."""

import errno
import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.table import selection
from common.table.ranking import Limits, Ranking
from common.table.schema import EXACT, NEAR, SLICES, TABLE_SCHEMA
from common.table.selection import SelectionRecord, read_selection_record, write_selection
from tests.conftest import ROOT

LIMITS = Limits(0.3, "near")
FILES = ("top.tsv", "top.parquet", "top.states.parquet", "top.json")


def scores() -> pd.DataFrame:
    """200 rows of 3 domains with ties, copies and rows without a score, and one domain of which nothing is left."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 40, 200)
    ends = lengths.cumsum()
    table = pd.DataFrame(
        {
            "doc_id": [f"data/x:{end - length}-{end}" for length, end in zip(lengths, ends, strict=True)],
            "domain": rng.choice(["plays", "a b", "maths"], 200),
            "num_tokens": lengths,
            "L_base": 1.0,
            "L_ref": 1.0,
            "AI_Score": rng.integers(-40, 40, 200) / 64,  # so that sums are exact
            "repetition": rng.choice([0.0, 0.1, 0.3, 0.31, 0.9], 200),
            "longest_run": 0,
            "compression": 0.5,
            EXACT: "",
            NEAR: "",
        }
    )
    table.loc[::9, NEAR] = table["doc_id"][1]
    table.loc[::18, EXACT] = table["doc_id"][1]
    table.loc[5:8, "AI_Score"] = [np.nan, np.inf, -np.inf, np.nan]
    table.loc[190:195, ["domain", "repetition"]] = "gone", 0.5
    table.loc[196:, ["domain", "AI_Score"]] = "never scored", np.nan
    return table


def plainly(table: pd.DataFrame, percent: int, lowest: bool, by: str, limits: Limits) -> tuple[dict, list[str]]:
    """The records of the domains, and the selected doc_ids in order."""
    records, chosen = {}, []
    for name, rows in table[np.isfinite(table["AI_Score"])].groupby("domain"):
        repetitive = rows["repetition"] > limits.max_repetition
        copies = ~repetitive & (rows[{"exact": EXACT, "near": NEAR}[limits.dedup]] != "")
        ranked = rows[~repetitive & ~copies].sort_values("AI_Score", ascending=lowest, kind="stable")
        weights = ranked["num_tokens"] if by == "tokens" else pd.Series(1, ranked.index)
        selected = ranked[100 * (weights.cumsum() - weights) < percent * weights.sum()]
        left_out = {"repetitive": int(repetitive.sum()), "duplicates": int(copies.sum())}
        records[name] = {
            "left_out": {limit: count for limit, count in left_out.items() if count},
            "documents": len(ranked),
            "tokens": int(ranked["num_tokens"].sum()),
            "mean_score": float(ranked["AI_Score"].mean()) if len(ranked) else None,
            "threshold": float(selected["AI_Score"].iloc[-1]) if len(selected) else None,
            "selected_documents": len(selected),
            "selected_tokens": int(selected["num_tokens"].sum()),
            "wanted_tokens": None,
            "whole": None,
        }
        chosen += selected["doc_id"].tolist()
    return records, chosen


def select(folder, percent=20, lowest=False, by="documents", limits=LIMITS) -> SelectionRecord:
    """Rank the table in the folder, and write the selection there."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    ranking = Ranking(folder / "s.parquet", percent, by, lowest, scratch, limits)
    return write_selection(ranking, folder / "top.tsv")


@pytest.fixture
def folder(tmp_path):
    """A folder with a table of scores."""
    scores().to_parquet(tmp_path / "s.parquet", index=False)
    return tmp_path


def contents(folder) -> dict[str, bytes]:
    """The files of a selection, and no other files."""
    assert {path.name for path in folder.iterdir()} == {*FILES, "s.parquet", "scratch"}
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("dedup", ["near", "exact"])
@pytest.mark.parametrize("by", ["documents", "tokens"])
@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("percent", [1, 20, 100])
def test_the_record_is_what_pandas_computes(folder, percent, lowest, by, dedup):
    limits = Limits(0.3, dedup)
    found = select(folder, percent, lowest, by, limits)
    domains, chosen = plainly(scores(), percent, lowest, by, limits)
    record = json.loads((folder / "top.json").read_text())
    assert record.pop("goes_with").keys() == record["domains"].keys()
    assert list(record["domains"]) == ["a b", "gone", "maths", "plays"]
    assert record == {
        "scores": f"{folder}/s.parquet",
        "percent": percent,
        "end": "lowest" if lowest else "best",
        "by": by,
        "max_repetition": 0.3,
        "dedup": dedup,
        "where": None,
        "score": "AI_Score",
        "within": None,
        "budget": None,
        "shares": {},
        "cascade": None,
        "num_rows": 200,
        "num_not_finite": 8,
        "domains": domains,
    }
    assert pd.read_parquet(folder / "top.parquet")["doc_id"].tolist() == chosen
    assert read_selection_record(folder / "top.tsv") == read_selection_record(folder / "top.parquet") == found


def test_a_domain_counts_its_finite_scores_and_its_share_of_tokens(folder):
    domains = select(folder, 20, by="tokens").domains
    table = scores()
    finite = table[np.isfinite(table["AI_Score"])]
    assert {name: domain.num_finite for name, domain in domains.items()} == finite["domain"].value_counts().to_dict()
    chosen = pd.read_parquet(folder / "top.parquet")
    for name in ("a b", "maths", "plays"):
        share = chosen.loc[chosen["domain"] == name, "num_tokens"].sum() / domains[name].tokens
        assert domains[name].share_of_tokens == share
        assert 0.2 <= share < 0.4


def test_a_domain_of_which_nothing_is_left_has_no_scores_in_its_record(folder):
    select(folder)
    gone = read_selection_record(folder / "top.tsv").domains["gone"]
    assert gone.left_out == {"repetitive": 6}
    assert (gone.documents, gone.tokens, gone.selected_documents, gone.selected_tokens) == (0, 0, 0, 0)
    assert gone.mean_score is gone.threshold is gone.share_of_tokens is None
    assert json.loads((folder / "top.json").read_text())["domains"]["gone"]["mean_score"] is None


@pytest.mark.parametrize("name", ["top.tsv", "top.json"])
def test_a_selection_without_its_table_or_its_record_is_refused(folder, name):
    select(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"^{folder}/{name}: no such file.*rank_scores\.py"):
        read_selection_record(folder / "top.tsv")


def test_all_columns_of_the_table_go_into_the_selection_with_their_types(folder):
    table = pa.table(scores())
    count = len(table)
    kept = {
        "id": pa.array(["007"] * count),
        "row": pa.array(range(count), pa.int64()),
        "text_hash": pa.array(range(2**64 - count, 2**64), pa.uint64()),
        "score": pa.array([0.1] * count, pa.float32()),
        "date": pa.array([0] * count, pa.timestamp("ms", "UTC")),
        "tags": pa.array([["a", 'b"\n'], None] * (count // 2), pa.list_(pa.string())),
        "lang": pa.array(["en"] * count).dictionary_encode(),
    }
    for name, values in kept.items():
        table = table.append_column(name, values)
    pq.write_table(table, folder / "s.parquet")
    select(folder)
    found = pq.read_table(folder / "top.parquet")
    assert found.column_names == [*TABLE_SCHEMA.names, *kept, *SLICES.names]
    assert all(found.schema.field(name).type == values.type for name, values in kept.items())
    rows = found["row"].to_numpy()
    for name, values in kept.items():
        assert found[name].to_pylist() == values.take(pa.array(rows)).to_pylist()
    text = pd.read_csv(folder / "top.tsv", sep="\t")
    assert [None if pd.isna(tags) else json.loads(tags) for tags in text["tags"]] == found["tags"].to_pylist()
    write_selection(Ranking(folder / "top.parquet", 100, "documents", False, folder / "scratch"), folder / "again.tsv")
    assert pq.read_table(folder / "again.parquet").equals(found)


def without(record: dict, name: str) -> dict:
    return {key: value for key, value in record.items() if key != name}


def with_domain(record: dict, domain: object) -> dict:
    return {**record, "domains": {**record["domains"], "plays": domain}}


DAMAGE = {
    "cut short": lambda record: json.dumps(record)[:-40],
    "empty": lambda record: "",
    "not an object": lambda record: json.dumps([record]),
    "a field is missing": lambda record: json.dumps(without(record, "num_rows")),
    "no domains": lambda record: json.dumps(without(record, "domains")),
    "a field too many": lambda record: json.dumps({**record, "seed": 1}),
    "a list of domains": lambda record: json.dumps({**record, "domains": list(record["domains"].values())}),
    "a domain lacks a field": lambda record: json.dumps(
        with_domain(record, without(record["domains"]["plays"], "threshold"))
    ),
    "a domain has a field too many": lambda record: json.dumps(
        with_domain(record, {**record["domains"]["plays"], "median": 1})
    ),
    "a score is text": lambda record: json.dumps(
        with_domain(record, {**record["domains"]["plays"], "mean_score": "high"})
    ),
    "a number of rows is text": lambda record: json.dumps({**record, "num_rows": "many"}),
    "a domain is a number": lambda record: json.dumps(with_domain(record, 7)),
    "a domain is null": lambda record: json.dumps(with_domain(record, None)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_record_is_refused_by_name(folder, name):
    select(folder)
    path = folder / "top.json"
    path.write_text(DAMAGE[name](json.loads(path.read_text())))
    with pytest.raises(InputError, match=rf"^{path}: not ") as raised:
        read_selection_record(folder / "top.tsv")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, ZeroDivisionError])
def test_a_writing_that_fails_leaves_the_old_record_and_tables(folder, monkeypatch, error):
    select(folder)
    before = contents(folder)

    def selected(self):
        for table in whole(self):
            yield table
            raise error

    whole = Ranking.selected
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(Ranking, "selected", selected)
        select(folder, 50)
    assert contents(folder) == before
    select(folder, 50)
    assert all(contents(folder)[name] != before[name] for name in FILES)


def test_a_disk_that_is_full_at_the_record_leaves_the_old_record_and_tables(folder, monkeypatch):
    select(folder)
    before = contents(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(selection, "write_json", full)
    with pytest.raises(InputError, match=r"cannot be written"):
        select(folder, 50)
    assert contents(folder) == before


def test_a_selection_that_leaves_nothing_writes_no_file(folder):
    with pytest.raises(InputError, match="all rows are left out"):
        table = scores()
        table[table["domain"] == "gone"].to_parquet(folder / "s.parquet", index=False)
        select(folder)
    assert {path.name for path in folder.iterdir()} == {"s.parquet", "scratch"}


KILLED = """
import os, signal, sys
from pathlib import Path
from common.table.ranking import Ranking
from tests.table.test_selection import select

def selected(self, whole=Ranking.selected):
    for table in whole(self):
        yield table
        os.kill(os.getpid(), signal.SIGKILL)

Ranking.selected = selected
select(Path(sys.argv[1]), 50)
"""


def test_a_killed_writing_leaves_the_old_record_and_tables_and_the_next_one_clears_up(folder):
    select(folder)
    before = contents(folder)
    done = subprocess.run([sys.executable, "-c", KILLED, folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert list(folder.glob(".top*.tmp"))
    select(folder, 50)
    assert contents(folder) != before
