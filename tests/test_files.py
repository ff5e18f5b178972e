"""Files appear whole or not at all, and runs do not mix."""

import pytest

from common.errors import InputError
from common.files import atomic, claim, read_json


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "deep/er/out.txt"
    with atomic(path) as tmp:
        tmp.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(path) as tmp:
        tmp.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_only_if_its_marker_shows_that_it_is_ours(tmp_path):
    path = tmp_path / "model"
    for text in ("first", "second"):
        with atomic(path, "ours.json") as tmp:
            tmp.mkdir()
            (tmp / "ours.json").write_text(text)
    assert (path / "ours.json").read_text() == "second"
    (path / "ours.json").rename(path / "theirs.txt")
    with pytest.raises(InputError, match="not replaced"), atomic(path, "ours.json"):
        pass
    assert (path / "theirs.txt").read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_with_other_settings_is_refused_until_told_to_overwrite(tmp_path):
    record, part = tmp_path / "run.json", tmp_path / "1.part"
    claim(record, {"seq_len": 64, "heads": [(1, 2)]}, False, "*.part")
    part.write_text("work")
    claim(record, {"seq_len": 64, "heads": [(1, 2)]}, False, "*.part")
    with pytest.raises(InputError, match="seq_len was 64, is 32"):
        claim(record, {"seq_len": 32, "heads": [(1, 2)]}, False, "*.part")
    assert part.exists()
    claim(record, {"seq_len": 32, "heads": [(1, 2)]}, True, "*.part")
    assert not part.exists()
    assert read_json(record)["seq_len"] == 32
