"""Steps that are killed, and disks that are full: nothing is lost."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOOLS = ROOT / "tests/tools"


def test_steps_that_are_killed_lose_nothing():
    done = subprocess.run(
        [sys.executable, TOOLS / "kill_steps.py", "--kills", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 18 kills and" in done.stdout


def test_a_disk_that_is_full_or_read_only_loses_nothing():
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(own_mounts, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no ordinary process mount a small disk of its own (unshare)")
    done = subprocess.run([sys.executable, TOOLS / "full_disk.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("full, then with room") == done.stdout.count("read-only, then not") == 6
