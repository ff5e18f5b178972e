"""pipeline.sh runs a step again only if there is a reason."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# In place of each script: it makes its outputs, unless it is told to leave a finished one as it is.
STUB = """
import sys
from pathlib import Path
out = {OUT}
for name in out:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.exists() and {REUSES}):
        path.write_text("made")
"""
OUTPUTS = {
    "unpack_model": ["data/SmolLM2-135M-Instruct"],
    "generate_retrieval_probes": ["data/probes.jsonl"],
    "compute_retrieval_heads": ["data/retrieval_heads.txt"],
    "make_reference_model": ["reference-model"],
    "fineweb": ["data/finewebsample/fineweb_summary.json"],
    "attention_influence_scoring": ["data/ai_scores.json"],
    "rank_scores": ["data/top20.json"],
    "validate_docs": ["data/documents.html"],
    "report": ["data/report.html"],
}


@pytest.fixture
def pipeline(tmp_path):
    """Runs pipeline.sh over stubs; returns the scripts that it started."""
    shutil.copy(ROOT / "pipeline.sh", tmp_path)
    (tmp_path / "common").mkdir()
    (tmp_path / "common/setup.sh").write_text(f"python={sys.executable}\nsetup() {{ :; }}\n")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/sample.txt").touch()
    for name, out in OUTPUTS.items():
        text = STUB.replace("{OUT}", repr(out)).replace("{REUSES}", repr(name == "fineweb"))
        (tmp_path / f"{name}.py").write_text(text)

    def run() -> list[str]:
        done = subprocess.run(["bash", "pipeline.sh"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return [line.split()[2].removesuffix(".py") for line in done.stdout.splitlines() if line.startswith("$ python")]

    run.folder = tmp_path
    return run


def test_a_second_run_has_nothing_to_do(pipeline):
    assert pipeline() == [*OUTPUTS, "validate_docs"]
    assert pipeline() == []


def test_a_step_and_all_after_it_run_again_once_if_its_input_is_newer(pipeline):
    pipeline()
    probes = pipeline.folder / "data/probes.jsonl"
    before = probes.stat().st_mtime_ns
    os.utime(probes, ns=(before, before + 5_000_000_000))
    names = list(OUTPUTS)
    assert pipeline() == [*names[names.index("compute_retrieval_heads") :], "validate_docs"]
    os.utime(probes, ns=(before, before))
    assert pipeline() == []
