"""Expressions of users: what is one, and what is refused before anything is read."""

import duckdb
import pytest

from common.errors import InputError
from common.table.expressions import PCT_LATER, checked

COLUMNS = """domain VARCHAR, num_tokens BIGINT, AI_Score DOUBLE, "language score" FLOAT, day DATE, "case" BOOLEAN,
    meta STRUCT(lang VARCHAR), tags VARCHAR[], text_hash UBIGINT"""


@pytest.fixture
def columns():
    with duckdb.connect() as database:
        database.sql(PCT_LATER)
        database.sql(f"CREATE TABLE source ({COLUMNS})")
        yield database.table("source")


@pytest.mark.parametrize(
    "text", ["AI_Score", "text_hash", "1", "0.5 * pct(AI_Score) + pct(num_tokens)", "-num_tokens -- the shortest"]
)
def test_a_score_is_a_number(columns, text):
    assert columns.project(checked(columns, "--score", text, False)).fetchall() == []


@pytest.mark.parametrize(
    "text",
    [
        'num_tokens > 64 and "language score" >= 0.8',
        '"case"',
        "meta.lang = 'en' or 'a' in tags",
        "domain in ('a', 'b''); drop table source; --')",
        "day >= '2024-01-01'",
        "len(list_filter(tags, lambda tag: tag <> 'spam')) > 0",
    ],
)
def test_a_filter_is_true_or_false(columns, text):
    assert columns.filter(checked(columns, "--where", text, True)).fetchall() == []


REFUSED = {
    "a column that is not there": ("edu_score", "no column 'edu_score', only 'domain', 'num_tokens'"),
    "a column in other letters": ("ai_score", "no column 'ai_score', only"),
    "nothing": ("", "not an expression"),
    "half of one": ("AI_Score +", "not an expression"),
    "two": ("AI_Score, 1", "not a number"),
    "a name for it": ("AI_Score AS x", "not an expression"),
    "another statement": ("1; DROP TABLE source", "not an expression"),
    "another table": ("1) FROM read_text('/etc/passwd') --", "not an expression"),
    "a query": ("(SELECT max(size) FROM read_text('/etc/passwd'))", "holds a query"),
    "a file": ("read_text('/etc/passwd')", "table function"),
    "all columns": ("*", r"holds \*"),
    "a window": ("rank() OVER (ORDER BY AI_Score)", "holds OVER"),
    "ranks of ranks": ("pct(pct(AI_Score))", "cannot be nested"),
    "a sum over rows": ("sum(AI_Score)", "aggregates"),
    "text": ("domain", "gives VARCHAR, not a number"),
    "a day": ("day", "gives DATE, not a number"),
    "a truth": ("AI_Score > 0", "gives BOOLEAN, not a number"),
    "no function": ("quality(AI_Score)", "does not exist"),
    "a parameter": ("$1", "parameter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_score_is_refused_by_flag_and_text(columns, case):
    text, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as raised:
        checked(columns, "--score", text, False)
    assert str(raised.value).startswith(f"--score {text}: ")


@pytest.mark.parametrize(
    ("text", "message"), [("num_tokens", "gives BIGINT, not true or false"), ("pct(AI_Score) > 0.5", "--score alone")]
)
def test_what_is_no_filter_is_refused(columns, text, message):
    with pytest.raises(InputError, match=message):
        checked(columns, "--where", text, True)
