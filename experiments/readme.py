"""What the experiments share: running the project's scripts, and putting a table into README.md."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def run(script: str, flags: str) -> None:
    """Run a script of the project in its folder; a script knows what it has done already."""
    print(f"$ python {script} {flags}", flush=True)
    if subprocess.run([sys.executable, script, *flags.split()], cwd=ROOT, check=False).returncode:
        raise SystemExit(f"{script} failed; mend that and run this again, it goes on where it stopped")


def put_into_readme(mark: str, table: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->`, and print it."""
    path = ROOT / "README.md"
    between = re.compile(rf"(<!-- {mark} -->\n).*(<!-- /{mark} -->)", re.DOTALL)
    text, count = between.subn(lambda marks: marks[1] + table + marks[2], path.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{path}: the marks <!-- {mark} --> are not there once")
    path.write_text(text, encoding="utf-8")
    print(table)
