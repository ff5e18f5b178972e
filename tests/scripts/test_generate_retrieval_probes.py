"""generate_retrieval_probes.py: what it says of its probes, and bad input."""

import json
import re
from pathlib import Path

import pytest

import fineweb
import generate_retrieval_probes
from tests.conftest import SENTENCES, error_of, write_jsonl

PROBE = [generate_retrieval_probes, *"--tokenizer BASE --out new.jsonl".split()]


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "too few sentences": (
        [*PROBE, "--corpus", "few.txt"],
        lambda d: (d / "few.txt").write_text("One two."),
        ["--corpus"],
    ),
    "no such template": ([*PROBE, "--template", "short"], None, ["--template", "short"]),
    "budget too small": ([*PROBE, "--max_tokens", "40", "--corpus", "SENTENCES"], None, ["--max_tokens"]),
    "keys too short to differ": (
        [*PROBE, *"--key_length 1 --max_tokens 900 --corpus SENTENCES".split()],
        None,
        ["--key_length 1"],
    ),
    "keys too long": ([*PROBE, *"--key_length 1000000000000 --corpus SENTENCES".split()], None, ["--key_length"]),
    "a domain of files without domains": ([*PROBE, "--corpus", "SENTENCES", "--domain", "a"], None, ["--domain"]),
    "a domain of the sample text": ([*PROBE, "--domain", "code"], None, ["--domain"]),
    "probes over their own corpus": (
        [*PROBE[:-1], "corpus.txt", "--corpus", "corpus.txt"],
        lambda d: (d / "corpus.txt").write_text("One two three. Four five six."),
        ["corpus.txt", "an input"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])


@pytest.mark.parametrize("template", ["published", "plain"])
def test_it_says_how_close_the_probes_come_to_the_wanted_length(bpe_folder, tmp_path, capsys, template):
    (tmp_path / "text.txt").write_text("\n\n".join(SENTENCES))
    out = tmp_path / "probes.jsonl"
    flags = f"--tokenizer {bpe_folder} --corpus {tmp_path}/text.txt --num_probes 3 --max_tokens 700 --out {out}"
    generate_retrieval_probes.main([*flags.split(), "--template", template])
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    lengths = sorted(row["num_tokens"] for row in rows)
    said = re.search(r"median (\d+), shortest (\d+), at most 700", capsys.readouterr().out)
    assert [int(said[1]), int(said[2])] == [lengths[1], lengths[0]]
    assert {row["template"] for row in rows} == {template}


def test_sentences_of_shards_are_those_of_the_domain(run, spm_folder, capsys):
    texts = {"a": [], "b": []}
    for number in range(300):
        texts["ab"[number % 2]].append(f"In {'ab'[number % 2]} the number {number} follows {number - 1}.")
    rows = [
        {"text": " ".join(found[i : i + 10]), "kind": kind} for kind, found in texts.items() for i in range(0, 150, 10)
    ]
    write_jsonl("more.jsonl", rows)
    fineweb.main(f"--tokenizer {spm_folder} --input more.jsonl --domain_column kind --out_dir data/more".split())
    flags = f"--tokenizer {spm_folder} --num_probes 2 --max_tokens 900 --corpus data/more/fineweb_train_*.bin"
    capsys.readouterr()
    for domain, other in ("ab", "ba"):
        generate_retrieval_probes.main([*flags.split(), "--domain", domain, "--out", "probes.jsonl"])
        assert "from 150 sentences" in capsys.readouterr().out
        for row in map(json.loads, Path("probes.jsonl").read_text().splitlines()):
            assert row["answer"] in {text.rstrip(".") for text in texts[domain]}
            assert f"In {domain} the" in row["prompt"] and f"In {other} the" not in row["prompt"]
    generate_retrieval_probes.main([*flags.split(), "--out", "probes.jsonl"])
    assert "from 300 sentences" in capsys.readouterr().out
    line = error_of(generate_retrieval_probes, [*flags.split(), "--domain", "c", "--out", "probes.jsonl"], capsys)
    assert line == "error: --domain: no document of the shards has the domain 'c'; there are 'a', 'b'"
