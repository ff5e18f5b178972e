"""Reading ahead of the work."""

import subprocess
import sys

from tests.conftest import ROOT


def test_a_source_that_hangs_does_not_keep_the_program_from_ending():
    script = (
        "import time\nfrom common.workers.read_ahead import read_ahead\n"
        "def source():\n    yield 1\n    time.sleep(600)\n"
        "for item in read_ahead(source()):\n    raise KeyboardInterrupt\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=20, capture_output=True, check=False)
    assert b"KeyboardInterrupt" in done.stderr
