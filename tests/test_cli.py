"""A command of the shell that gets a TERM signal."""

import signal
import subprocess
import sys
import time

import pandas as pd

import fineweb
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
