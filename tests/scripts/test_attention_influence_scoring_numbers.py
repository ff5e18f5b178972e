"""Machines that die, disks that fill, files from strangers, and numbers that go wrong quietly."""

import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import transformers
import zstandard

import attention_influence_scoring
import compute_retrieval_heads
import fineweb
import make_reference_model
import rank_scores
import validate_docs
from common.errors import InputError, one_line, visible
from common.files import atomic, sole_writer
from common.shards.documents import open_shard
from common.shards.writer import DatasetWriter
from common.table.scores import SCHEMA, Health, merge_parts, read_scores
from common.text.corpus import SourceDocument
from common.text.tokenization import load_tokenizer
from tests.conftest import error_of, tiny_model

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests/tools"


# Killed, stopped, locked, full


def test_steps_that_are_killed_lose_nothing():
    done = subprocess.run(
        [sys.executable, TOOLS / "kill_steps.py", "--kills", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 18 kills and" in done.stdout


def test_a_disk_that_is_full_or_read_only_loses_nothing():
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(own_mounts, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no ordinary process mount a small disk of its own (unshare)")
    done = subprocess.run([sys.executable, TOOLS / "full_disk.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("full, then with room") == done.stdout.count("read-only, then not") == 6


def test_the_second_writer_of_an_output_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, common.files as f; lock = f.sole_writer('top20.tsv'); lock.__enter__(); "
         "print('held', flush=True); sys.stdin.read()"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    table = {
        "doc_id": ["x:0-5"],
        "domain": ["a"],
        "num_tokens": [5],
        "L_base": [1.0],
        "L_ref": [2.0],
        "AI_Score": [1.0],
    }
    pd.DataFrame(table).to_parquet("scores.parquet")
    command = "--scores scores.parquet --out top20.tsv --max_repetition 1 --dedup none"
    assert "another run is writing it" in error_of(rank_scores, command, capsys)
    assert not Path("top20.tsv").exists()
    holder.kill()  # a lock dies with its process, however that dies
    holder.wait()
    rank_scores.main(command.split())
    assert Path("top20.tsv").exists()


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp/half").write_text("half")
    (tmp_path / ".out.old").mkdir()  # killed between the two renames: this is the last whole output
    (tmp_path / ".out.old/whole").write_text("whole")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "out", "whole"):
        1 / 0  # noqa: B018
    assert (tmp_path / "out/whole").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_term_signal_ends_the_real_command_with_its_work_kept(tmp_path, bpe_folder):
    """The script as the shell starts it, on a corpus that would take minutes."""
    model = tmp_path / "model"
    shutil.copytree(bpe_folder, model)
    tiny_model("Llama").save_pretrained(model)
    (tmp_path / "heads.txt").write_text("2,3\n")
    make_reference_model.main(
        [*f"--base_model {model} --retrieval_heads {tmp_path}/heads.txt --out {tmp_path}/reference".split()]
    )
    text = json.dumps({"text": " ".join(map(str, range(400)))}) + "\n"
    (tmp_path / "corpus.jsonl").write_text(text * 2000)
    fineweb.main(f"--tokenizer {model} --input {tmp_path}/corpus.jsonl --out_dir {tmp_path}/shards".split())
    command = (
        f"--base_model {model} --reference_model {tmp_path}/reference --data {tmp_path}/shards/*.bin --seq_len 900"
    )
    running = subprocess.Popen(
        [sys.executable, ROOT / "attention_influence_scoring.py", *command.split(), "--out", "scores.tsv"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    parts = tmp_path / "scores.parts"
    assert "computed once below it" in running.stdout.readline() or running.stdout.readline()
    time.sleep(3)
    begin = time.monotonic()
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143, err
    assert time.monotonic() - begin < 5
    assert "stopped: finished work is kept" in err
    [part] = parts.glob("*.parquet")
    assert len(pd.read_parquet(part)) > 0
    assert not list(tmp_path.rglob(".*.tmp"))


# Strangers' files


class Evil:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def plant(folder, kind):
    """A checkpoint whose weights run code when they are unpickled; returns the file that does."""
    model = tiny_model("Llama")
    model.config.save_pretrained(folder)
    target = folder / "pytorch_model.bin"
    match kind:
        case "zip":
            torch.save({**model.state_dict(), "evil": Evil()}, target)
        case "legacy":
            torch.save({"evil": Evil()}, target, _use_new_zipfile_serialization=False)
        case "bare":
            target.write_bytes(pickle.dumps({"lm_head.weight": Evil()}))
        case "safetensors":
            target = folder / "model.safetensors"
            target.write_bytes(pickle.dumps(Evil()))
    return target


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "safetensors"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, bpe_folder, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bpe_folder, "model")
    target = plant(tmp_path / "model", kind)
    Path("heads.txt").write_text("1,1\n")
    line = error_of(make_reference_model, "--base_model model --retrieval_heads heads.txt --out new", capsys)
    assert line.startswith("error: model: ")
    assert not Path("pwned").exists()
    if kind == "bare":  # and it would have worked
        pickle.loads(target.read_bytes())
    elif kind != "safetensors":
        torch.load(target, weights_only=False)
    assert Path("pwned").exists() or kind == "safetensors"


def test_a_checkpoint_s_own_code_runs_only_with_the_flag(tmp_path, bpe_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    shutil.copytree(bpe_folder, "model")
    tiny_model("Llama").save_pretrained("model")
    config = json.loads(Path("model/config.json").read_text())
    config.update(model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"})
    Path("model/config.json").write_text(json.dumps(config))
    Path("model/evil.py").write_text(
        "import os\nos.system('touch pwned')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class EvilConfig(LlamaConfig):\n    model_type = 'evil'\n"
        "class Evil(LlamaForCausalLM):\n    config_class = EvilConfig\n"
    )
    Path("heads.txt").write_text("1,1\n")
    command = "--base_model model --retrieval_heads heads.txt --out new"
    line = error_of(make_reference_model, command, capsys)
    assert "trust_remote_code" in line
    assert not Path("pwned").exists()
    make_reference_model.main([*command.split(), "--trust_remote_code"])
    assert Path("pwned").exists()


def test_a_tokenizer_s_own_code_does_not_run(tmp_path, bpe_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bpe_folder, "model")
    config = json.loads(Path("model/tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    Path("model/tokenizer_config.json").write_text(json.dumps(config))
    Path("model/evil.py").write_text("import os\nos.system('touch pwned')\n")
    try:
        load_tokenizer("model")
    except InputError as error:
        assert "trust_remote_code" in str(error)
    assert not Path("pwned").exists()


@pytest.fixture
def scored(tmp_path, spm_folder, spm, monkeypatch):
    """A shard outside of the working folder, and a table of scores that leads there."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.mkdir()
    for folder in (outside, inside / "data"):
        writer = DatasetWriter(folder, spm, 1000, 0)
        for domain in ("a", "b"):
            writer.add(SourceDocument("", "id", domain), spm.encode("The quick brown fox jumps."))
        writer.close()
    monkeypatch.chdir(inside)
    return tmp_path


@pytest.mark.parametrize("shard", ["../outside/fineweb_train_000001", "OUT/fineweb_train_000001",
                                   "data/../../outside/fineweb_train_000001"])  # fmt: skip
def test_an_id_leads_out_of_the_folder_only_where_the_user_says_so(scored, spm_folder, capsys, shard):
    shard = shard.replace("OUT", str(scored / "outside"))
    row = {"doc_id": f"{shard}:0-9", "domain": "a", "num_tokens": 9, "L_base": 1.0, "L_ref": 2.0, "AI_Score": 1.0}
    pd.DataFrame([row]).to_csv("scores.tsv", sep="\t", index=False)
    for what in ("--scores scores.tsv", f"--doc_id {shard}:0-9"):
        line = error_of(validate_docs, f"--base_model {spm_folder} {what}", capsys)
        assert "leads outside" in line and "--data_dir" in line
    if "data/.." not in shard:
        folder = shard.removesuffix("/fineweb_train_000001")
        validate_docs.main(f"--base_model {spm_folder} --scores scores.tsv --data_dir {folder}".split())
        assert "quick brown fox" in capsys.readouterr().out


def test_ids_inside_the_folder_are_taken_in_every_spelling(scored, spm_folder, capsys):
    for shard in (
        "data/fineweb_train_000001",
        "./data/fineweb_train_000001",
        f"{Path.cwd()}/data/fineweb_train_000001",
    ):
        row = {"doc_id": f"{shard}:0-9", "domain": "a", "num_tokens": 9, "L_base": 1.0, "L_ref": 2.0, "AI_Score": 1.0}
        pd.DataFrame([row]).to_csv("scores.tsv", sep="\t", index=False)
        validate_docs.main(f"--base_model {spm_folder} --scores scores.tsv".split())
        assert "quick brown fox" in capsys.readouterr().out


NASTY = "\x1b[31mred\x07 \u202ebidi\u2028 tab\tline\nend"


def test_control_characters_are_made_visible():
    assert visible(NASTY) == "\\x1b[31mred\\x07 \\u202ebidi\\u2028 tab\tline\nend"
    assert one_line(NASTY) == "\\x1b[31mred\\x07 \\u202ebidi tab line end"


def test_nothing_from_a_corpus_reaches_terminal_or_table_as_a_control_character(scored, spm_folder, capsys):
    Path("text.jsonl").write_text(
        "".join(json.dumps({"text": f"The fox {NASTY}", "id": NASTY, "kind": NASTY + str(i)}) + "\n" for i in range(3))
    )
    flags = "--domain_column kind --out_dir new"
    fineweb.main([*f"--tokenizer {spm_folder} --input text.jsonl".split(), *flags.split()])
    shard = open_shard(Path("new/fineweb_train_000001.bin"))
    rows = [
        (shard.doc_id(*span), d, 9, 1.0, 2.0, 1.0) for span, d in zip(shard.spans.tolist(), shard.domains, strict=True)
    ]
    pd.DataFrame(rows, columns=SCHEMA.names).to_csv("scores.tsv", sep="\t", index=False)
    rank_scores.main("--scores scores.tsv --out top.tsv --max_repetition 1 --dedup none".split())
    validate_docs.main(f"--base_model {spm_folder} --scores scores.tsv".split())
    shown = capsys.readouterr().out + Path("top.tsv").read_text()
    assert "\\x1b[31mred" in shown
    assert all(c in "\n\t" or c.isprintable() for c in shown.replace("\r", ""))
    assert len(Path("top.tsv").read_text().splitlines()) == 1 + 3
    assert len(read_scores(Path("scores.tsv"))) == 3


def test_an_error_about_a_nasty_name_is_one_clean_line(scored, spm_folder, capsys):
    Path("text.jsonl").write_text(json.dumps({NASTY: 1}) + "\n")
    line = error_of(fineweb, f"--tokenizer {spm_folder} --input text.jsonl --out_dir new", capsys)
    assert line.isprintable()
    assert "\\x1b[31mred" in line


# Long documents


def test_a_document_of_a_million_tokens(tmp_path, bytes_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bytes_folder, "model")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tiny_model("Llama", **small, vocab_size=257, max_position_embeddings=4096).save_pretrained("model")
    text = np.random.default_rng(0).integers(97, 123, 1_000_000, dtype=np.uint8).tobytes().decode()
    Path("corpus.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("before", text, "behind")))
    Path("heads.txt").write_text("1,1\n")
    make_reference_model.main("--base_model model --retrieval_heads heads.txt".split())
    fineweb.main("--tokenizer model --input corpus.jsonl --out_dir shards --shard_size 5000".split())
    attention_influence_scoring.main("--base_model model --data shards/*.bin --seq_len 1024 --out s.tsv".split())
    table = pd.read_csv("s.tsv", sep="\t")
    assert table["num_tokens"].tolist() == [7, 1_000_001, 7]
    assert np.isfinite(table["AI_Score"]).all()


# Other inputs


def test_the_same_files_in_another_order_are_another_run(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path(f"{name}.jsonl").write_text(json.dumps({"text": f"The text of {name}."}) + "\n")
    command = f"--tokenizer {spm_folder} --out_dir new --input"
    fineweb.main(f"{command} a.jsonl b.jsonl".split())
    assert "another run's work (source" in error_of(fineweb, f"{command} b.jsonl a.jsonl", capsys)


def test_a_sample_of_other_text_is_another_run(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = f"--tokenizer {spm_folder} --out_dir new --version sample"
    monkeypatch.setattr(fineweb, "sample_documents", lambda: [SourceDocument("The old text.", "a")])
    fineweb.main(command.split())
    monkeypatch.setattr(fineweb, "sample_documents", lambda: [SourceDocument("The new text.", "a")])
    assert "another run's work (sample" in error_of(fineweb, command, capsys)


@pytest.mark.parametrize(("suffix", "compress"), [(".zst", zstandard.compress), (".gz", gzip.compress)])
@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_a_compressed_file_that_is_cut_short_is_refused(
    tmp_path, spm_folder, monkeypatch, capsys, name, suffix, compress
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": "".join(map(chr, rng.integers(97, 123, 300)))}).encode() + b"\n" for _ in range(2000)]
    whole = compress(b"".join(lines))
    Path(name + suffix).write_bytes(whole[: len(whole) * 2 // 3])
    command = f"--tokenizer {spm_folder} --out_dir new --on_bad_row skip --input {name}{suffix}"
    assert f"{name}{suffix}: cannot be read to its end" in error_of(fineweb, command, capsys)
    Path(name + suffix).write_bytes(whole + compress(b"".join(lines)))  # in two frames; nothing was finished before
    fineweb.main(command.split())
    assert f"{4000 if 'jsonl' in name else 1:,} documents" in capsys.readouterr().out


# Bad rows


def test_bad_rows_are_skipped_and_counted_on_request(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = [json.dumps({"text": f"The quick fox number {i}.", "kind": "a"}).encode() for i in range(5)]
    bad = [
        b'{"text": "\xff"}',
        b'{"text": null, "kind": "a"}',
        b'{"body": "x", "kind": "a"}',
        b"[1]",
        b"{",
        b'{"text": "no kind"}',
        b'{"text": "\\ud800", "kind": "a"}',
    ]
    lines = [line for pair in zip(bad, [*good, b"", b""], strict=True) for line in pair]
    Path("text.jsonl").write_bytes(b"\n".join(lines))
    command = f"--tokenizer {spm_folder} --input text.jsonl --domain_column kind --out_dir new"
    line = error_of(fineweb, command, capsys)
    assert "text.jsonl:1" in line and "--on_bad_row skip" in line
    fineweb.main([*command.split(), "--on_bad_row", "skip"])
    out = capsys.readouterr().out
    assert "5 documents" in out
    assert "skipped 7 rows that could not be used, the first: text.jsonl:1" in out
    line = error_of(fineweb, command.replace("kind", "topic").replace("new", "other") + " --on_bad_row skip", capsys)
    assert "text.jsonl: no documents in it; 12 rows skipped, the first: text.jsonl:1" in line


def test_strings_in_parquet_that_are_not_utf_8_are_bad_rows(tmp_path, spm_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw = pa.array([b"The first text.", b"\xff\xfe", b"The third text."], pa.binary())
    strings = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pa.parquet.write_table(pa.table({"text": strings}), "text.parquet")
    command = f"--tokenizer {spm_folder} --input text.parquet --out_dir new"
    assert "text.parquet:row 2" in error_of(fineweb, command, capsys)
    fineweb.main([*command.split(), "--on_bad_row", "skip"])
    assert "2 documents" in capsys.readouterr().out
    tokenizer, shard = load_tokenizer(spm_folder), open_shard(Path("new/fineweb_train_000001.bin"))
    assert [tokenizer.decode(shard.tokens[a : b - 1].tolist()) for a, b in shard.spans] == [
        "The first text.",
        "The third text.",
    ]


# Numbers that go wrong quietly


def health(losses, vocab_size=400):
    """The warnings about rows of (L_base, L_ref)."""
    found = Health()
    for part in (losses[:2], losses[2:]):
        rows = [(f"x:{i}-{i + 5}", "a", 5, b, r, (r - b) / b if b else float("nan")) for i, (b, r) in enumerate(part)]
        found.add(pa.Table.from_pandas(pd.DataFrame(rows, columns=SCHEMA.names), schema=SCHEMA))
    return list(found.warnings(vocab_size))


def test_sane_losses_raise_no_warning():
    assert health([(2.0, 2.5), (3.0, 2.9), (1.0, 1.5)]) == []


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([(2.0, 2.5), (float("nan"), 2.0), (1.0, float("inf"))], "2 of 3 documents have a loss that is not finite"),
        ([(2.0, 2.0), (3.0, 3.0), (1.0, 1.0)], "every score is 0"),
        ([(2.0, 5.991), (3.0, 5.991), (1.0, 5.991)], "the same loss, 5.9910 nats"),
        ([(12.0, 12.5), (11.0, 11.9), (14.0, 15.0)], "12.33 nats, is worse than guessing"),
    ],
)  # fmt: skip
def test_each_quiet_trouble_is_named(losses, says):
    [warning] = health(losses)
    assert says in warning


@pytest.fixture
def half(tmp_path, bpe_folder, monkeypatch):
    """A model in which one token overflows float16, its reference, and a corpus with and without that token."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bpe_folder, "model")
    model = tiny_model("Llama")
    tokenizer = load_tokenizer(bpe_folder)
    [bad] = tokenizer.encode("~")
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = 65_000
        model.model.layers[0].mlp.down_proj.weight.mul_(100)
    model.save_pretrained("model")
    Path("heads.txt").write_text("2,3\n")
    make_reference_model.main("--base_model model --retrieval_heads heads.txt".split())
    texts = ["The quick brown fox.", "One ~ and", "Two ~", "The lazy dog."]
    Path("corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    fineweb.main("--tokenizer model --input corpus.jsonl --out_dir shards".split())


def test_losses_that_are_not_finite_are_said_once_counted_and_never_ranked(half, capsys):
    capsys.readouterr()
    command = "--base_model model --data shards/*.bin --seq_len 64 --out s.tsv --dtype float16"
    attention_influence_scoring.main(command.split())
    out, err = capsys.readouterr()
    assert err.count("its loss is not finite") == 1
    assert "2 of 4 documents have a loss that is not finite" in out
    for name in ("s.tsv", "s.parquet"):
        table = read_scores(Path(name))
        assert np.isfinite(table["AI_Score"]).tolist() == [True, False, False, True]
        rank_scores.main(f"--scores {name} --top_pct 100 --out top.tsv".split())
        assert len(pd.read_csv("top.tsv", sep="\t")) == 2
        assert "2 rows have no finite AI_Score and were not ranked" in capsys.readouterr().out
    assert "nan" in Path("s.tsv").read_text()


def test_weights_that_are_not_finite_are_refused(half, capsys):
    model = transformers.AutoModelForCausalLM.from_pretrained("model")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained("model")
    line = error_of(compute_retrieval_heads, "--model model --probes none --out h.txt", capsys)
    assert "none" in line
    line = error_of(make_reference_model, "--base_model model --retrieval_heads heads.txt --out new", capsys)
    assert "layers.1.mlp.up_proj.weight" in line and "not finite" in line


@pytest.mark.parametrize(("other", "says"), [("same", "every score is 0"), ("zero", "predicts nothing")])
def test_a_reference_that_tells_nothing_is_called_so(half, capsys, other, says):
    model = transformers.AutoModelForCausalLM.from_pretrained("model")
    if other == "zero":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    model.save_pretrained("other")
    command = "--base_model model --reference_model other --data shards/*.bin --seq_len 64 --out s.tsv"
    attention_influence_scoring.main([*command.split(), "--allow_unrelated_reference"])
    assert says in capsys.readouterr().out


def test_a_damaged_part_is_found_and_named(half, capsys):
    command = "--base_model model --data shards/*.bin --seq_len 64 --out s.tsv"
    attention_influence_scoring.main(command.split())
    [part] = Path("s.parts").glob("*.parquet")
    data = bytearray(part.read_bytes())
    before = Path("s.tsv").read_bytes()
    place = data.index(b"shards/fineweb")
    data[place] ^= 1
    part.write_bytes(data)
    assert str(part) in error_of(attention_influence_scoring, command, capsys)
    assert Path("s.tsv").read_bytes() == before
    part.unlink()
    attention_influence_scoring.main(command.split())
    assert Path("s.tsv").read_bytes() == before


def test_scores_do_not_depend_on_the_batch_size(half):
    tables = []
    for size in ("1", "7", "auto"):
        command = f"--base_model model --data shards/*.bin --seq_len 64 --out {size}.tsv --tokens_per_batch {size}"
        attention_influence_scoring.main(command.split())
        tables.append(pd.read_csv(f"{size}.tsv", sep="\t"))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], atol=1e-5, rtol=0)


def test_an_empty_part_or_none_makes_no_table(tmp_path):
    with pytest.raises(Exception, match="no scores to write"):
        merge_parts([], tmp_path / "s.tsv")
    assert not list(tmp_path.iterdir())


def test_a_lock_leaves_the_folder_usable(tmp_path):
    with sole_writer(tmp_path / "out.tsv"):
        pass
    with sole_writer(tmp_path / "out.tsv"):
        assert [path.name for path in tmp_path.iterdir()] == [".out.tsv.lock"]
