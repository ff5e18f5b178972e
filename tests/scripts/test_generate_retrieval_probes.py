"""generate_retrieval_probes.py: what it says of its probes, and bad input."""

import json
import re
from pathlib import Path

import pytest

import generate_retrieval_probes
from tests.conftest import SENTENCES

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
