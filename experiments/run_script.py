"""Runs the project's scripts for the experiments."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def run(script: str, flags: str) -> None:
    """Run a script in the project's folder; SystemExit if it fails. A script does not repeat finished work."""
    print(f"$ python {script} {flags}", flush=True)
    if subprocess.run([sys.executable, script, *flags.split()], cwd=ROOT, check=False).returncode:
        raise SystemExit(f"{script} failed; fix the cause and run this again, it continues where it stopped")
