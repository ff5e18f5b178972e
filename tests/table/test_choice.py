"""Selecting by other scores, in groups, to a budget and after a filter: the same rows in the same order as pandas."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.table.ranking import Goal, Limits, Ranking
from common.table.schema import EXACT, NEAR, RANK_SCORE
from common.table.selection import read_selection_record, with_states, write_selection

GUARDS = Limits(0.3, "near")


def random_scores(seed: int) -> pd.DataFrame:
    """300 rows of 3 domains with ties, nulls and copies, and columns of the source, one with the name `score`."""
    rng, count = np.random.default_rng(seed), 300
    ids = np.array([f"x:{i}-{i + 1}" for i in range(count)])
    table = pd.DataFrame({"doc_id": ids, "domain": rng.choice(["a", "b b", "code"], count, p=[0.6, 0.3, 0.1])})
    table = table.assign(num_tokens=rng.integers(1, 90, count), L_base=1.0, L_ref=1.0)
    table["AI_Score"] = np.where(rng.random(count) < 0.05, np.nan, rng.integers(-9, 9, count) / 8)
    table = table.assign(repetition=rng.choice([0.0, 0.2, 0.4], count), longest_run=0, compression=0.5)
    table[EXACT] = table[NEAR] = np.where(rng.random(count) < 0.2, rng.choice(ids, count), "")
    table["score"] = np.where(rng.random(count) < 0.1, np.nan, rng.integers(0, 5, count))
    return table.assign(**{"language score": rng.random(count).round(1)})


def choose(folder, table: pd.DataFrame, percent=20, by="documents", lowest=False, limits=GUARDS, **goal) -> Ranking:
    """Write the table as `s.parquet`, and the selection from it as `top`."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    table.to_parquet(folder / "s.parquet", index=False)
    ranking = Ranking(folder / "s.parquet", percent, by, lowest, scratch, limits, goal=Goal(**goal))
    write_selection(ranking, folder / "top.tsv")
    return ranking


def chosen(folder) -> list[str]:
    return pd.read_parquet(folder / "top.parquet")["doc_id"].tolist()


def ranked(table: pd.DataFrame, score: pd.Series) -> pd.DataFrame:
    """The rows that are ranked by a score, which says which are finite."""
    fit = table.assign(by=score)[np.isfinite(score)]
    copies = (fit[NEAR] != "") & (fit[NEAR] != fit["doc_id"]) & (fit["repetition"] <= 0.3)
    absent = fit[copies & ~fit[NEAR].isin(fit["doc_id"])].sort_values("repetition", kind="stable")
    stand_ins = absent.groupby(NEAR).head(1).index
    return fit[(fit["repetition"] <= 0.3) & (~copies | fit.index.isin(stand_ins))]


def best(rows: pd.DataFrame, rates: dict, by: str, lowest: bool = False, parts: str = "") -> list[str]:
    """The best share of each domain, of each part of it, in order."""
    found = []
    for name, domain in rows.groupby("domain"):
        taken = []
        for _, part in domain.groupby(parts, dropna=False) if parts else [(0, domain)]:
            order = part.sort_values("by", ascending=lowest, kind="stable")
            weights = order["num_tokens"] if by == "tokens" else pd.Series(1, order.index)
            taken.append(order[weights.cumsum() - weights < math.ceil(rates[name] * int(weights.sum()))])
        found += pd.concat(taken).sort_index().sort_values("by", ascending=lowest, kind="stable")["doc_id"].tolist()
    return found


def rates(rows: pd.DataFrame, rate: Fraction = Fraction(1, 5)) -> dict:
    return dict.fromkeys(rows["domain"], rate)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lowest", [False, True])
def test_a_score_of_ranks_is_that_of_pandas(tmp_path, seed, lowest):
    table = random_scores(seed)
    choose(tmp_path, table, lowest=lowest, score="0.5 * pct(AI_Score) + 0.25 * pct(score)")
    rows = ranked(table, table["AI_Score"] + table["score"])
    ranks = rows.groupby("domain")[["AI_Score", "score"]].rank(pct=True)
    rows = rows.assign(by=0.5 * ranks["AI_Score"] + 0.25 * ranks["score"])
    assert chosen(tmp_path) == best(rows, rates(rows), "documents", lowest)
    found = pd.read_parquet(tmp_path / "top.parquet").set_index("doc_id")
    expected = rows.set_index("doc_id")["by"]
    pd.testing.assert_series_equal(found[RANK_SCORE], expected[found.index], check_names=False)
    assert found["score"].equals(table.set_index("doc_id")["score"][found.index])
    record = read_selection_record(tmp_path / "top.tsv")
    assert record.num_not_finite == (~np.isfinite(table["AI_Score"] + table["score"])).sum()
    for name, domain in record.domains.items():
        assert domain.mean_score == pytest.approx(rows.loc[rows["domain"] == name, "by"].mean())


def test_a_document_alone_in_its_domain_has_rank_1(tmp_path):
    table = random_scores(0).assign(AI_Score=0.5, score=1.0)
    table["domain"] = ["one", *["many"] * 299]
    choose(tmp_path, table, 100, limits=Limits(), score="pct(AI_Score)")
    ranks = pd.read_parquet(tmp_path / "top.parquet").groupby("domain")[RANK_SCORE].unique()
    assert ranks["one"].tolist() == [1]
    assert ranks["many"].tolist() == pytest.approx([150 / 299])  # all are equal


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by", ["documents", "tokens"])
def test_a_percentage_inside_groups_is_that_of_pandas(tmp_path, seed, by):
    table = random_scores(seed)
    choose(tmp_path, table, by=by, within=("score + num_tokens / 64", 4))
    rows = ranked(table, table["AI_Score"])
    rows["size"] = rows["score"] + rows["num_tokens"] / 64
    place = rows.groupby("domain")["size"].rank(method="first").sub(1)
    count = rows.groupby("domain")["size"].transform("count")
    larger, rest = count // 4 + 1, count % 4  # groups differ by one document at most, the larger ones first
    rows["part"] = np.where(place < larger * rest, place // larger, rest + (place - larger * rest) // (count // 4))
    assert chosen(tmp_path) == best(rows, rates(rows), by, parts="part")
    assert rows["part"].nunique() == 4


@pytest.mark.parametrize("shares", [{}, {"code": 0.2}, {"code": 0.05, "a": 0.95}])
def test_a_budget_is_shared_out_as_asked_or_as_the_tokens_are(tmp_path, shares):
    table = random_scores(1)
    rows = ranked(table, table["AI_Score"])
    tokens, budget = rows.groupby("domain")["num_tokens"].sum(), 1500
    choose(tmp_path, table, None, "tokens", budget=budget, shares=shares)
    left = 1 - sum(Fraction(str(share)) for share in shares.values())
    others = int(tokens.drop(list(shares)).sum())
    wanted = {name: budget * left * Fraction(int(count), others) for name, count in tokens.items()}
    wanted |= {name: budget * Fraction(str(share)) for name, share in shares.items()}
    part = {name: min(Fraction(1), wanted[name] / int(tokens[name])) for name in wanted}
    assert chosen(tmp_path) == best(rows, part, "tokens")
    for name, domain in read_selection_record(tmp_path / "top.tsv").domains.items():
        assert domain.wanted_tokens == math.ceil(wanted[name])
        assert min(domain.wanted_tokens, domain.tokens) <= domain.selected_tokens < domain.wanted_tokens + 90


@pytest.mark.parametrize("seed", range(4))
def test_a_filter_selects_what_the_filtered_table_gives_and_says_who_is_left_out(tmp_path, seed):
    table = random_scores(seed)
    table.loc[table["domain"] == "code", "language score"] = 0.0
    kept = table[(table["language score"] > 0.3) & (table["score"] <= 3)]
    choose(tmp_path, kept)
    expected = chosen(tmp_path)
    choose(tmp_path, table, limits=Limits(0.3, "near", '"language score" > 0.3 and score <= 3'))
    assert chosen(tmp_path) == expected
    rows = ranked(kept, kept["AI_Score"])
    assert expected == best(rows, rates(rows), "documents")
    states = pa.concat_tables(with_states(tmp_path / "s.parquet", tmp_path / "top.parquet")).to_pandas()
    assert set(states.index[states["state"] == "filtered"]) == set(table.index) - set(kept.index)
    record = read_selection_record(tmp_path / "top.tsv")
    assert record.where == '"language score" > 0.3 and score <= 3'
    assert record.domains["code"].documents == 0
    assert record.domains["code"].left_out == {"filtered": (table["domain"] == "code").sum()}


def test_a_filter_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"all rows are left out; change --where"):
        choose(tmp_path, random_scores(0), limits=Limits(where="num_tokens > 1000"))


@pytest.mark.parametrize(
    ("shares", "message"), [({"cod": 0.1}, "no domain 'cod'"), (dict.fromkeys(["a", "b b", "code"], 0.3), "sum to 1")]
)
def test_shares_that_cannot_be_are_refused(tmp_path, shares, message):
    with pytest.raises(InputError, match=f"^--shares: .*{message}"):
        choose(tmp_path, random_scores(0), None, "tokens", budget=100, shares=shares)


@pytest.mark.parametrize("suffix", ["parquet", "tsv"])
def test_a_table_of_any_layout_gives_the_same(tmp_path, suffix):
    """One that DuckDB reads in place, and one that is read, checked and copied first."""
    table = random_scores(2)
    choose(tmp_path, table, limits=Limits(0.3, "near", "score > 1"), score="pct(score) + AI_Score")
    expected = pd.read_parquet(tmp_path / "top.parquet")
    odd = tmp_path / f"a [b]* ' s.{suffix}"
    if suffix == "tsv":
        table.to_csv(odd, sep="\t", index=False, na_rep="nan")
    else:
        pq.write_table(pa.table(table).set_column(1, "domain", pa.array(table["domain"]).dictionary_encode()), odd)
    goal, limits = Goal("pct(score) + AI_Score"), Limits(0.3, "near", "score > 1")
    write_selection(
        Ranking(odd, 20, "documents", False, tmp_path / "scratch", limits, goal=goal), tmp_path / "again.tsv"
    )
    found = pd.read_parquet(tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("first", [False, True])
def test_names_that_differ_only_in_case_are_kept_apart(tmp_path, first):
    table = random_scores(3)
    choose(tmp_path, table)
    expected = pd.read_parquet(tmp_path / "top.parquet")
    other = {"Domain": range(300), "ai_score": range(300), "SCORE": range(300)}
    table = pd.concat([pd.DataFrame(other), table] if first else [table, pd.DataFrame(other)], axis=1)
    choose(tmp_path, table)
    found = pd.read_parquet(tmp_path / "top.parquet")
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    rows = table.set_index("doc_id").loc[found["doc_id"]]
    for name in other:
        assert found[name].tolist() == rows[name].tolist()


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "a\u200eb", "\x7f"])
def test_the_first_row_that_would_break_a_table_is_named(tmp_path, text):
    table = random_scores(3)
    table["domain"] = table["domain"].replace("a", "Büro – 名")  # other letters are fine
    choose(tmp_path, table)
    for row in (299, 7):
        table.loc[row, "domain"] = text
        with pytest.raises(InputError, match=f"^{tmp_path}/s.parquet: row {row + 1} .* control character"):
            choose(tmp_path, table)


def test_a_column_of_the_source_may_have_a_name_that_ranking_uses(tmp_path):
    table = random_scores(3).assign(place=range(300), state="x", found=1, chosen=2, part=3)
    choose(tmp_path, table)
    found = pd.read_parquet(tmp_path / "top.parquet")
    assert found["place"].tolist() == [int(doc_id.split("-")[1]) - 1 for doc_id in found["doc_id"]]
    assert set(found["state"]) == {"x"}
