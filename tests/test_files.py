"""Files appear whole or not at all, and runs do not mix."""

import errno
import json
from pathlib import Path

import pytest

from common.errors import InputError
from common.files import as_path, atomic, claim, expand, read_json, sole_writer


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


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "ours.json").write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken disk")))
    with pytest.raises(InputError, match="cannot be written"), atomic(path, "ours.json") as tmp:
        tmp.mkdir()
    assert (path / "ours.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_claiming_a_folder_leaves_what_others_are_writing_there(tmp_path):
    (tmp_path / ".probes.jsonl.tmp").write_text("being written")
    (tmp_path / ".x_1.bin.tmp").write_text("left by a killed run")
    claim(tmp_path / "dataset.json", {"a": 1}, False, "x_*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".probes.jsonl.tmp", "dataset.json"]


@pytest.mark.parametrize("name", [".", "./model/", "link"])
def test_every_spelling_of_an_output_is_the_same_lock(tmp_path, monkeypatch, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path / "model" if name == "." else tmp_path)
    with sole_writer(tmp_path / "model"), pytest.raises(InputError, match="another run"), sole_writer(Path(name)):
        pass


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp/half").write_text("half")
    (tmp_path / ".out.old").mkdir()  # killed between the two renames: this is the last whole output
    (tmp_path / ".out.old/whole").write_text("whole")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "out", "whole"):
        1 / 0  # noqa: B018
    assert (tmp_path / "out/whole").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_leaves_the_folder_usable(tmp_path):
    with sole_writer(tmp_path / "out.tsv"):
        pass
    with sole_writer(tmp_path / "out.tsv"):
        assert [path.name for path in tmp_path.iterdir()] == [".out.tsv.lock"]


@pytest.mark.parametrize("pattern", ["*.txt", "b\udcff.txt"])
def test_a_name_that_is_not_utf8_is_refused(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    Path("b\udcff.txt").write_text("a text")
    with pytest.raises(InputError, match=r"^'b\\udcff.txt': a name that is not UTF-8; rename it$"):
        expand([pattern])
    Path("a.txt").write_text("a text")
    assert expand(["a*"]) == [Path("a.txt")]


def test_nothing_half_written_appears_in_a_store(store):
    path = as_path(f"{store}/half/x.json")
    with pytest.raises(KeyboardInterrupt), atomic(path) as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert not path.exists()
    claim(path, {"a": 1}, False, "*.parquet")
    assert json.loads(path.read_text()) == {"a": 1}
