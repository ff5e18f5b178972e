"""What the predictor keeps of a corpus."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import fineweb
import prefilter_scores
from common.files import write_json
from common.prefilter import applying
from common.shards.index import read_index
from tests.conftest import ROOT, error_of, write_jsonl
from tests.prefilter.conftest import RAW, repeats, rows

FOLDER = Path("data/prefilter")
MOVED = "kept.json: of other files than before, so the cut of a domain may have moved"
DELETED = "data/prefilter/parts: deleted predictions of files that have changed or are not in --input:"
APPLY = ["apply", "--input", "raw", "--domain_column", "kind"]


def kept(*flags):
    """Apply; the table, and the record."""
    prefilter_scores.main([*APPLY, *flags])
    return pd.read_parquet(FOLDER / "kept.parquet"), json.loads((FOLDER / "kept.json").read_text())


def test_exactly_the_share_is_kept_and_other_domains_are_kept_whole(learnt, capsys):
    table, record = kept("--keep", "0.4")
    assert (record["keep"], record["recall"], record["score"], record["top_pct"]) == (0.4, None, "AI_Score", 20)
    assert record["pilot"] == {"base_model": "base", "seq_len": 64}
    assert record["domains"].keys() == RAW.keys()
    for name, domain in record["domains"].items():
        own = table[table["domain"] == name]
        assert domain["documents"] == len(own) == 2 * RAW[name]
        assert domain["kept"] == own["kept"].sum() == (49 if name == "told" else len(own))  # 0.4 of 122, rounded up
        assert domain["characters"] == own["characters"].sum()
        assert domain["kept_characters"] == own["characters"][own["kept"]].sum()
        assert (domain["recall"] is None) == (name != "told")
    told = table[table["domain"] == "told"]
    assert told["predicted"][told["kept"]].min() >= told["predicted"][~told["kept"]].max()
    texts = {row["id"]: row["text"] for first in (1000, 2000) for row in rows(first, RAW)}
    true = told["id"].map(lambda name: repeats(texts[name]))
    assert told["kept"][true >= true.quantile(0.8)].mean() > 0.97
    assert "new: 6 of 6 documents, 100% of the text; whole" in capsys.readouterr().out


def test_rows_are_those_of_the_index_of_fineweb(learnt, bytes_folder):
    table, _ = kept("--keep", "0.4")
    fineweb.main(["--tokenizer", bytes_folder, "--out_dir", "shards", *APPLY[1:]])
    index = pd.concat(read_index(path)[0].to_pandas() for path in sorted(Path("shards").glob("*.index.parquet")))
    names = ["file", "row", "id", "domain"]
    pd.testing.assert_frame_equal(table[names], index[names].reset_index(drop=True))


def test_recall_takes_the_smallest_share_whose_lower_edge_reaches_it(learnt):
    _, record = kept("--recall", "0.9")
    told = json.loads((FOLDER / "learn.json").read_text())["prices"]["told"]
    share = record["domains"]["told"]["share"]
    assert told["low"][round(share * 100) - 1] >= 0.9 > told["low"][round(share * 100) - 2]
    assert record["domains"]["told"]["recall"]["low"] >= 0.9


def test_the_printed_command_runs_as_it_is(learnt, bytes_folder, capsys):
    Path("raw").rename("my raw")
    Path("data/prefilter").rename("data/my filter")
    with Path("my raw/0.jsonl").open("a") as file:
        file.write("no JSON\n")
    flags = ["--input", "my raw", "--prefilter", "data/my filter", "--id_column", "text", "--on_bad_row", "skip"]
    prefilter_scores.main([*APPLY, "--keep", "0.4", *flags])
    command = shlex.split(capsys.readouterr().out.rpartition("next: python fineweb.py ")[2])
    fineweb.main([*command, "--tokenizer", bytes_folder, "--out_dir", "shards"])
    assert "left out by the prefilter: 73 of 158 documents" in capsys.readouterr().out


def test_all_characters_of_a_long_text_count(learnt):
    write_jsonl("raw/1.jsonl", [{"text": "word " * 2**18, "kind": "told"}])  # more than is looked at
    table, _ = kept("--keep", "0.4")
    assert table["characters"].max() == 5 * 2**18


def test_documents_of_equal_prediction_are_kept_by_file_and_row(learnt):
    same = [{**row, "text": "the same words"} for row in rows(0, {"told": 9})]
    write_jsonl("raw/0.jsonl", same[:5])
    write_jsonl("raw/1.jsonl", same[5:])
    table, _ = kept("--keep", "0.7", "--input", "raw/1.jsonl", "raw/0.jsonl")
    assert table["kept"].tolist() == [True] * 7 + [False] * 2


def test_rows_that_are_skipped_are_not_there_and_others_keep_their_numbers(learnt, capsys):
    lines = Path("raw/0.jsonl").read_text().splitlines(keepends=True)
    Path("raw/0.jsonl").write_text("".join([*lines[:3], '{"kind": "told"}\n', *lines[3:]]))
    line = error_of(prefilter_scores, [*APPLY, "--keep", "0.4"], capsys)
    assert "raw/0.jsonl:4: no column 'text'" in line
    table, _ = kept("--keep", "0.4", "--on_bad_row", "skip")
    assert "raw/0.jsonl: 1 rows skipped" in capsys.readouterr().err
    assert table[table["file"] == "raw/0.jsonl"]["row"].tolist() == [0, 1, 2, *range(4, len(lines) + 1)]


@pytest.mark.parametrize("flags", ["--num_workers 2", "--engine ray --num_workers 2"])
def test_several_workers_keep_the_same(learnt, flags):
    table, record = kept("--keep", "0.3")
    for path in (FOLDER / "parts").glob("*.parquet"):
        path.unlink()
    other, record_of_other = kept("--keep", "0.3", *flags.split())
    pd.testing.assert_frame_equal(table, other)
    assert record == record_of_other


def test_a_killed_run_goes_on_after_its_finished_files(learnt):
    for number in range(2, 30):
        write_jsonl(f"raw/{number}.jsonl", rows(1000 * (1 + number), RAW))
    command = [sys.executable, ROOT / "prefilter_scores.py", *APPLY, "--keep", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(done := sorted((FOLDER / "parts").glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (FOLDER / "kept.json").exists()
    before = [path.stat().st_mtime_ns for path in done]
    table, record = kept("--keep", "0.5")
    assert [path.stat().st_mtime_ns for path in done] == before
    assert not list((FOLDER / "parts").glob(".*tmp"))
    for path in (FOLDER / "parts").glob("*.parquet"):
        path.unlink()
    whole, record_of_whole = kept("--keep", "0.5")
    pd.testing.assert_frame_equal(table, whole)
    assert record == record_of_whole


def test_another_share_needs_overwrite_and_no_new_predictions(learnt, capsys):
    kept("--keep", "0.4")
    parts = {path: path.stat().st_mtime_ns for path in (FOLDER / "parts").glob("*.parquet")}
    line = error_of(prefilter_scores, [*APPLY, "--keep", "0.5"], capsys)
    assert "kept.json: of another choice (keep was 0.4, is 0.5); give --overwrite" in line
    _, record = kept("--recall", "0.9", "--overwrite")
    assert (record["keep"], record["recall"]) == (None, 0.9)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def parts() -> dict[Path, int]:
    """The parts, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in (FOLDER / "parts").glob("*.parquet")}


def test_files_that_are_added_are_predicted_and_the_others_are_not(learnt, capsys):
    kept("--keep", "0.4")
    before = parts()
    assert "of other files" not in capsys.readouterr().out
    write_jsonl("raw/00.jsonl", rows(3000, RAW))  # before the others, by name
    grown = kept("--keep", "0.4")
    assert MOVED in capsys.readouterr().out
    assert before.items() <= parts().items() and len(parts()) == 3
    for path in parts():
        path.unlink()
    whole = kept("--keep", "0.4")
    pd.testing.assert_frame_equal(grown[0], whole[0])
    assert grown[1] == whole[1]


def stopped(path, *record):
    """Stop a run, except where it writes the record of the parts."""
    if path != FOLDER / "parts/parts.json":
        raise KeyboardInterrupt
    write_json(path, *record)


@pytest.mark.parametrize("where", ["_predict", "_keep", "write_json"])
def test_after_a_stop_a_run_still_says_that_the_files_are_others(learnt, where, capsys, monkeypatch):
    kept("--keep", "0.4")
    write_jsonl("raw/2.jsonl", rows(3000, RAW))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(applying, where, stopped)
        kept("--keep", "0.4")
    assert MOVED not in capsys.readouterr().out
    kept("--keep", "0.4")
    assert MOVED in capsys.readouterr().out
    kept("--keep", "0.4")
    assert MOVED not in capsys.readouterr().out


def test_with_overwrite_only_what_has_changed_is_predicted_again(learnt, capsys):
    kept("--keep", "0.4")
    before = parts()
    write_jsonl("raw/1.jsonl", rows(5000, RAW))
    assert DELETED not in capsys.readouterr().out
    table, _ = kept("--keep", "0.4", "--overwrite")
    assert f"{DELETED} 1\n" in capsys.readouterr().out
    assert len(before.items() & parts().items()) == 1 and len(parts()) == 2
    assert table["id"].tolist() == [row["id"] for first in (1000, 5000) for row in rows(first, RAW)]


def test_another_share_of_fewer_files_says_what_it_deletes(learnt, capsys):
    kept("--keep", "0.4")
    kept("--keep", "0.5", "--overwrite", "--input", "raw/0.jsonl")
    assert f"{DELETED} 1\n" in capsys.readouterr().out
    assert len(parts()) == 1


@pytest.mark.parametrize("column", ["text", "domain", "id"])
@pytest.mark.parametrize("bad_row", ["stop", "skip"])
def test_a_wrong_column_deletes_nothing(learnt, column, bad_row, capsys):
    kept("--keep", "0.4")
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    flags = ["--keep", "0.4", "--overwrite", "--on_bad_row", bad_row, f"--{column}_column", "nothing"]
    assert "no column 'nothing'" in error_of(prefilter_scores, [*APPLY, *flags], capsys)
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before


CHANGES = {
    "a file that is gone": (lambda: Path("raw/1.jsonl").unlink(), "", "1 of its inputs differ, raw/1.jsonl among"),
    "a changed file": (lambda: os.utime("raw/1.jsonl", (0, 0)), "", "1 of its inputs differ, raw/1.jsonl among them"),
    "another column": (lambda: None, "--id_column text", "1 of its columns differ, id among them"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_work_of_another_run_is_not_mixed_in(learnt, change, capsys):
    kept("--keep", "0.4")
    make, flags, wanted = CHANGES[change]
    make()
    flags = f"--keep 0.4 {flags}"
    line = error_of(prefilter_scores, [*APPLY, *flags.split()], capsys)
    assert "data/prefilter/parts holds the work of another run" in line
    assert wanted in line
    assert "--overwrite" in line
    kept(*flags.split(), "--overwrite")


def test_a_changed_predictor_is_seen(learnt, capsys):
    kept("--keep", "0.4")
    text = (FOLDER / "predictor.json").read_text()
    (FOLDER / "predictor.json").write_text(text.replace('"mean"', '"mean" '))
    line = error_of(prefilter_scores, [*APPLY, "--keep", "0.4"], capsys)
    assert "predictor.json: not the predictor of learn.json beside it" in line


DAMAGED = {
    "too few": lambda found: found["prices"]["told"].update(recall=[0.1, 0.2, 0.3]),
    "text": lambda found: found["prices"]["told"].update(low="x"),
    "numbers as text": lambda found: found["prices"]["told"].update(low=["0.5"] * 100),
    "no number": lambda found: found["prices"]["told"].update(high=[None] * 100),
    "nothing": lambda found: found["prices"]["told"].update(recall=None),
    "not a number": lambda found: found["prices"]["told"].update(tokens=[float("nan")] * 100),
    "a percentage as text": lambda found: found.update(top_pct="x"),
    "no domains": lambda found: found.update(whole=None),
    "no score": lambda found: found.pop("score"),
    "a pilot as text": lambda found: found.update(pilot="x"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_refused_before_anything_is_predicted(learnt, name, capsys):
    found = json.loads((FOLDER / "learn.json").read_text())
    DAMAGED[name](found)
    (FOLDER / "learn.json").write_text(json.dumps(found))
    line = error_of(prefilter_scores, [*APPLY, "--keep", "0.4"], capsys)
    assert "learn.json: not a record of this version; make it with learn again" in line
    assert not (FOLDER / "parts").exists()


def test_a_corpus_of_empty_texts_is_refused(learnt, capsys):
    for path in Path("raw").iterdir():
        write_jsonl(path, [row | {"text": ""} for row in rows(0, RAW)])
    assert error_of(prefilter_scores, [*APPLY, "--keep", "0.4"], capsys).startswith("error: raw: no text in it")


BAD = {
    "--keep 0.4 --input none.jsonl": "none.jsonl: no such file",
    "--keep 0.4 --input odd\udcff/*": "'odd\\udcff/*': a name that is not UTF-8; rename it",
    "--keep 0.4 --prefilter odd\udcff": "'odd\\udcff': a name that is not UTF-8; rename it",
    "--keep 0.4 --domain_column nothing": "no column 'nothing' (--domain_column) in it, only id, kind, text",
    "--keep 0.4 --text_column nothing": "no column 'nothing' (--text_column)",
    "--keep 0.4 --domain_column id": "no document is of a domain that was learnt ('random', 'told')",
    "--keep 1.5": "--keep: 1.5 is not below 1; write 1.5% for a percentage",
    "--keep 0.4 --recall 0.9": "not allowed with argument",
    "": "one of the arguments --keep --recall is required",
    "--keep 0.4 --prefilter nothing": "nothing/learn.json: no such file",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_flags_are_refused_in_one_line(learnt, flags, capsys):
    assert BAD[flags] in error_of(prefilter_scores, [*APPLY, *flags.split()], capsys)
