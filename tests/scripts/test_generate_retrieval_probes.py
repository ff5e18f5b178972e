"""generate_retrieval_probes.py: bad input."""

import pytest

import generate_retrieval_probes

PROBE = [generate_retrieval_probes, *"--tokenizer BASE --out new.jsonl".split()]


# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "too few sentences": (
        [*PROBE, "--corpus", "few.txt"],
        lambda d: (d / "few.txt").write_text("One two."),
        ["--corpus"],
    ),
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
