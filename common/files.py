"""Files that appear whole or not at all, one writer at a time, globs, and small JSON records.

A path may also be a URL that fsspec knows, such as `s3://bucket/key`. `as_path` returns either kind, and both have the
methods of `pathlib.Path`. An object store has no locks: two runs that write the same output there are not noticed.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock, Timeout

from common.errors import InputError

if TYPE_CHECKING:
    from upath import UPath

# Error numbers for: disk full, quota exceeded, file too large, read-only, not allowed, device error.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
FEW = 8  # entries of two lists that are shown in a message
STOPPING = (signal.SIGINT, signal.SIGTERM)


def as_path(text: "str | Path | UPath") -> "Path | UPath":
    """A path of pathlib or, for a URL, of universal_pathlib.

    Raises:
        InputError: no installed package reads such a URL, or the name is not UTF-8, as records and tables are.
    """
    try:
        str(text).encode()
    except UnicodeEncodeError:
        raise InputError(f"{str(text)!r}: a name that is not UTF-8; rename it") from None
    if "://" not in str(text):
        return Path(text)
    from upath import UPath

    try:
        path = UPath(text)
        path.fs  # noqa: B018 - loads the package that reads it
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: cannot be reached ({error}); s3:// needs `pip install s3fs`") from None
    return path


def is_url(path: "Path | UPath") -> bool:
    """Whether a path is in an object store."""
    return "://" in str(path)


def for_pyarrow(path: "Path | UPath") -> Path | BinaryIO:
    """The path, or for a URL an open file: pyarrow reads both."""
    return path.open("rb") if is_url(path) else path


def expand(patterns: Sequence[str]) -> "list[Path | UPath]":
    """The files that the patterns match, each once, by pattern and then by name.

    Raises:
        InputError: a pattern matches no file.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = [path for path in _matches(pattern) if path.is_file()]
        if not matches:
            raise InputError(f"{pattern}: no such file; check the path, and quote patterns with * in the shell")
        for path in matches:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _matches(pattern: str) -> "list[Path | UPath]":
    path = as_path(pattern)
    if path.is_file():
        return [path]
    if is_url(path):
        return [as_path(path.fs.unstrip_protocol(name)) for name in sorted(path.fs.glob(path.path))]
    return [as_path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Lock `path` for the block: a second process on this machine that wants it gets an InputError. Skipped for URLs.

    The lock belongs to the operating system and ends with the process, however it ends; the empty file `.name.lock`
    stays.
    """
    if is_url(path):
        yield
        return
    whole = Path(path).resolve()
    lock = FileLock(whole.with_name(f".{whole.name}.lock"), timeout=0)
    with writing(path):
        whole.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{path}: another run is writing it; wait for it, stop it, or give another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system about writing `path` into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE and not is_url(path):
            raise
        reason = os.strerror(error.errno) if error.errno else error
        raise InputError(
            f"{path}: cannot be written ({reason}); fix that and run the same command again, finished work is kept"
        ) from None


@contextmanager
def atomic(path: Path, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary name in `path`'s folder; when the block ends well, flush it and rename it to `path`.

    For a URL the temporary is a local file that is uploaded at the end: an object store never shows half an object.

    The block may make a file or a folder there. If it fails, the temporary is removed and `path` stays as it was.
    A killed process leaves its temporary; the next process that writes `path` removes it.

    Args:
        marker: name of a file that shows that this project made a folder; no other folder is replaced.
    Raises:
        InputError: `path` is a folder with something else in it, or the operating system cannot write it.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic(Path(folder) / "out.txt") as tmp:
    ...         _ = tmp.write_text("whole")
    ...     (Path(folder) / "out.txt").read_text()
    'whole'
    """
    path = as_path(path)
    refuse_folder(path, marker)
    if is_url(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            with writing(path):
                path.fs.put_file(f"{folder}/{path.name}", path.path)
        return
    shown, path = path, Path(path).resolve()
    tmp, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("tmp", "old"))
    with writing(shown):
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_back(old, path)
        remove(tmp, old)
        try:
            yield tmp
            for file in [tmp] if tmp.is_file() else tmp.rglob("*"):
                flush(file)
            with undisturbed():
                if path.is_dir():
                    path.rename(old)
                tmp.replace(path)
                flush(path.parent)
        finally:
            with undisturbed():
                _put_back(old, path)
                remove(tmp, old)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """An empty folder next to `path` (for a URL, in TMPDIR) for the block; call it as the sole writer of `path`."""
    if is_url(path):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = Path(path).resolve().with_name(f".{path.name}.scratch")
    with writing(path):
        remove(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            with undisturbed():
                remove(folder)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block ends; for short moments only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []
    before = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)


def _put_back(old: Path, path: Path) -> None:
    """Undo the first of a folder's two renames if the second did not happen."""
    if old.exists() and not path.exists():
        old.rename(path)


def remove(*paths: Path) -> None:
    """Delete files and folders; those that do not exist are skipped."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_folder(path: Path, marker: str | None = None) -> None:
    """Raise InputError if `path` is a folder, unless it is empty or holds `marker` where a folder is to be written."""
    path = as_path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: a device or pipe, not a file, so it is not replaced; give another output")
    if path.is_dir() and not (marker and ((path / marker).exists() or not any(path.iterdir()))):
        raise InputError(f"{path}: another program made this folder, so it is not replaced; give another --out")


def refuse_url(out_dir: Path) -> None:
    """Raise InputError for an output folder in an object store, where a script can only write single files."""
    if is_url(out_dir):
        raise InputError(f"--out_dir {out_dir}: give a folder of this machine, and copy it to the store then")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError if an output would be written over an input."""
    read = {as_path(path).resolve() for path in inputs}
    for path in outputs:
        if as_path(path).resolve() in read:
            raise InputError(f"{path}: this is an input and would be overwritten; give another --out")


def write_json(path: Path, record: dict) -> None:
    """Write `record` as indented JSON, whole or not at all."""
    with atomic(path) as tmp:
        tmp.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Read a JSON object; InputError names the file and line if it is not one."""
    try:
        record = json.loads(as_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); make it again") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a JSON object; make it again")
    return record


def claim(record_path: Path, settings: dict, overwrite: bool, outputs: str) -> None:
    """Bind the files next to `record_path` to the settings of one run, so that two runs never mix.

    The first run writes `settings` there. A later run with equal settings continues. A run with other settings raises
    an InputError that names the difference if the first run has outputs; with `overwrite` it deletes them first.
    Another program made files like `outputs` that have no record; they are never touched. Temporary files of a killed
    run are removed. Call it as the folder's sole writer.

    Args:
        outputs: a glob in the record's folder.
    """
    folder, unclaimed = record_path.parent, is_unclaimed(record_path, settings, overwrite, outputs)
    with writing(folder):
        remove(*folder.glob(f".{outputs}.tmp"), folder / f".{record_path.name}.tmp")
        remove(*(folder.glob(outputs) if overwrite else ()))
    if unclaimed:
        write_json(record_path, settings)


def is_unclaimed(record_path: Path, settings: dict, overwrite: bool, outputs: str) -> bool:
    """Whether `claim` would write the settings; changes nothing, and raises InputError as `claim` does."""
    folder = record_path.parent
    if not record_path.exists() and (foreign := sorted(folder.glob(outputs))):
        raise InputError(
            f"{foreign[0]}: made by another program, because {record_path} is missing; give another output"
        )
    if overwrite or not record_path.exists():
        return True
    before, now = read_json(record_path), json.loads(json.dumps(settings))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed and any(folder.glob(outputs)):
        detail = "; ".join(_difference(key, before.get(key), now.get(key)) for key in changed)
        raise InputError(f"{folder} holds the work of another run ({detail}): give another output, or --overwrite")
    return bool(changed)


def _difference(key: str, before: object, now: object) -> str:
    """The change of one setting, in a few words however long the values are."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return f"{len(names)} of its {key} differ, {names[0]} among them"
    if isinstance(before, list) and isinstance(now, list) and len(before) + len(now) > FEW:
        different = [each for each in before + now if (each in before) != (each in now)] or now
        return f"{len(different)} of its {key} differ, {different[0]!r} among them"
    return f"{key} was {before!r}, is {now!r}"
