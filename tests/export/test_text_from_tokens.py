"""The selection as text, decoded from tokens; and text files, chats and documents that have no file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import normalizers

import export_selection
from common.table.schema import TABLE_SCHEMA
from tests.conftest import SENTENCES, byte_level_bpe, error_of, save_bpe
from tests.export.conftest import scored, write_lines
from tests.scripts.conftest import write_llm_c_shard

EXPORT = "--selection top.parquet --out_dir out --format parquet"
CHATS = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}] for text in SENTENCES]
ROWS = [
    {"text": text, "id": f"id {number}", "url": f"u{number}", "n": [number], "domain": "web"}
    for number, text in enumerate(SENTENCES)
]


def exported(*flags):
    export_selection.main([*EXPORT.split(), *flags])
    return pa.concat_tables(map(pq.read_table, sorted(Path("out").glob("part-*"))))


def test_tokens_become_texts_with_what_the_index_knows(tmp_path, selected, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    numbers = selected("--input corpus --keep_columns n,domain")
    (tmp_path / "corpus").rename(tmp_path / "gone")
    found = exported("--from_tokens", "--rows_per_file", "3")
    assert found.column_names == ["text", "id", "url", "n", "source_domain", *TABLE_SCHEMA.names]
    for name in ("text", "id", "url", "n"):
        assert found[name].to_pylist() == [ROWS[number][name] for number in numbers]
    assert found["source_domain"].to_pylist() == ["web"] * len(numbers)
    assert "not exactly" not in capsys.readouterr().out


def test_texts_that_do_not_come_out_exactly_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_level_bpe(400)
    tokenizer.normalizer = normalizers.Lowercase()
    write_lines(tmp_path / "corpus/x.jsonl", [{"text": text} for text in ("a small river.", "A small river.")])
    pq.write_table(scored(save_bpe("lower", tokenizer), "--input corpus"), "top.parquet")
    assert exported("--from_tokens")["text"].to_pylist() == ["a small river."] * 2
    assert "1 of 2 texts, decoded from tokens, are not exactly" in capsys.readouterr().out


def test_a_shard_of_another_program_needs_a_tokenizer(tmp_path, monkeypatch, bpe, bpe_folder, capsys):
    monkeypatch.chdir(tmp_path)
    write_llm_c_shard(tmp_path / "x.bin", [bpe.encode(text) for text in SENTENCES[:3]], 0)
    lengths = [len(bpe.encode(text)) + 1 for text in SENTENCES[:3]]
    start = lengths[0]
    row = {"doc_id": f"x:{start}-{start + lengths[1]}", "domain": "d", "num_tokens": lengths[1]}
    pq.write_table(pa.Table.from_pylist([row | {"L_base": 1.0, "L_ref": 1.0, "AI_Score": 0.0}]), "top.parquet")
    line = error_of(export_selection, f"{EXPORT} --from_tokens --eot_id 0", capsys)
    assert line == "error: x.bin: does not say which tokenizer made it; name it with --tokenizer"
    found = exported("--from_tokens", "--eot_id", "0", "--tokenizer", bpe_folder)
    assert found["text"].to_pylist() == [SENTENCES[1]]


def test_another_tokenizer_is_refused(tmp_path, selected, bpe_folder, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected()
    line = error_of(export_selection, f"{EXPORT} --from_tokens --tokenizer {bpe_folder}", capsys)
    assert "cuts text differently" in line


def test_chats_come_out_as_they_are_and_decoded_as_the_template_writes_them(
    tmp_path, monkeypatch, with_chat_models, capsys
):
    write_lines(tmp_path / "corpus/x.jsonl", [{"messages": chat, "id": n} for n, chat in enumerate(CHATS)])
    pq.write_table(scored("model", "--input corpus --chat").slice(2, 3), "top.parquet")
    assert exported()["messages"].to_pylist() == CHATS[2:5]
    text = exported("--from_tokens", "--overwrite")["text"][0].as_py()
    assert text.startswith(f"<|im_start|>user\n{SENTENCES[2]}<|im_end|>")
    assert "not exactly" not in capsys.readouterr().out


def test_text_files_come_out_with_their_paths(tmp_path, selected):
    for number, text in enumerate(SENTENCES):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / f"corpus/{number:02d}.txt").write_text(text)
    numbers = selected()
    found = exported()
    assert found["text"].to_pylist() == [SENTENCES[number] for number in numbers]
    assert found["id"].to_pylist() == [f"corpus/{number:02d}.txt" for number in numbers]


@pytest.mark.parametrize("column", ["meta.body", "body"])
def test_the_column_of_the_text_is_known_from_the_shards_or_given(tmp_path, selected, column, capsys):
    (tmp_path / "corpus").mkdir()
    inner = [{"body": text, "n": number} for number, text in enumerate(SENTENCES)]
    table = pa.table({"meta": inner}) if "." in column else pa.Table.from_pylist(inner)
    pq.write_table(table, "corpus/x.parquet")
    numbers = selected(f"--input corpus --text_column {column}")
    assert exported().select(table.column_names).to_pylist() == table.take(numbers).to_pylist()
    Path("shards/dataset.json").unlink()
    line = error_of(export_selection, f"{EXPORT} --overwrite", capsys)
    assert "corpus/x.parquet: no column 'text', only" in line and "--text_column" in line
    assert len(exported("--overwrite", "--text_column", column)) == len(numbers)


BAD = {
    "top.tsv": "no such file; make it with rank_scores.py",
    "old.parquet": "does not say in which file document shards/fineweb_train_000001:0-",
    "empty.parquet": "no rows in it",
    "not.parquet": "not a score table",
    "odd.parquet": "file, row or text_hash have another type",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_selection_is_one_line_and_nothing_is_written(tmp_path, selected, name, capsys):
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    selected(keep=lambda _: True)
    table = pq.read_table("top.parquet").sort_by("row")
    pq.write_table(table.drop_columns(["file", "row", "text_hash"]), "old.parquet")
    pq.write_table(table.slice(0, 0), "empty.parquet")
    pq.write_table(table.drop_columns(["row"]).append_column("row", table["url"]), "odd.parquet")
    Path("not.parquet").write_text("no")
    line = error_of(export_selection, EXPORT.replace("top.parquet", name), capsys)
    assert line.startswith(f"error: {name}: ") and BAD[name] in line
    assert not Path("out").exists() and not list(tmp_path.glob("*.scratch"))


@pytest.mark.parametrize("spoil", [b"PAR1", None])
def test_a_damaged_file_leaves_the_finished_files_and_no_half_one(tmp_path, selected, spoil, capsys):
    write_lines(tmp_path / "corpus/a.jsonl", ROWS * 2)
    pq.write_table(pa.Table.from_pylist(ROWS), "corpus/b.parquet")
    selected(keep=lambda _: True)
    whole = Path("corpus/b.parquet").read_bytes()
    Path("corpus/b.parquet").write_bytes(spoil or whole[: len(whole) // 2])
    line = error_of(export_selection, f"{EXPORT} --rows_per_file 10", capsys)
    assert line.startswith("error: corpus/b.parquet: not a readable parquet file")
    assert sorted(path.name for path in Path("out").glob("*part-*")) == [f"part-0000{n}.parquet" for n in range(3)]
    assert len(json.loads(Path("out/.parts.json").read_text())) == 3


def test_documents_without_a_file_are_refused_with_the_way_out(tmp_path, monkeypatch, bytes_folder, capsys):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "corpus/x.jsonl", ROWS)
    table = scored(bytes_folder, "--input corpus")
    place = table.column_names.index("file")
    for file, wanted in (("", "does not say in which file"), ("HuggingFaceFW/fineweb", "no such file")):
        other = table.set_column(place, "file", pa.array([file] * len(table)))
        pq.write_table(other, "top.parquet")
        line = error_of(export_selection, EXPORT, capsys)
        assert wanted in line and "--from_tokens" in line
    assert len(exported("--from_tokens")) == len(ROWS)
