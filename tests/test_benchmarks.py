import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import fill_tables  # noqa: E402
from tables import cells, of_benchmarks  # noqa: E402


def written(mark):
    """The lines of a table between its marks, as they are in the page."""
    text = fill_tables.TABLES[mark][0].read_text(encoding="utf-8")
    [table] = [part.split(f"<!-- /{mark} -->")[0] for part in text.split(f"<!-- {mark} -->\n")[1:]]
    return table.splitlines()


@pytest.mark.parametrize("mark", fill_tables.TABLES)
def test_a_table_in_the_pages_is_what_the_results_say(mark):
    assert written(mark) == fill_tables.TABLES[mark][1]().splitlines()


def test_the_table_of_benchmarks_has_a_line_for_each_row():
    assert written("benchmarks")[2:] == [f"| {' | '.join(row)} |" for row in of_benchmarks.benchmark_rows()]


def test_the_table_of_model_classes_is_that_of_the_list():
    families = runpy.run_path(str(fill_tables.FAMILIES))["FAMILIES"]
    assert [line.split(" | ")[1] for line in written("families")[2:]] == [family.name for family in families]


def test_what_has_no_result_is_marked_as_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(cells, "EXPERIMENTS", tmp_path)
    assert {measured for _, _, measured in of_benchmarks.benchmark_rows()} == {"not measured"}
    assert {measured for _, measured, _ in fill_tables.headline_rows()} == {"not measured"}
    for name in ("two models", "heads matter", "weak to strong"):
        assert fill_tables.TABLES[name][1]() == "not measured\n"


def test_a_figure_that_was_changed_by_hand_is_found_and_put_right(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fill_tables, "ROOT", tmp_path)
    page, make = fill_tables.TABLES["weak to strong"]
    copy = tmp_path / shutil.copy(page, tmp_path)
    monkeypatch.setattr(fill_tables, "TABLES", {"weak to strong": (copy, make)})
    fill_tables.main(["--check"])
    right = copy.read_text(encoding="utf-8")
    copy.write_text(right.replace("5.121 ± 0.037", "4.121 ± 0.037"), encoding="utf-8")
    with pytest.raises(SystemExit, match="the table `weak to strong` is not what the results say"):
        fill_tables.main(["--check"])
    fill_tables.main([])
    assert copy.read_text(encoding="utf-8") == right
