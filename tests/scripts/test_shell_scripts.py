"""The shell scripts of the whole project."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_shell_scripts_are_clean():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("[!.]*/*.sh"), ROOT / ".ci/run"]
    assert ROOT / "examples/slurm.sh" in scripts
    done = subprocess.run([shellcheck, "--external-sources", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
