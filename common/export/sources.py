"""The files of a corpus that was scored: where they are now, and what has changed in them since."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from common import cli
from common.errors import InputError
from common.files import as_path, read_json
from common.shards.doc_id import parse_doc_id
from common.shards.tokenizing import RECORD
from common.table.by_source import Place
from common.text.corpus import Columns

SHOWN = 5
Moved = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus.

    Attributes:
        place: its rows in the ordered table.
        path: where it is now.
        text, id: its columns.
    """

    place: Place
    path: Path
    text: str
    id: str

    @property
    def state(self) -> list:
        """Its name, size and time of change."""
        about = self.path.stat()
        return [self.place.name, about.st_size, about.st_mtime]


def source_files(places: Sequence[Place], moved: Moved, text_column: str | None) -> list[SourceFile]:
    """The files of the places.

    Args:
        moved: as in `moved_path`.
        text_column: the column of the text; None for that in the record beside the shards.
    Raises:
        InputError: a file is not there.
    """
    found, known = [], cache(_columns)
    for place in places:
        path = moved_path(place.name, moved)
        if not path.is_file():
            raise InputError(
                f"{path}: no such file, and {place.end - place.begin:,} documents are from it; say where it is with "
                "--moved OLD NEW, or take the texts from the shards with export_selection.py --from_tokens"
            )
        shard, _, _ = parse_doc_id(place.doc_id)
        columns = known(moved_path(str(shard), moved).with_name(RECORD))
        found.append(SourceFile(place, path, text_column or columns.text, columns.id or "id"))
    return found


def moved_path(name: str, moved: Moved) -> Path:
    """Where a file or folder is now; the first pair (old, new) counts whose old is its beginning.

    >>> str(moved_path("corpus/a/x.parquet", [("corpus/", "/mnt/new")]))
    '/mnt/new/a/x.parquet'
    """
    for old, new in moved:
        if f"{name}/".startswith(old := f"{old.rstrip('/')}/"):
            return as_path(f"{new.rstrip('/')}/{name[len(old) :]}".rstrip("/"))
    return as_path(name)


def _columns(record: Path) -> Columns:
    """The columns of the corpus, from the record of its shards if there is one."""
    columns = read_json(record).get("columns") if record.exists() else None
    return Columns(**columns) if columns else Columns()


@dataclass
class Counts:
    """Documents that were looked for in a corpus.

    Attributes:
        documents: found as they were scored.
        changed: left out, because they are not.
        first_changed: the first of these, in words.
        unlike: decoded to a text that is not the one that was tokenized.
    """

    documents: int = 0
    changed: int = 0
    first_changed: list[str] = field(default_factory=list)
    unlike: int = 0

    @classmethod
    def compared(cls, name: str, numbers: np.ndarray, same: np.ndarray) -> "Counts":
        """Of rows of a file; those that are not the same have another text now."""
        return cls(int(same.sum()), *_named(name, numbers[~same], "has another text now"))

    @classmethod
    def gone(cls, name: str, numbers: np.ndarray) -> "Counts":
        """Of rows that a file does not have any more."""
        return cls(0, *_named(name, numbers, "is not there any more"))

    def add(self, other: "Counts") -> None:
        """Count others too."""
        self.documents += other.documents
        self.changed += other.changed
        self.unlike += other.unlike
        self.first_changed = [*self.first_changed, *other.first_changed][:SHOWN]

    def report(self) -> None:
        """Say what is not as it was; SystemExit with status 3 if something was left out."""
        total = self.documents + self.changed
        if self.unlike:
            print(f"{self.unlike:,} of {total:,} texts, decoded from tokens, are not exactly those that were tokenized")
        for line in self.first_changed:
            cli.warn(line)
        if self.changed:
            cli.warn(f"{self.changed:,} of {total:,} documents have changed since they were scored and are left out")
            raise SystemExit(cli.INCOMPLETE)


def _named(name: str, numbers: np.ndarray, what: str) -> tuple[int, list[str]]:
    return len(numbers), [f"{name}: row {number}, counted from 0, {what}" for number in numbers[:SHOWN].tolist()]
