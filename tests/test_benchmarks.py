import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import table  # noqa: E402


def test_the_table_in_the_readme_is_what_the_results_say():
    written = table.MARKS.search((ROOT / "README.md").read_text(encoding="utf-8"))[0].splitlines()
    assert written[3:-1] == [f"| {' | '.join(row)} |" for row in table.rows()]


def test_what_has_no_result_is_marked_as_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    assert {measured for _, _, measured in table.rows()} == {"not measured"}
