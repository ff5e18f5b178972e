"""The facts of a scoring run, and the notes on what a report lacks."""

import numpy as np
import pyarrow as pa
import pytest

from common.errors import InputError
from common.files import write_json
from common.model.heads import Head
from common.model.masking import Masking
from common.pages.facts import duration, facts, notes, read_run
from common.pages.overview import Overview
from common.table.domains import SHOWN

HEADS = [Head(2, 5), Head(1, 3)]
RECORD = {
    "base_model": "base",
    "reference_model": "reference",
    "summary": "2 heads masked (uniform)",
    "num_documents": 1234,
    "num_tokens": 5_000_000,
    "num_shards": 2,
    "data": ["a/*.bin", "b.bin"],
    "sample": 0.007,
    "seq_len": 4096,
    "score_tokens": 1024,
    "device": "cuda",
    "dtype": "bfloat16",
    "scoring": {"seconds": 3725.2, "finished": "2026-01-02T03:04:05"},
    "versions": {"torch": "2.9", "numpy": "2.3"},
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (7.25, "7.2 s"),
        (59.4, "59.4 s"),
        (59.6, "1 min 0 s"),
        (60, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (3725.2, "1 h 2 min"),
        (4_000_000, "1,111 h 6 min"),
    ],
)
def test_a_duration_has_two_units(seconds, text):
    assert duration(seconds) == text


def test_the_facts_of_a_whole_record(tmp_path):
    write_json(tmp_path / "s.json", RECORD)
    path = tmp_path / "s.json"
    assert facts(read_run(path), path, Masking("uniform", HEADS), []) == [
        ("base model", "base"),
        ("reference model", "reference"),
        ("how they relate", "2 heads masked (uniform)"),
        ("mask", "uniform"),
        ("2 heads, best first", "2,5  1,3"),
        ("corpus", "1,234 documents, 5,000,000 tokens, 2 shards a/*.bin b.bin"),
        ("sample", "0.7% of the documents (--sample); the others are not in the table"),
        ("window", "4,096 tokens"),
        (
            "scored in part",
            "documents longer than 2,048 tokens, each on its first 1,024 and on 1,024 from a random place "
            "(--score_tokens)",
        ),
        ("scored on", "cuda in bfloat16"),
        ("took", "1 h 2 min"),
        ("finished", "2026-01-02 03:04:05"),
        ("versions", "torch 2.9, numpy 2.3"),
    ]


def test_without_a_record_the_facts_are_those_that_are_known(tmp_path):
    known = {"base_model": "base", "reference_model": "reference"}
    gone = tmp_path / "gone.json"
    assert facts(known | read_run(gone), gone, None, HEADS[:1]) == [
        ("base model", "base"),
        ("reference model", "reference"),
        ("1 heads, best first", "2,5"),
    ]
    write_json(tmp_path / "s.json", {"base_model": "other", "dtype": "float32", "scoring": {"seconds": 0}})
    path = tmp_path / "s.json"
    assert dict(facts(known | read_run(path), path, Masking("zero", HEADS), HEADS[:1])) == {
        "base model": "other",
        "reference model": "reference",
        "mask": "zero",
        "2 heads, best first": "2,5  1,3",
        "scored on": "float32",
        "took": "0.0 s",
    }


@pytest.mark.parametrize(
    "damage",
    [
        {"scoring": {"seconds": "long"}},
        {"scoring": [1]},
        {"versions": ["torch"]},
        {"seq_len": "many"},
        {"num_tokens": "5"},
        {"num_tokens": [5]},
        {"sample": "many"},
        {"data": [3]},
        {"data": 3},
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, damage):
    write_json(tmp_path / "s.json", RECORD | damage)
    with pytest.raises(InputError, match=rf"^{tmp_path}/s\.json: not the record of a scoring run"):
        facts(read_run(tmp_path / "s.json"), tmp_path / "s.json", None, HEADS)


def overview(num_finite: int, num_rows: int, num_domains: int = 2) -> Overview:
    """An overview with so many rows; the notes only count them."""
    column = np.zeros(num_finite)
    domains = [f"domain {n}" for n in range(num_domains)]
    return Overview(np.arange(num_finite), domains, column, pa.array([""]), *[column] * 6, num_rows)


def test_a_report_that_lacks_nothing_has_no_notes(tmp_path):
    write_json(tmp_path / "s.json", RECORD)
    masking = Masking("uniform", HEADS)
    # the order of the heads does not matter
    assert notes(overview(9, 9), 9, tmp_path / "s.json", "reference", masking, HEADS[::-1]) == []
    assert notes(overview(9, 9, SHOWN), 9, tmp_path / "s.json", "reference", masking, HEADS) == []


def test_each_note_says_what_is_missing(tmp_path):
    record, masking = tmp_path / "s.json", Masking("uniform", HEADS)
    [note] = notes(overview(9, 9), 9, record, "reference", masking, HEADS)
    assert note == f"There is no {record}, so how and when this was scored is not known."
    write_json(record, RECORD)
    [note] = notes(overview(9, 9), 9, record, "reference", None, HEADS)
    assert note.startswith("There is no reference/attention_influence.json;")
    [note] = notes(overview(9, 9), 9, record, "reference", masking, HEADS[:1])
    assert note == "The reference masks other heads than the table of heads selects."
    [note] = notes(overview(2000, 3234), 2000, record, "reference", masking, HEADS)
    assert note == "1,234 documents without a finite score are left out everywhere."
    [note] = notes(overview(2000, 2000), 1500, record, "reference", masking, HEADS)
    assert note.startswith("1,500 of 2,000 documents are listed")
    [note] = notes(overview(9, 9, SHOWN + 1), 9, record, "reference", masking, HEADS)
    assert note.startswith(f"The {SHOWN} largest domains are drawn")


def test_notes_come_together(tmp_path):
    assert len(notes(overview(9, 10, 99), 8, tmp_path / "gone.json", "reference", None, HEADS)) == 5
