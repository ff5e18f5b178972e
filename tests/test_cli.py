"""Flags become options and numbers, --help imports nothing large, and a TERM signal keeps the work."""

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fineweb
from common import cli
from tests.conftest import ROOT, save_pair, write_jsonl


def test_a_term_signal_ends_the_real_command_with_its_work_kept(tmp_path, bpe_folder):
    """The script as the shell starts it, on a corpus that would take minutes."""
    save_pair(tmp_path, bpe_folder, [(2, 3)])
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": " ".join(map(str, range(400)))}] * 2000)
    fineweb.main(f"--tokenizer {tmp_path}/model --input {tmp_path}/corpus.jsonl --out_dir {tmp_path}/shards".split())
    command = f"--base_model {tmp_path}/model --data {tmp_path}/shards/*.bin --seq_len 900"
    running = subprocess.Popen(
        [sys.executable, ROOT / "attention_influence_scoring.py", *command.split(), "--out", "scores.tsv"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    parts = tmp_path / "scores.parts"
    assert "layers below it run once" in running.stdout.readline() or running.stdout.readline()
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


@dataclass(frozen=True)
class Options:
    """Two fields without a default, and two with one."""

    model: str
    seq_len: int
    dtype: str = "auto"
    data: list[str] = field(default_factory=lambda: ["."])


def test_options_are_the_flags_of_the_same_names():
    args = argparse.Namespace(model="m", seq_len=8, dtype="float16", data=["a", "b"], other="left out")
    assert cli.options(Options, args) == Options("m", 8, "float16", ["a", "b"])


def test_options_given_by_name_win_over_flags():
    args = argparse.Namespace(model="m", seq_len=8, dtype="float16")
    assert cli.options(Options, args, seq_len=9, dtype="auto") == Options("m", 9, "auto", ["."])
    assert cli.options(Options, argparse.Namespace(), model="m", seq_len=8) == Options("m", 8)


def test_only_fields_with_a_default_may_lack_a_flag():
    assert cli.options(Options, argparse.Namespace(model="m", seq_len=8)) == Options("m", 8, "auto", ["."])
    with pytest.raises(TypeError, match="seq_len"):
        cli.options(Options, argparse.Namespace(model="m"))
    with pytest.raises(TypeError, match="unknown"):
        cli.options(Options, argparse.Namespace(model="m", seq_len=8), unknown=1)


def test_a_flag_of_none_or_0_is_kept():
    args = argparse.Namespace(model="m", seq_len=0, dtype=None)
    assert cli.options(Options, args) == Options("m", 0, None)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (cli.number(int), "10_000_000", 10**7),
        (cli.number(int), "-3", -3),
        (cli.number(float), "1_000.5", 1000.5),
        (cli.number(float), "-1e-3", -0.001),
        (cli.number(int, low=2, high=5), "2", 2),
        (cli.number(int, low=2, high=5), "5", 5),
        (cli.percentage, "100", 100.0),
        (cli.share, "1%", 0.01),
        (cli.share, "100%", 1.0),
        (cli.share, "0.999", 0.999),
        (cli.percentage, "0.001", 0.001),
        (cli.fraction, "0", 0.0),
        (cli.fraction, "1", 1.0),
        (cli.positive_float, "1e-9", 1e-9),
        (cli.positive_int, "1", 1),
        (cli.non_negative_int, "0", 0),
        (cli.auto_or_positive_int, "auto", None),
        (cli.auto_or_positive_int, "4_096", 4096),
    ],
)
def test_a_number_within_its_bounds_is_read(parse, text, value):
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (cli.number(int), "1.5", "'1.5' is not a whole number"),
        (cli.number(int), "3.0", "'3.0' is not a whole number"),
        (cli.number(int), "1e6", "'1e6' is not a whole number"),
        (cli.number(int), "inf", "'inf' is not a whole number"),
        (cli.number(int), "", "'' is not a whole number"),
        (cli.number(float), "many", "'many' is not a number"),
        (cli.number(float), "1,5", "'1,5' is not a number"),
        (cli.number(float), "nan", "nan is not finite"),
        (cli.number(float), "inf", "inf is not finite"),
        (cli.number(float), "-inf", "-inf is not finite"),
        (cli.number(float), "1e999", "1e999 is not finite"),
        (cli.number(int, low=2, high=5), "1", "1 is not at least 2 and at most 5"),
        (cli.number(int, low=2, high=5), "6", "6 is not at least 2 and at most 5"),
        (cli.percentage, "0", "0 is not above 0 and at most 100"),
        (cli.percentage, "100.1", "100.1 is not above 0 and at most 100"),
        (cli.fraction, "-0.1", "-0.1 is not at least 0 and at most 1"),
        (cli.fraction, "1.1", "1.1 is not at least 0 and at most 1"),
        (cli.positive_float, "0", "0 is not above 0"),
        (cli.positive_int, "0", "0 is not at least 1"),
        (cli.non_negative_int, "-1", "-1 is not at least 0"),
        (cli.auto_or_positive_int, "0", "0 is not at least 1"),
        (cli.auto_or_positive_int, "Auto", "'Auto' is not a whole number"),
    ],
)
def test_any_other_number_is_refused_with_its_bounds(parse, text, says):
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        parse(text)
    assert str(raised.value) == says


@pytest.mark.parametrize("text", ["nan", "inf", "1e999"])
def test_a_number_with_a_bound_is_finite_too(text):
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        cli.number(float, low=0)(text)


@given(st.floats(), st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9) | st.just(-math.inf))
def test_a_number_is_read_if_and_only_if_it_is_within_all_bounds(value, low, high, above):
    within = math.isfinite(value) and value >= low and value <= high and value > above
    try:
        found = cli.number(float, low, high, above)(repr(value))
    except argparse.ArgumentTypeError:
        assert not within
    else:
        assert within
        assert found == value


LARGE = ["torch", "transformers", "numpy", "pandas", "pyarrow", "matplotlib"]
HELP = """
import json, runpy, sys
script, *large = sys.argv[1:]
sys.argv = [script, "--help"]
try:
    runpy.run_path(script, run_name="__main__")
    code = "no exit"
except SystemExit as exit_:
    code = exit_.code
print(json.dumps([code, [name for name in large if name in sys.modules]]))
"""
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_shown_without_a_large_import(script):
    done = subprocess.run(
        [sys.executable, "-c", HELP, ROOT / script, *LARGE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text, _, last = done.stdout.strip().rpartition("\n")
    assert json.loads(last) == [0, []]
    assert text.startswith(f"usage: {script} ")
    assert f"python {script}" in text
    assert "--help" in text


def test_there_are_scripts_to_ask_for_help():
    assert {"fineweb.py", "rank_scores.py", "report.py"} < set(SCRIPTS)


def test_a_bar_that_the_environment_turned_off_is_skipped_too(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    script = "from common import cli\nwith cli.progress(10, 'x') as bar:\n    cli.skip(bar, 3)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
