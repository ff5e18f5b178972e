"""The parts of a scoring run: what is there, what is missing."""

import pytest

from common.table.parts import Parts


def test_parts_say_what_is_missing_and_join_what_touches(tmp_path):
    with Parts(tmp_path) as parts:
        for name, first, last in (("a", 3, 4), ("ab", 2, 3), ("a", 0, 1), ("a", 1, 2)):
            parts.add(name, first, last, [])
    with Parts(tmp_path) as parts:
        assert [span for *span, _ in parts.of_shard("a")] == [[0, 2], [3, 4]]
        assert parts.missing("a", 9) == [range(2, 3), range(4, 9)]
        assert parts.missing("a", 3) == [range(2, 3)]
        assert parts.missing("ab", 3) == [range(2)]
        assert parts.missing("ab", 1) == [range(1)]
        assert parts.missing("other", 5) == [range(5)]
        assert parts.missing("other", 0) == []


def test_parts_of_some_hashes_are_apart_from_those_of_others(tmp_path):
    few, rest = range(5), range(5, 2**32)
    with Parts(tmp_path) as parts:
        parts.add("a", 0, 2, [], few)
        parts.add("a", 2, 4, [], rest)
    for found in (parts, Parts(tmp_path)):
        assert found.edges == {0, 5, 2**32}
        assert found.missing("a", 4, few) == [range(2, 4)]
        assert found.missing("a", 4, rest) == [range(2)]
        assert found.missing("a", 4) == [range(4)]
    assert Parts(tmp_path, afresh=True).edges == set()
    with Parts(tmp_path / "whole") as parts:
        parts.add("a", 0, 1, [])
    assert Parts(tmp_path / "whole").edges == {0, 2**32}


def test_parts_are_written_when_the_work_is_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt), Parts(tmp_path) as parts:
        parts.add("a", 0, 1, [])
        raise KeyboardInterrupt
    with Parts(tmp_path) as parts:
        assert parts.missing("a", 2) == [range(1, 2)]
