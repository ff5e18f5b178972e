"""Where text comes from: local parquet, JSONL and text files, or a data set on the Hugging Face hub."""

import glob
import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from common.errors import InputError

DEFAULT_DOMAIN = "default"


@dataclass(frozen=True)
class SourceDocument:
    """A document as its source has it, and how to find it there again."""

    text: str
    id: str
    domain: str = DEFAULT_DOMAIN
    url: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns of a row hold what; None is the column `id` if there is one, and a single domain for all."""

    text: str = "text"
    id: str | None = None
    domain: str | None = None


def read_files(patterns: Sequence[str], columns: Columns) -> Iterator[SourceDocument]:
    """Stream the documents of local files, in the order of the patterns and of the names within each.

    `.parquet` and `.jsonl` (or `.json`; also `.gz`, `.zst`) hold a document a row, any other file is one document.

    Raises:
        InputError: a pattern matches nothing, or a row lacks a column; names file and line.
    """
    for path in expand(patterns):
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        if name.endswith(".parquet"):
            rows = _parquet_rows(path, columns)
        elif name.endswith((".jsonl", ".json")):
            rows = _jsonl_rows(path)
        else:
            rows = _text_rows(path)
        for place, row in rows:
            yield _document(place, row, columns)


def expand(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns match, each once; InputError for a pattern that matches none."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        matches = [Path(name) for name in matches if Path(name).is_file()]
        if not matches:
            raise InputError(f"{pattern}: no such file; check the path, and quote patterns with * in the shell")
        for path in matches:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read_hub(name: str, config: str | None, columns: Columns, domain: str = DEFAULT_DOMAIN) -> Iterator[SourceDocument]:
    """Stream the `train` split of a data set on the Hugging Face hub, all in `domain` unless a column says more."""
    import datasets  # slow, and needed for the hub alone

    number = 0
    try:
        for row in datasets.load_dataset(name, name=config, split="train", streaming=True):
            yield _document(f"{name}:{number}", row, columns, domain)
            number += 1
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # whatever the network, the hub or a decoder may raise
        raise InputError(
            f"{name}: the hub gave no row {number} ({type(error).__name__}: {error}); check name and network, "
            "run this again, or give local files"
        ) from None


def _document(place: str, row: dict, columns: Columns, domain: str = DEFAULT_DOMAIN) -> SourceDocument:
    for column in filter(None, (columns.text, columns.id, columns.domain)):
        if column not in row:
            raise InputError(f"{place}: no column {column!r}, only {', '.join(sorted(row))}; name the right one")
    text = row[columns.text]
    if not isinstance(text, str):
        raise InputError(
            f"{place}: column {columns.text!r} holds {type(text).__name__}, not text; mend or drop the row"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: half of a surrogate pair at character {error.start}; mend or drop the row"
        ) from None
    return SourceDocument(
        text,
        _one_line(row.get(columns.id or "id"), place),
        _one_line(row[columns.domain], domain) if columns.domain else domain,
        _one_line(row.get("url"), ""),
    )


def _one_line(value: object, default: str) -> str:
    """The value as text that cannot break a row of a table, or `default` where there is none."""
    return default if value is None else " ".join(str(value).encode("utf-8", "replace").decode().split())


def _parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[str, dict]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            needed = {columns.text, columns.id, columns.domain} - {None}
            # Where one is missing, the caller reports it, and wants to see all names.
            read = [name for name in names if name in needed | {"id", "url"}] if needed <= set(names) else None
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=read):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); copy it anew") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict]]:
    with _reading(path, _opener(path)) as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                row = json.loads(line.decode("utf-8")) if line.strip() else None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not a JSON object ({error}); mend or drop the line") from None
            if row is None:
                continue
            if not isinstance(row, dict):
                raise InputError(f"{place}: a JSON {type(row).__name__}, not an object; one document a line")
            yield place, row


def _text_rows(path: Path) -> Iterator[tuple[str, dict]]:
    with _reading(path, _opener(path)) as file:
        try:
            yield str(path), {"text": file.read().decode("utf-8"), "id": str(path)}
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text at byte {error.start}; convert it") from None


def _opener(path: Path) -> Callable[[Path], io.BufferedIOBase]:
    openers = {".gz": gzip.open, ".zst": lambda name: io.BufferedReader(zstandard.open(name, "rb"))}
    return openers.get(path.suffix, lambda name: Path(name).open("rb"))


@contextmanager
def _reading(path: Path, opener: Callable[[Path], io.BufferedIOBase]) -> Iterator[io.BufferedIOBase]:
    try:
        with opener(path) as file:
            yield file
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); copy it anew") from None
