"""The selection from the part of a corpus that a prefilter kept: that from the whole corpus, and what is refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.table.ranking import Goal, Limits, Ranking
from common.table.selection import KEPT_BY, read_selection_record, write_selection
from common.text.kept import PREDICTED
from common.text.prefiltered import Facts, KeptPart

ALL = Limits()


def corpus(seed: int) -> pd.DataFrame:
    """600 scored documents of 3 domains; `kept` are the best 25 % of a domain and 20 % of its others, all code."""
    rng, count = np.random.default_rng(seed), 600
    lengths = rng.integers(5, 90, count)
    table = pd.DataFrame({"doc_id": [f"x:{i * 99}-{i * 99 + n}" for i, n in enumerate(lengths)]})
    table["domain"] = rng.choice(["a", "b b", "code"], count, p=[0.6, 0.3, 0.1])
    table = table.assign(num_tokens=lengths, L_base=1.0, L_ref=1.0, AI_Score=rng.permutation(count) / 64)
    table["characters"] = lengths * 4 + rng.integers(0, 9, count)
    best = table.groupby("domain")["AI_Score"].rank(pct=True) > 0.75
    table["kept"] = best | (rng.random(count) < 0.2) | (table["domain"] == "code")
    return table


def facts_of(table: pd.DataFrame) -> Facts:
    parts = {}
    for name, every in table.groupby("domain"):
        kept = every[every["kept"]]
        counts = len(every), len(kept), int(every["characters"].sum()), int(kept["characters"].sum())
        recall = None if len(kept) == len(every) else {"estimate": 0.97, "low": 0.95, "high": 0.98}
        parts[name] = KeptPart(*counts, recall)
    return Facts("f00d", 0.4, None, "AI_Score", 20, parts)


def choose(folder, table, facts=None, percent=20, by="documents", lowest=False, limits=ALL, **goal) -> list[str]:
    """The selected ids from a table, in which `facts` are what a prefilter kept."""
    (folder / "scratch").mkdir(exist_ok=True)
    table = table.drop(columns=["characters", "kept"])
    if facts:  # nothing is predicted in a domain that is kept whole
        table = table.assign(**{PREDICTED: table["domain"].map({"a": 0.5, "b b": -0.5})})
    table.to_parquet(folder / "s.parquet", index=False)
    goal = Goal(**goal)
    ranking = Ranking(folder / "s.parquet", percent, by, lowest, folder / "scratch", limits, goal=goal, prefilter=facts)
    write_selection(ranking, folder / "top.tsv")
    return pd.read_parquet(folder / "top.parquet")["doc_id"].tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "goal",
    [
        {},
        {"percent": 7},
        {"score": "2 * AI_Score"},
        {"percent": None, "by": "tokens", "budget": 1500, "shares": {"a": 0.5, "b b": 0.3, "code": 0.2}},
    ],
)
def test_the_selection_is_that_from_the_whole_corpus(tmp_path, seed, goal):
    table = corpus(seed)
    expected = choose(tmp_path, table, **goal)
    assert choose(tmp_path, table[table["kept"]], facts_of(table), **goal) == expected


@pytest.mark.parametrize("goal", [{}, {"percent": None, "budget": 5000}])
def test_tokens_of_the_whole_corpus_are_estimated_by_characters(tmp_path, goal):
    table = corpus(3)
    expected = choose(tmp_path, table, by="tokens", **goal)
    facts, kept = facts_of(table), table[table["kept"]]
    found = choose(tmp_path, kept, facts, by="tokens", **goal)
    record = read_selection_record(tmp_path / "top.parquet")
    for name, domain in record.domains.items():
        part, tokens = facts.domains[name], table.loc[table["domain"] == name, "num_tokens"].sum()
        assert domain.whole == round(domain.tokens * Fraction(part.characters, part.kept_characters))
        assert domain.whole == pytest.approx(tokens, rel=0.05)
        ids = {*table.loc[table["domain"] == name, "doc_id"]}
        whole, ours = ([doc_id for doc_id in each if doc_id in ids] for each in (expected, found))
        assert whole[: len(ours)] == ours[: len(whole)]
        assert len(ours) == pytest.approx(len(whole), rel=0.06)
    assert record.total == sum(domain.whole for domain in record.domains.values())


def test_what_is_filtered_is_taken_to_be_as_frequent_in_what_was_left_out(tmp_path):
    table = corpus(4)
    facts, kept = facts_of(table), table[table["kept"]]
    choose(tmp_path, kept, facts, 10, limits=Limits(where="num_tokens > 30"))
    for name, domain in read_selection_record(tmp_path / "top.parquet").domains.items():
        fit = ((kept["num_tokens"] > 30) & (kept["domain"] == name)).sum()
        times = Fraction(facts.domains[name].documents, facts.domains[name].kept)
        assert domain.whole == round(fit * times)
        assert domain.selected_documents == -(-fit * times // 10)


def test_groups_are_of_the_scored_part_and_hold_as_much_of_the_whole_corpus(tmp_path):
    table = corpus(5)
    facts, kept = facts_of(table), table[table["kept"]]
    found = kept[kept["doc_id"].isin(choose(tmp_path, kept, facts, within=("num_tokens", 2)))]
    for name, every in kept.groupby("domain"):
        order = every.sort_values("num_tokens", kind="stable")["doc_id"].tolist()
        half, rate = -(-len(order) // 2), Fraction(facts.domains[name].documents, facts.domains[name].kept) / 5
        counts = [found["doc_id"].isin(group).sum() for group in (order[:half], order[half:])]
        assert counts == [-(-rate * half // 1), -(-rate * (len(order) - half) // 1)]


REFUSED = {
    "more than was kept": ({"percent": 60}, "'a', 'b b': the prefilter left out some documents"),
    "more tokens than were kept": ({"percent": 60, "by": "tokens"}, "'a', 'b b': the prefilter left out some"),
    "a budget that is more": ({"percent": None, "by": "tokens", "budget": 20_000}, "'a', 'b b': .* left out some"),
    "the lowest": ({"lowest": True}, "'a', 'b b': the prefilter left out the lowest documents"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_prefilter_left_out_cannot_be_selected(tmp_path, name):
    table = corpus(6)
    goal, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        choose(tmp_path, table[table["kept"]], facts_of(table), **goal)
    whole = table[table["domain"] == "code"]
    assert choose(tmp_path, whole, facts_of(whole), **goal) == choose(tmp_path, whole, **goal)


def test_a_domain_without_a_kept_document_is_refused_whatever_is_asked_for(tmp_path):
    table = corpus(7)
    table.loc[table["domain"] == "b b", "kept"] = False
    with pytest.raises(InputError, match="'b b': nothing of such a domain was kept") as error:
        choose(tmp_path, table[table["kept"]], facts_of(table), percent=1)
    assert "ask for less" not in str(error.value)


def test_rows_that_the_record_cannot_be_of_are_refused(tmp_path):
    table = corpus(8)
    facts, kept = facts_of(table), table[table["kept"]]
    with pytest.raises(InputError, match=r"'news': by .*s\.json the prefilter kept nothing of such a domain"):
        choose(tmp_path, kept.replace("b b", "news"), facts)
    choose(tmp_path, kept, facts)
    chosen = pd.read_parquet(tmp_path / "s.parquet")
    for rows, known, why in (
        (chosen, None, "s.json does not say what it kept"),
        (pd.concat([chosen, table[~table["kept"]]]), facts, "not all of 'a', 'b b', so"),
    ):
        rows.to_parquet(tmp_path / "s.parquet", index=False)
        ranking = Ranking(tmp_path / "s.parquet", 20, "documents", False, tmp_path / "scratch", prefilter=known)
        with pytest.raises(InputError, match=f"rows went through a prefilter .column {PREDICTED}., but .*{why}"):
            list(ranking.selected())


@pytest.mark.parametrize(
    "goal",
    [
        {"percent": 10},
        {"by": "tokens"},
        {"score": "-L_base"},
        {"within": ("L_base", 2)},
        {"limits": Limits(where="1=1")},
    ],
)
def test_the_record_says_what_was_scored_and_of_which_selection_the_loss_is_known(tmp_path, goal):
    table = corpus(9)
    facts = facts_of(table)
    choose(tmp_path, table[table["kept"]], facts)
    record = read_selection_record(tmp_path / "top.parquet")
    assert record.cascade == facts
    [said] = [value for name, value in record.facts() if name == KEPT_BY]
    kept = 100 * table["kept"].mean()
    characters = 100 * (table["characters"] * table["kept"]).sum() / table["characters"].sum()
    code = (table["domain"] == "code").mean()
    estimate, low, high = (100 * (recall * (1 - code) + code) for recall in (0.97, 0.95, 0.98))
    assert said == (
        f"{kept:.3g} % of the corpus ({characters:.3g} % of its characters); by the price list about {estimate:.3g} % "
        f"({low:.3g} to {high:.3g} %) of its true top 20 % (without guards) is in it"
    )
    choose(tmp_path, table[table["kept"]], facts, **goal)
    [other] = [value for name, value in read_selection_record(tmp_path / "top.parquet").facts() if name == KEPT_BY]
    assert other == f"{said}; this is another selection, so what it misses is not known"


def test_the_loss_is_known_of_a_selection_by_the_score_that_was_predicted(tmp_path):
    table = corpus(9)
    choose(tmp_path, table[table["kept"]], replace(facts_of(table), score="-L_base"), score="-L_base")
    [said] = [value for name, value in read_selection_record(tmp_path / "top.parquet").facts() if name == KEPT_BY]
    assert "another selection" not in said
