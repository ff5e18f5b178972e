"""export_selection.py as text, and join_scores.py, after a run of all steps with a real model."""

import json
from pathlib import Path

import pyarrow.parquet as pq

import export_selection
import join_scores
import rank_scores
from common.table.schema import TABLE_SCHEMA


def test_scores_of_a_run_come_back_to_the_rows_that_they_are_of(run, corpus):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    join_scores.main([])
    joined = pq.read_table("data/joined/text.jsonl.parquet").to_pylist()
    scores = pq.read_table("data/ai_scores.parquet").to_pylist()
    assert [row["id"] for row in joined] == [row["id"] for row in rows]
    wanted = {row["id"]: {name: row[name] for name in TABLE_SCHEMA.names} for row in scores}
    assert len(wanted) == len(scores) < len(rows)  # documents of one token have no score
    assert {row.pop("id"): row for row in joined if row["doc_id"]} == wanted
    rank_scores.main(["--scores", "data/ai_scores.tsv", "--overwrite"])
    for selection in ("data/top20.parquet", "data/top20.tsv"):
        export_selection.main(["--selection", selection, "--format", "jsonl", "--overwrite"])
        found = [json.loads(line) for line in Path("data/selected/part-00000.jsonl").read_text().splitlines()]
        chosen = sorted(pq.read_table("data/top20.parquet").to_pylist(), key=lambda row: row["row"])
        assert [row["doc_id"] for row in found] == [row["doc_id"] for row in chosen]
        assert [{name: row[name] for name in rows[0]} for row in found] == [rows[row["row"]] for row in chosen]
