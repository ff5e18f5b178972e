import importlib
import runpy

import pytest

from tests.conftest import ROOT, error_of

SCRIPTS = [path.stem for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_starts_and_shows_what_it_does(name, capsys):
    script = runpy.run_path(str(ROOT / f"experiments/{name}.py"))  # a benchmark can have the same name
    with pytest.raises(SystemExit, match=r"^0$"):
        script["main"](["--help"])
    assert script["__doc__"].splitlines()[0] in capsys.readouterr().out


def test_the_scored_pilot_is_needed(tmp_path, monkeypatch, capsys):
    script = importlib.import_module("what_it_goes_with")
    monkeypatch.setattr(script, "PILOT", tmp_path / "pilot.parquet")
    assert "pilot.parquet: no such file; run experiments/pilot.py first" in error_of(script, "", capsys)
