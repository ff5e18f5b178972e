"""Score tables: read, refused, and with the place of each document."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.shards.doc_id import parse_doc_id
from common.shards.index import CHAT_INDEX_SCHEMA
from common.table import tables
from common.table.schema import RANK_SCORE, SCHEMA, SLICES, SOURCE, STATES_SCHEMA, STEPS_SCHEMA, TABLE_SCHEMA
from common.table.tables import read_scores, with_slices
from common.text.kept import PREDICTED, RESERVED
from tests.table.conftest import table


def test_slices_hold_the_shard_and_span_of_a_document():
    row = with_slices(table([("a", 7, 0.1), ("a", 5, 0.1)])).to_pylist()[1]
    assert (row["shard"], row["start"], row["end"]) == ("data/x_000001.bin", 7, 12)


@given(st.lists(st.tuples(st.text("ab/_ é.", min_size=1), st.integers(0, 10**9)), min_size=1, max_size=9))
def test_slices_of_a_selection_are_those_of_its_ids(places):
    ids = [f"{name}:{start}-{start + 5}" for name, start in places]
    for row in with_slices(pa.table({"doc_id": ids})).to_pylist():
        assert (Path(row["shard"]), row["start"], row["end"]) == parse_doc_id(row["doc_id"])


HEADER = "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tAI_Score"
COLUMNS = {
    "a list": ("AI_Score", pa.array([[0.1]]), "not a score table.*list"),
    "a time": ("num_tokens", pa.array([5], pa.timestamp("s")), "'num_tokens' is timestamp"),
    "a truth": ("near_duplicate_of", pa.array([False]), "'near_duplicate_of' is bool, not string"),
    "part of a token": ("num_tokens", pa.array([5.5]), "not a score table.*5.5"),
    "more tokens than any document": ("num_tokens", pa.array([2**62]), "row 1 lacks.*4,294,967,296"),
    "more than 64 bits": ("longest_run", pa.array([2**64 - 1], pa.uint64()), "not a score table"),
    "bytes": ("domain", pa.array([b"\xff"]), "not a score table.*UTF8"),
    "a column again": ("", pa.array(["b"]), "the column 'domain' is there twice"),
}


def with_column(name, values):
    """A table of one row with another column, or with a second domain."""
    rows = table([("a", 5, 0.5)])
    if not name:
        return pa.Table.from_arrays([*rows.columns, values], [*rows.column_names, "domain"])
    return pa.table({**dict(zip(rows.column_names, rows.columns, strict=True)), name: values})


@pytest.mark.parametrize("case", COLUMNS)
def test_a_column_of_another_type_is_refused(tmp_path, case):
    name, values, message = COLUMNS[case]
    pq.write_table(with_column(name, values), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=f"^{tmp_path}/x.parquet: .*{message}") as raised:
        read_scores(tmp_path / "x.parquet")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "domain", [pa.array(["7"]).dictionary_encode(), pa.array([7]), pa.array(["7"], pa.large_string())]
)
def test_a_domain_of_another_type_is_read_as_text(tmp_path, domain):
    pq.write_table(with_column("domain", domain), tmp_path / "x.parquet")
    assert read_scores(tmp_path / "x.parquet")["domain"].tolist() == ["7"]


def test_a_parquet_without_a_row_group_is_refused(tmp_path):
    pq.ParquetWriter(tmp_path / "x.parquet", SCHEMA).close()
    with pytest.raises(InputError, match="no rows"):
        read_scores(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x.parquet", "x.tsv"])
def test_a_folder_is_no_table(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: not a score table"):
        read_scores(tmp_path / name)


def test_a_tsv_of_windows_with_quotes_and_other_columns_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 300)
    rows = [f'x:{i}-{i + 1}\t"a ""b"""\t1\t1.0\t1.0\t0.5\t{i if i < 20 else "note"}' for i in range(40)]
    (tmp_path / "x.tsv").write_bytes(("\ufeff" + "\r\n".join([HEADER + "\tnote", *rows, ""])).encode())
    found = read_scores(tmp_path / "x.tsv")
    assert found["domain"].tolist() == ['a "b"'] * 40
    assert found["num_tokens"].tolist() == [1] * 40


def test_a_table_without_measures_lacks_them_also_after_a_tsv(tmp_path):
    with tables.table_writer(tmp_path / "x.tsv", TABLE_SCHEMA) as append:
        rows = table([("nan", 5, 0.5)])
        for field in list(TABLE_SCHEMA)[len(SCHEMA) :]:
            rows = rows.append_column(field, pa.nulls(1, field.type))
        append(rows)
    for name in ("x.tsv", "x.parquet"):
        found = read_scores(tmp_path / name)
        assert found["domain"].tolist() == ["nan"]
        assert found[list(TABLE_SCHEMA.names)[len(SCHEMA) :]].isna().all(axis=None)


def test_a_message_about_a_wide_table_is_short(tmp_path):
    pq.write_table(pa.table({f"column {i}" * 9: [1] for i in range(999)}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"no column 'doc_id', only 'column 0.*and 993 more") as raised:
        read_scores(tmp_path / "x.parquet")
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", None, "no such file"),
        ("x.tsv", "", "x.tsv"),
        ("x.tsv", HEADER, "x.tsv: not a score table"),
        ("x.tsv", f"{HEADER}\n", "no rows"),
        ("x.tsv", f"{HEADER}\trepetition\trepetition\na:0-1\tb\t1\t1\t1\t1\t0\t0\n", "'repetition' is there twice"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tscore\na:0-1\tb\t1\t1\t1\t1\n", "no column 'AI_Score'"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tAI_Score\na:0-1\tb\t1\t1\t1\t1\na:1-2\tb\t1\n", "#3"),
        ("x.tsv", "doc_id\tdomain\tnum_tokens\tL_base\tL_ref\tAI_Score\na:0-1\tb\tmany\t1\t1\t1\n", "'many'"),
        ("x.parquet", "no parquet", "x.parquet"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / name)


def test_a_kept_column_takes_no_name_of_ours():
    ours = [CHAT_INDEX_SCHEMA, TABLE_SCHEMA, SOURCE, SLICES, STATES_SCHEMA, STEPS_SCHEMA]
    assert {RANK_SCORE, PREDICTED, *(name for schema in ours for name in schema.names)} == RESERVED
