"""Control characters of a corpus reach no terminal and no table."""

import json
from pathlib import Path

import pandas as pd

import fineweb
import rank_scores
import validate_docs
from common.errors import one_line, visible
from common.shards.reader import ShardReader
from common.table.schema import SCHEMA
from common.table.tables import read_scores
from tests.conftest import error_of

NASTY = "\x1b[31mred\x07 \u202ebidi\u2028 tab\tline\nend"


def test_control_characters_are_made_visible():
    assert visible(NASTY) == "\\x1b[31mred\\x07 \\u202ebidi\\u2028 tab\tline\nend"
    assert one_line(NASTY) == "\\x1b[31mred\\x07 \\u202ebidi tab line end"


def test_nothing_from_a_corpus_reaches_terminal_or_table_as_a_control_character(
    tmp_path, spm_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("text.jsonl").write_text(
        "".join(json.dumps({"text": f"The fox {NASTY}", "id": NASTY, "kind": NASTY + str(i)}) + "\n" for i in range(3))
    )
    flags = "--domain_column kind --out_dir new"
    fineweb.main([*f"--tokenizer {spm_folder} --input text.jsonl".split(), *flags.split()])
    shard = ShardReader().open(Path("new/fineweb_train_000001.bin"))
    rows = [(shard.document(row).doc_id, domain, 9, 1.0, 2.0, 1.0) for row, domain in enumerate(shard.domains)]
    pd.DataFrame(rows, columns=SCHEMA.names).to_csv("scores.tsv", sep="\t", index=False)
    rank_scores.main("--scores scores.tsv --out top.tsv --max_repetition 1 --dedup none".split())
    validate_docs.main(f"--base_model {spm_folder} --scores scores.tsv".split())
    shown = capsys.readouterr().out + Path("top.tsv").read_text()
    assert "\\x1b[31mred" in shown
    assert all(c in "\n\t" or c.isprintable() for c in shown.replace("\r", ""))
    assert len(Path("top.tsv").read_text().splitlines()) == 1 + 3
    assert len(read_scores(Path("scores.tsv"))) == 3


def test_an_error_about_a_nasty_name_is_one_clean_line(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.jsonl").write_text(json.dumps({NASTY: 1}) + "\n")
    line = error_of(fineweb, f"--tokenizer {spm_folder} --input text.jsonl --out_dir new", capsys)
    assert line.isprintable()
    assert "\\x1b[31mred" in line
