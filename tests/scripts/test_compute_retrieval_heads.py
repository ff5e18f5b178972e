"""compute_retrieval_heads.py: a model that cannot do the probes, and bad input."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import transformers

import compute_retrieval_heads
import make_reference_model
from tests.conftest import error_of
from tests.scripts.conftest import PROBES, small_model, spoil

FIND = [compute_retrieval_heads, *"--model BASE --out new.txt".split()]


def test_a_model_that_cannot_answer_the_probes_gets_a_warning(run, spm_folder, capsys):
    compute_retrieval_heads.main(["--model", spm_folder])
    out = capsys.readouterr().out
    assert float(re.search(r"predicts ([\d.]+)%", out)[1]) < 50
    assert "the scores mean little" in out


def test_the_record_says_how_heads_were_scored_and_how_concentrated_their_scores_are(run, spm_folder, capsys):
    found = {}
    for average in ("probes", "tokens"):
        compute_retrieval_heads.main(["--model", spm_folder, "--out", f"{average}.txt", "--average", average])
        record = json.loads(Path(f"{average}.json").read_text())
        found[average] = pd.read_csv(f"{average}.tsv", sep="\t")["retrieval_score"]
        assert record["concentration"] == pytest.approx(found[average][:2].sum() / found[average].sum(), abs=1e-4)
        assert f"best 5 % of heads have {record['concentration']:.0%} of the sum" in capsys.readouterr().out
        assert (record["average"], record["template"]) == (average, "published")
    assert not found["probes"].equals(found["tokens"])
    lengths = sorted(json.loads(line)["num_tokens"] for line in Path(PROBES).read_text().splitlines())
    assert record["probe_tokens"]["shortest"] == lengths[0] <= record["probe_tokens"]["median"]
    assert record["probe_tokens"]["longest"] == lengths[-1]


def test_the_heads_of_another_model_are_kept_unless_told_otherwise(run, spm_folder, capsys):
    compute_retrieval_heads.main(["--model", spm_folder, "--out", "new.txt"])
    accuracy = float(re.search(r"predicts ([\d.]+)%", capsys.readouterr().out)[1])
    record = json.loads(Path("new.json").read_text())
    assert record["model"] == spm_folder and record["probes"] == PROBES
    assert record["probe_accuracy"] == pytest.approx(accuracy / 100, abs=6e-4)
    shutil.copytree(spm_folder, "copy")
    line = error_of(compute_retrieval_heads, "--model copy --out new.txt", capsys)
    assert f"--out new.txt: the heads of {spm_folder}; give another output, or --overwrite" in line
    make_reference_model.main(["--base_model", "copy", "--retrieval_heads", "new.txt", "--out", "other"])
    assert f"warning: new.txt: the heads of {spm_folder}, not of copy" in capsys.readouterr().err
    make_reference_model.main(["--retrieval_heads", "new.txt", "--out", "masked"])
    assert json.loads(Path("masked/attention_influence.json").read_text())["base_model"] == spm_folder
    line = error_of(make_reference_model, "--base_model copy --retrieval_heads new.txt --out masked", capsys)
    assert f"--out masked: a masked copy of {spm_folder}; give another folder, or --overwrite" in line
    compute_retrieval_heads.main(["--model", "copy", "--out", "new.txt", "--overwrite"])
    assert json.loads(Path("new.json").read_text())["model"] == "copy"


def misspelt_model(folder, file, right, wrong):
    """The same tiny model, with something else in one of its files."""
    small_model(folder, vocab_size=400)
    spoil(folder / "small" / file, lambda data: data.replace(right, wrong))


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
    "top_pct 0": ([*FIND, "--top_pct", "0"], None, ["--top_pct", "above 0 and at most 100"]),
    "top_pct 101": ([*FIND, "--top_pct", "101"], None, ["--top_pct", "above 0 and at most 100"]),
    "top_pct nan": ([*FIND, "--top_pct", "nan"], None, ["--top_pct"]),
    "no such model": ([compute_retrieval_heads, "--model", "./nowhere", "--out", "new.txt"], None, ["./nowhere"]),
    "no such device": ([*FIND, "--device", "warp"], None, ["warp"]),
    "a device without memory": ([*FIND, "--device", "meta"], None, ["--device meta"]),
    "a device of another make": ([*FIND, "--device", "hpu"], None, ["--device hpu"]),
    "a tokenizer alone is no model": ([compute_retrieval_heads, "--model", "BPE", "--out", "new.txt"], None, ["BPE"]),
    "heads into a folder": ([*FIND[:-1], "data/mine"], None, ["data/mine", "folder"]),
    "heads over the probes": ([*FIND[:-1], PROBES], None, [PROBES]),
    "a truncated checkpoint": (
        [compute_retrieval_heads, *"--model reference-model --out new.txt".split()],
        lambda d: spoil(d / "reference-model/model.safetensors", lambda b: b[:5000]),
        ["reference-model"],
    ),
    "probes that are not UTF-8": (FIND, lambda d: spoil(d / PROBES, lambda b: b + b"\xff\n"), [f"{PROBES}:7"]),
    "probes for another tokenizer": (
        FIND,
        lambda d: (d / PROBES).write_text(json.dumps({"id": 3, "prompt": "e quick th", "answer": "e"}) + "\n"),
        ["probe 3", "prefix"],
    ),
    "a tokenizer larger than the model": (
        [compute_retrieval_heads, *"--model small --out new.txt".split()],
        lambda d: small_model(d, vocab_size=300),
        ["small", "399", "300"],
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
    "heads whose table goes over the probes": (
        [compute_retrieval_heads, *"--model BASE --probes p.tsv --out p.txt".split()],
        lambda d: (d / "p.tsv").write_bytes((d / PROBES).read_bytes()),
        ["p.tsv", "an input"],
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
    "no layers in the config": (
        [compute_retrieval_heads, *"--model small --out new.txt".split()],
        lambda d: misspelt_model(d, "config.json", b'"num_hidden_layers": 4', b'"num_hidden_layers": 0'),
        ["small", "more layers than the 0"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
