"""Scores beside the files of a corpus: for each file one of the same rows, as parquet or as attributes for Dolma."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from common import cli
from common.errors import InputError
from common.export.sources import Counts, SourceFile, source_files
from common.export.writers import Add, compressed, json_line, parquet_writer
from common.files import atomic, is_url, read_json, refuse_url, scratch, write_json
from common.table.by_source import BySource, by_source
from common.table.schema import TABLE_SCHEMA
from common.text.originals import Rows, column_of, have_texts, originals
from common.text.rows import JSON, kind_of

RECORD = ".join.json"  # in the folder: what is in it; readers of folders skip dotted names
DOLMA = "attention_influence"
DOCUMENTS = "documents"  # the folder in a path that Dolma's mixer replaces
NUMBERS = [field.name for field in TABLE_SCHEMA if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]


@dataclass(frozen=True)
class JoinOptions:
    """How scores are joined.

    Attributes:
        format: `parquet` or `dolma`.
        text_column: as in `source_files`.
        moved: as in `moved_path`.
        overwrite: replace the join of other scores, or in another format.
    """

    scores: Path
    format: str
    out_dir: Path
    text_column: str | None
    moved: list[tuple[str, str]]
    overwrite: bool


def join_scores(options: JoinOptions) -> None:
    """Write, for each file that a score table names, its rows' ids and scores into a folder, whole or not at all.

    Call it as the sole writer of the folder.

    Raises:
        InputError: it is no score table, a file is not there or damaged, or the folder is another program's.
        SystemExit: with status 3 in the end, if documents have changed since they were scored.
    """
    out_dir, total, num_rows = options.out_dir, Counts(), 0
    refuse_url(out_dir)
    made = {"scores": str(options.scores), "format": options.format}
    if not options.overwrite and (out_dir / RECORD).exists():
        before = read_json(out_dir / RECORD)
        if any(before.get(name) != value for name, value in made.items()):
            raise InputError(
                f"{out_dir}: holds the scores of {before.get('scores')} as {before.get('format')}; give another "
                "--out_dir, or --overwrite"
            )
    with (
        scratch(out_dir) as spare,
        by_source(options.scores, spare) as table,
        atomic(out_dir, RECORD) as folder,
        cli.progress(len(table), "writing", unit="documents") as bar,
    ):
        files = source_files(table.places, options.moved, options.text_column)
        for file, name in zip(files, _names(files, options.format), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _writer(folder / name, options.format, file, spare) as add:
                for rows, scores, counts in _joined(table, file):
                    add(rows, scores)
                    total.add(counts)
                    num_rows += len(rows)
                    bar.update(counts.documents + counts.changed)
        counts = {"files": len(files), "rows": num_rows, "documents": total.documents, "changed": total.changed}
        write_json(folder / RECORD, {**made, **counts})
    print(f"wrote {len(files):,} files to {out_dir}/: {num_rows:,} rows, {total.documents:,} of them with scores")
    total.report()


def _names(files: Sequence[SourceFile], kind: str) -> list[PurePosixPath]:
    """The names of the outputs: paths from the folder that holds all files, or for Dolma from `documents`."""
    paths = [PurePosixPath("/", str(file.path) if is_url(file.path) else file.path.absolute()) for file in files]
    common = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(common) for path in paths]
    if kind == "dolma":
        for number, (path, file) in enumerate(zip(paths, files, strict=True)):
            if kind_of(file.path) not in JSON:
                raise InputError(f"{file.path}: not JSONL, which Dolma takes; leave out --format dolma")
            if DOCUMENTS in path.parts[:-1]:
                names[number] = PurePosixPath(*path.parts[path.parts.index(DOCUMENTS) + 1 :])
    else:
        names = [name if name.suffix == ".parquet" else PurePosixPath(f"{name}.parquet") for name in names]
    seen: dict[PurePosixPath, Path] = {}
    for name, file in zip(names, files, strict=True):
        if (other := seen.setdefault(name, file.path)) != file.path:
            raise InputError(
                f"{other}, {file.path}: both get the name {name} in --out_dir; join their scores by themselves"
            )
    return names


def _joined(table: BySource, file: SourceFile) -> Iterator[tuple[Rows, pa.Table, Counts]]:
    """The rows of a file, their rows of the score table (nulls if they have none), and what became of these."""
    name, begin, end = file.place.name, file.place.begin, file.place.end
    numbers, stream = table.spans(begin, end)[:, 0], table.rows(begin, end)
    if repeated := len(numbers) - len(np.unique(numbers)):
        cli.warn(f"{name}: {repeated:,} of its rows are in the table more than once; of each, the first doc_id counts")
    first = taken = 0
    for rows in originals(file.path, file.text, columns=[file.text, file.id]):
        last = int(np.searchsorted(numbers, first + len(rows)))
        here, scores = numbers[taken:last] - first, stream.take(last - taken)
        place = np.full(len(rows), -1)
        place[here[::-1]] = np.arange(len(here))[::-1]  # of equal rows, the first is set last
        same = have_texts(file.path, rows, file.text, _at(scores, place)["text_hash"])
        counts = Counts.compared(name, first + np.flatnonzero(place >= 0), same[place >= 0])
        yield rows, _at(scores, np.where(same, place, -1)), counts
        first, taken = first + len(rows), last
    if taken < len(numbers):
        yield [], stream.take(0), Counts.gone(name, numbers[taken:])


def _at(table: pa.Table, places: np.ndarray) -> pa.Table:
    """Its rows at these places; nulls at -1."""
    return table.take(pa.array(places, mask=places < 0))


@contextmanager
def _writer(path: Path, kind: str, file: SourceFile, spare: Path) -> Iterator[Add]:
    """Write rows' ids and the scores behind them; yields a function that appends some."""
    if kind == "dolma":
        with compressed(path, file.path.suffix) as out:
            yield lambda rows, scores: out.writelines(_attributes(rows, scores, file))
        return
    with parquet_writer(path, spare) as add:

        def add_ids(rows: Rows, scores: pa.Table) -> None:
            if len(rows):
                ids = column_of(rows, file.id)
                ids = scores["id"] if ids is None else ids
                ids = [{"id": each} for each in ids] if isinstance(ids, list) else pa.table({"id": ids})
                add(ids, scores.select(TABLE_SCHEMA.names))

        yield add_ids


def _attributes(rows: Sequence[dict], scores: pa.Table, file: SourceFile) -> Iterator[bytes]:
    """A line for each row: its numbers, each as a span over the whole text, in characters."""
    texts, ids = (column_of(rows, name) or [None] * len(rows) for name in (file.text, file.id))
    for text, id_, row in zip(texts, ids, scores.select(NUMBERS).to_pylist(), strict=True):
        known = {name: value for name, value in row.items() if value is not None and math.isfinite(value)}
        spans = {f"{DOLMA}__{name}": [[0, len(text), value]] for name, value in known.items()}
        yield json_line({"id": id_, "attributes": spans})
