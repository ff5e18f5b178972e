"""attention_influence_scoring.py --estimate against the run that it speaks of."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import attention_influence_scoring
from common.scoring import estimate
from common.scoring.units import UnitScorer
from common.shards.reader import ShardReader
from tests.conftest import error_of


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def estimated(run, spm_folder, capsys):
    """The lines of an estimate, which writes nothing."""

    def check(*flags: str, out: str = "data/new.tsv") -> list[str]:
        command = ["--base_model", spm_folder, "--data", "data/mine/*.bin", "--seq_len", "64", "--out", out, *flags]
        before = files(run)
        capsys.readouterr()
        attention_influence_scoring.main([*command, "--estimate"])
        assert files(run) == before
        return capsys.readouterr().out.splitlines()

    return check


def test_an_estimate_counts_what_its_command_scores(run, estimated):
    shards = [ShardReader().open(path) for path in sorted((run / "data/mine").glob("*.bin"))]
    documents, tokens = (sum(len(getattr(shard, name)) for shard in shards) for name in ("spans", "tokens"))
    summary, left, speed, hours, disk, last = estimated()
    assert "heads masked" in summary
    assert left == f"to score: {documents} documents, {tokens:,} tokens; 0 documents are scored already"
    assert re.fullmatch(
        rf"speed: [\d,]+ tokens/s on this device \(cpu, float32\), [\d,]+ to [\d,]+ from moment to moment; measured on "
        rf"{documents} documents, [\d.]+ s",
        speed,
    )
    assert re.search(r"^time: [\d.]+ hours on this device .* hours on 8 of them", hours)
    assert re.fullmatch(r"disk: [\d.]+ MB of parts and [\d.]+ MB of tables when all of it is scored", disk)
    python, script, *flags = shlex.split(last.removeprefix("next: "))
    assert (python, script) == ("python", "attention_influence_scoring.py")
    attention_influence_scoring.main(flags)
    assert (run / "data/new.tsv").read_bytes() == (run / "data/ai_scores.tsv").read_bytes()


def test_what_is_scored_already_is_not_counted(run, estimated, spm_folder, capsys):
    flags = f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64 --out data/new.tsv"
    attention_influence_scoring.main([*flags.split(), "--sample", "40%"])
    rows = pd.read_parquet("data/new.parquet")
    left = estimated()[1]
    documents, tokens, done = (int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", left))
    total = sum(len(ShardReader().open(path).tokens) for path in (run / "data/mine").glob("*.bin"))
    assert documents + done == 90
    assert len(rows) <= done <= len(rows) + 2  # two have nothing to predict
    assert total - rows["num_tokens"].sum() - 4 <= tokens <= total - rows["num_tokens"].sum()
    assert estimated("--sample", "40%")[1:-1] == [
        f"to score: 0 documents, 0 tokens; {done} documents are scored already"
    ]
    assert "; 0 documents are scored already" in estimated("--overwrite")[1]
    line = error_of(attention_influence_scoring, [*flags.split(), "--seq_len", "32", "--estimate"], capsys)
    assert "seq_len was 64, is 32" in line


def test_an_estimate_stops_after_its_time_and_leaves_a_warm_up_out(estimated, monkeypatch):
    scorer, given = UnitScorer.__call__, []
    monkeypatch.setattr(UnitScorer, "__call__", lambda self, unit: given.append(unit) or scorer(self, unit))
    monkeypatch.setattr(estimate, "SECONDS", 0)
    speed = estimated("--tokens_per_batch", "64")[2]
    assert 0 < int(re.search(r"on (\d+) documents", speed)[1]) < 45
    assert given[0] is given[1]
    assert "on 16 of them" in estimated("--engine", "ray", "--num_workers", "16")[3]


@pytest.mark.parametrize("flags", [[], ["--granularity", "step"]])
def test_the_disk_is_what_the_run_takes(run, spm_folder, monkeypatch, flags):
    found, disk = [], estimate.disk
    monkeypatch.setattr(estimate, "disk", lambda *facts: found.append(disk(*facts)) or found[0])
    command = [*f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64 --out a/new.tsv".split(), *flags]
    attention_influence_scoring.main([*command, "--estimate"])
    attention_influence_scoring.main(command)
    real = [sum(path.stat().st_size for path in run.glob(f"a/{kind}")) for kind in ("new.parts/*.parquet", "new.*[tv]")]
    assert np.allclose(found[0], real, rtol=0.1)
