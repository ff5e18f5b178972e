"""make_reference_model.py: the precision of the base, and bad input."""

import json
import shutil

import pytest
import torch
import transformers

import make_reference_model
from tests.conftest import tiny_model
from tests.scripts.conftest import HEADS

MASK = [make_reference_model, *"--base_model BASE --out new-model".split()]


def test_the_reference_keeps_the_precision_of_the_base(run, spm_folder):
    tiny_model("Llama", bos_token_id=1, eos_token_id=2).to(torch.float16).save_pretrained(run / "half")
    transformers.AutoTokenizer.from_pretrained(spm_folder).save_pretrained(run / "half")
    make_reference_model.main("--base_model half --out half-reference".split())
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "half-reference", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
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
    "a folder that is not ours": (
        [make_reference_model, *"--base_model BASE --out data/mine".split()],
        None,
        ["data/mine", "not replaced"],
    ),
    "heads of a larger model": (MASK, lambda d: (d / HEADS).write_text("1,2\n30,14\n"), [f"{HEADS}:2", "30,14"]),
    "heads that are not UTF-8": (MASK, lambda d: (d / HEADS).write_bytes(b"1,2\n\xff"), [HEADS]),
    "a base model inside of --out": (
        [make_reference_model, *"--base_model reference-model/base --out reference-model".split()],
        lambda d: shutil.copytree(d / "reference-model", d / "reference-model/base"),
        ["reference-model/base is in this folder"],
    ),
    "probes for the check that do not fit": (
        [make_reference_model, *"--base_model BASE --mask zero --probes long.jsonl".split()],
        lambda d: (d / "long.jsonl").write_text(
            json.dumps({"id": 0, "prompt": "cat " * 2000 + "b", "answer": "b"}) + "\n"
        ),
        ["probe 0", "1024"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
