"""The commands in the pages are commands that the scripts take."""

import importlib
import re
import shlex

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/README.md"))]
COMMAND = re.compile(r"^    (?:torchrun .* )?python (\w+)\.py((?:.*\\\n)*.*)$", re.MULTILINE)
COMMANDS = [
    (page.relative_to(ROOT).as_posix(), match[1], match[2].replace("\\\n", " "))
    for page in PAGES
    for match in COMMAND.finditer(page.read_text(encoding="utf-8"))
    if (ROOT / f"{match[1]}.py").exists()
]


def test_the_readme_shows_every_step_of_the_sample_run():
    shown = [script for page, script, _ in COMMANDS if page == "README.md"]
    pipeline = re.findall(r"(?<!examples/)\b(\w+)\.py ", (ROOT / "pipeline.sh").read_text())
    assert set(pipeline) - {"pretrain", "evaluate"} <= set(shown)


@pytest.mark.parametrize(("page", "script", "flags"), COMMANDS)
def test_a_command_of_a_page_has_flags_that_the_script_knows(page, script, flags, capsys):
    args = shlex.split(flags, comments=True)
    try:
        importlib.import_module(script).parse_args(args)
    except SystemExit as stopped:
        assert stopped.code == 0 and "--help" in args, capsys.readouterr().err
