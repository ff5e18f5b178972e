"""fineweb.py --prefilter: exactly the documents that are kept, and one line where corpus and prefilter disagree."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import fineweb
from common.shards.reader import ShardReader
from common.text.corpus import SourceDocument
from common.text.kept import PREDICTED
from common.text.prefiltered import Prefilter
from common.text.tokenization import load_tokenizer
from tests.conftest import SENTENCES, error_of
from tests.scripts.conftest import write_kept

# Files, in the order in which they are read, and the number of documents in each.
FILES = {"in/a.jsonl": 3, "in/b.jsonl.gz": 4, "in/dump=x/c.parquet": 5, "in/dump=y/c.parquet": 2, "in/z.json": 2}


def kept(row: int) -> bool:
    return row % 3 != 1


def text(file: str, row: int) -> str:
    return f"{SENTENCES[row]} {file}"


def rows(*files: str) -> list[tuple]:
    """All documents of some files, as a prefilter lists them."""
    places = [(file, row) for file in files for row in range(FILES[file])]
    return [(file, row, "default", len(text(file, row)), row / 8, kept(row)) for file, row in places]


def write(file: str) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    documents = [{"text": text(file, row), "score": row} for row in range(FILES[file])]
    if path.suffix == ".parquet":
        pd.DataFrame(documents).to_parquet(path, row_group_size=2)
    elif path.suffix == ".json":
        path.write_text(json.dumps(documents))
    else:
        lines = "\n\n".join(map(json.dumps, documents)).encode()  # empty lines are no rows
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in FILES:
        write(file)
    write_kept(rows(*reversed(FILES)))
    return tmp_path


@pytest.fixture
def flags(corpus, bpe_folder):
    return f"--tokenizer {bpe_folder} --input in --out_dir new --shard_size 100 --prefilter data/prefilter"


def tokenized() -> list[str]:
    """The texts of all shards."""
    found = []
    for path in sorted(Path().glob("new/*.bin")):
        shard = ShardReader().open(path)
        tokenizer = load_tokenizer(shard.info.tokenizer)
        found += [tokenizer.decode(shard.document(row).token_ids[:-1].tolist()) for row in range(len(shard.spans))]
    return found


def index() -> pd.DataFrame:
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(Path().glob("new/*.index.parquet"))])


EXPECTED = [(file, row) for file, count in FILES.items() for row in range(count) if kept(row)]


@pytest.mark.parametrize("more", ["", "--keep_columns score,dump", "--num_workers 3"])
def test_exactly_the_kept_documents_are_tokenized(flags, more, capsys):
    if "dump" in more:
        flags = flags.replace("--input in ", "--input in/*/*.parquet ")
    expected = [place for place in EXPECTED if "dump" not in more or "dump" in place[0]]
    fineweb.main([*flags.split(), *more.split()])
    assert tokenized() == [text(*place) for place in expected]
    found = index()
    assert list(zip(found["file"], found["row"], strict=True)) == expected
    assert found[PREDICTED].tolist() == [row / 8 for _, row in expected]
    if more.startswith("--keep"):
        assert found["score"].tolist() == [row for _, row in expected]
    read = sum(count for file, count in FILES.items() if "dump" not in more or "dump" in file)
    assert f"left out by the prefilter: {read - len(expected)} of {read} documents" in capsys.readouterr().out


def test_a_stopped_run_goes_on_and_new_files_are_added(flags, capsys):
    early = [file for file in FILES if file != "in/b.jsonl.gz"]
    late = Path("in/b.jsonl.gz").rename("b")
    write_kept(rows(*early))
    fineweb.main(flags.split())
    shards = sorted(Path().glob("new/*.bin"))
    assert len(shards) > 2
    for path in shards[1:]:
        path.unlink()
    Path("new/fineweb_summary.json").unlink()
    fineweb.main(flags.split())
    assert tokenized() == [text(*place) for place in EXPECTED if place[0] in early]
    late.rename("in/b.jsonl.gz")
    write_kept([(*place, predicted + 1e-6, is_kept) for *place, predicted, is_kept in rows(*FILES)])  # another machine
    fineweb.main(flags.split())
    added = [place for place in EXPECTED if place[0] not in early]
    assert tokenized() == [text(*place) for place in [*(p for p in EXPECTED if p not in added), *added]]
    record = json.loads(Path("new/dataset.json").read_text())["prefilter"]
    assert record["domains"]["default"]["documents"] == sum(FILES.values())
    capsys.readouterr()
    fineweb.main(flags.split())
    assert "reusing new/" in capsys.readouterr().out


def test_a_prefilter_that_decides_otherwise_is_another_run(flags, capsys):
    fineweb.main(flags.split())
    before = tokenized()
    write_kept(rows(*FILES), keep=0.5)
    assert "its prefilter differ, keep among them" in error_of(fineweb, flags, capsys)
    write_kept([(*row[:-1], not row[-1]) for row in rows(*FILES)])
    line = error_of(fineweb, flags, capsys)
    assert "has changed since, or the prefilter keeps others (new files move its cut)" in line
    assert "prefilter was {" in error_of(fineweb, flags.rpartition(" --prefilter")[0], capsys)
    assert tokenized() == before


@pytest.mark.parametrize("value", ["x", ["x"], 1, {"model": "x"}])
def test_a_damaged_record_of_the_prefilter_is_refused(flags, value, capsys):
    fineweb.main(flags.split())
    path = Path("new/dataset.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prefilter": value}))
    assert "new holds the work of another run" in error_of(fineweb, flags, capsys)


def counts() -> list[int]:
    """What the record says of its only domain."""
    [part] = json.loads(Path("new/dataset.json").read_text())["prefilter"]["domains"].values()
    assert part.pop("recall") == {"estimate": 0.9, "low": 0.8, "high": 1.0}
    return [part[name] for name in ("documents", "kept", "characters", "kept_characters")]


def counted(listed: list[tuple]) -> list[int]:
    """The same of these rows."""
    chosen = [row for row in listed if row[-1]]
    return [len(listed), len(chosen), *(sum(row[3] for row in each) for each in (listed, chosen))]


@pytest.mark.parametrize("most", [*range(1, 13), 2**63])
def test_the_record_counts_what_is_read_of_the_corpus(flags, most):
    fineweb.main([*flags.split(), "--max_docs", str(most)])
    read = rows(*FILES)
    while len(EXPECTED) >= most and not (read[-1][-1] and sum(row[-1] for row in read) == most):
        read.pop()
    assert counts() == counted(read)


def test_the_record_grows_with_the_files_that_are_read(flags):
    fineweb.main(flags.replace("--input in ", "--input in/z.json in/a.jsonl ").split())
    assert counts() == counted(rows("in/z.json", "in/a.jsonl"))
    fineweb.main(flags.split())
    assert counts() == counted(rows(*FILES))


def test_a_file_that_the_prefilter_has_not_seen_changes_nothing_in_a_finished_folder(flags, capsys):
    fineweb.main(flags.split())
    before = {path.name: path.read_bytes() for path in Path("new").iterdir()}
    Path("in/zz.jsonl").write_text('{"text": "new"}')
    assert "in/zz.jsonl: row 0, counted from 0, is not as data/prefilter/kept" in error_of(fineweb, flags, capsys)
    assert {path.name: path.read_bytes() for path in Path("new").iterdir()} == before
    Path("in/zz.jsonl").write_text("")
    write_kept(rows(*FILES), empty=["in/zz.jsonl"])
    fineweb.main(flags.split())
    assert tokenized() == [text(*place) for place in EXPECTED]


def test_a_table_of_many_files_is_read_twice_and_not_for_each_file(corpus, monkeypatch):
    reads, read = [], Prefilter._read_group
    monkeypatch.setattr(Prefilter, "_read_group", lambda self, group: reads.append(group) or read(self, group))
    documents = [SourceDocument("a" * (number % 9), "", file=f"{number:05}") for number in range(20_000)]
    large = [("large", row, "default", 1, 0.5, True) for row in range(100_000)]
    write_kept([*((each.file, 0, "default", len(each.text), 0.5, True) for each in documents), *large])
    prefilter = Prefilter(Path("data/prefilter"))
    files = [each.file for each in documents]
    assert prefilter.facts_of_files(files, 4000).domains["default"].documents == 4000
    assert len(list(prefilter.kept(documents, files))) == 20_000
    assert len(reads) == 2  # to count, and to look at rows


def test_a_domain_of_which_too_little_is_read_is_told_before_it_is_scored(flags, capsys):
    early = ["in/b.jsonl.gz", "in/z.json"]
    write_kept([(*row[:-1], row[0] not in early or row[:2] == (early[0], 0)) for row in rows(*FILES)])
    fineweb.main(flags.split())
    assert "step 6 will refuse" not in capsys.readouterr().err
    fineweb.main([*flags.replace("--input in ", f"--input {' '.join(early)} ").split(), "--overwrite"])
    assert "of domain 'default' less than the top 20 % of the documents that are read" in capsys.readouterr().err


def test_a_domain_of_which_nothing_kept_is_read_is_refused_before_it_is_tokenized(flags, capsys):
    write_kept([(*row[:-1], row[-1] and row[0] != "in/z.json") for row in rows(*FILES)])
    line = error_of(fineweb, flags.replace("--input in", "--input in/z.json"), capsys)
    assert "of domain 'default' nothing is kept among the documents that are read" in line and "--max_docs" in line
    assert not Path("new").exists()


def change(column: str, new) -> None:
    table = pd.read_parquet("data/prefilter/kept.parquet")
    table[column] = [new(number, value) for number, value in enumerate(table[column])]
    table.to_parquet("data/prefilter/kept.parquet", index=False)


def record(**values) -> None:
    path = Path("data/prefilter/kept.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


WHOLE = {"documents": 9, "kept": 9, "characters": 9, "kept_characters": 9, "share": 1, "recall": None}
BAD = {
    "a file that it has not seen": (lambda: write_kept(rows(*list(FILES)[1:])), ["in/a.jsonl: row 0, counted from 0"]),
    "a row more": (lambda: write_kept(rows(*FILES)[1:]), ["in/a.jsonl: row 0"]),
    "a row less": (lambda: write_kept([*rows(*FILES), ("in/z.json", 2, "d", 5, 0.5, True)]), ["in/z.json: row 2"]),
    "a row twice": (lambda: write_kept([*rows(*FILES), rows("in/z.json")[0]]), ["in/z.json: row 1"]),
    "a changed text": (lambda: Path("in/a.jsonl").write_text('{"text": "new"}'), ["in/a.jsonl: row 0", "apply"]),
    "a file without text": (lambda: Path("in/b.jsonl.gz").write_bytes(gzip.compress(b"")), ["in/b.jsonl.gz: row 0"]),
    "a last file without text": (lambda: Path("in/z.json").write_text("[]"), ["in/z.json: row 0"]),
    "a null": (
        lambda: change("kept", lambda n, value: value if n < 15 else None),
        ["not the table of a prefilter (a null in its column kept); make it"],
    ),
    "other domains": (
        lambda: write_kept([(file, row, "news", *rest) for file, row, _, *rest in rows(*FILES)]),
        ["in/a.jsonl: row 0", "columns"],
    ),
    "a table of others": (lambda: change("domain", lambda *_: "news"), ["kept.parquet: not the record of a prefilter"]),
    "other files": (lambda: write_kept([("b", *row[1:]) for row in rows(*FILES)]), ["in/a.jsonl: row 0", "same files"]),
    "no table": (lambda: Path("data/prefilter/kept.parquet").unlink(), ["kept.parquet: no such file; make it with"]),
    "no record": (lambda: Path("data/prefilter/kept.json").unlink(), ["kept.json: no such file; make it with"]),
    "a torn table": (lambda: Path("data/prefilter/kept.parquet").write_bytes(b"PAR1"), ["not the table of a pref"]),
    "another table": (lambda: pd.DataFrame({"a": [1]}).to_parquet("data/prefilter/kept.parquet"), ["not the table"]),
    "rows as text": (lambda: change("row", lambda *_: "x"), ["not the table of a prefilter"]),
    "no domains": (lambda: record(domains={}), ["kept.json: not the record of a prefilter"]),
    "a domain as a list": (lambda: record(domains=[1]), ["kept.json: not the record of a prefilter"]),
    "more than there is": (lambda: record(domains={"a": WHOLE | {"kept": 10}}), ["keeps more of a domain"]),
    "a part without recall": (lambda: record(domains={"a": WHOLE | {"kept": 8}}), ["recall is not kept whole"]),
    "no score": (lambda: record(score=None), ["kept.json: not the record of a prefilter"]),
    "a pilot as text": (lambda: record(pilot="base"), ["or the pilot no record"]),
    "a part as text": (lambda: record(in_part="no"), ["in_part not true or false"]),
    "no inputs": (lambda: record(inputs=[]), ["kept.json: not the record of a prefilter (no inputs)"]),
    "a count as text": (lambda: record(domains={"a": WHOLE | {"characters": "9"}}), ["not a whole number"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_prefilter_of_another_corpus_is_refused_in_one_line(flags, name, capsys):
    spoil, wanted = BAD[name]
    spoil()
    line = error_of(fineweb, flags, capsys)
    assert all(part in line for part in wanted), line
    assert not list(Path().glob("new/*.bin")) or "z.json" in line or "dump=y" in line


@pytest.mark.parametrize("corpus", ["--version sample", "--version 10B", "--hub some/thing"])
def test_a_prefilter_is_of_files(flags, corpus, capsys):
    assert error_of(fineweb, flags.replace("--input in", corpus), capsys).startswith("error: --prefilter: it lists fil")
