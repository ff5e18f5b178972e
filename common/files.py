"""Files that appear whole or not at all, one writer at a time, and the small JSON records beside them.

A path may also be a URL that fsspec knows, `s3://bucket/key` say; `as_path` tells the two apart, and both have the
methods of `pathlib.Path`. What an object store cannot give is a lock: two runs on one output there are not noticed.
"""

import errno
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout
from upath import UPath

from common.errors import InputError

# What an operating system says when it cannot write: disk full, over quota, file too large, read-only, not allowed.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
STOPPING = (signal.SIGINT, signal.SIGTERM)


def as_path(text: str | Path) -> Path | UPath:
    """A path; of the class that pathlib or, for a URL, universal_pathlib has for it.

    Raises:
        InputError: nothing that is installed reads such a URL.
    """
    if "://" not in str(text):
        return Path(text)
    try:
        path = UPath(text)
        path.fs  # noqa: B018 - which loads what reads it
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: cannot be reached ({error}); s3:// needs `pip install s3fs`") from None
    return path


def is_url(path: Path | UPath) -> bool:
    """Whether a path leads into an object store."""
    return "://" in str(path)


def source(path: Path | UPath) -> Path | BinaryIO:
    """What pyarrow can read: a path as it is, what a URL leads to opened."""
    return path.open("rb") if is_url(path) else path


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Inside the block no other process on the machine writes `path`, or InputError; nothing for a URL.

    The lock is the operating system's and ends with the process, however it ends; the empty file `.name.lock` stays.
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
    """Inside the block, what keeps the operating system from writing `path` becomes an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE and not is_url(path):
            raise
        reason = os.strerror(error.errno) if error.errno else error
        raise InputError(
            f"{path}: cannot be written ({reason}); mend that and run the same command again, finished work is kept"
        ) from None


@contextmanager
def atomic(path: Path, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary name in `path`'s folder; when the block ends well, flush it and rename it to `path`.

    For a URL it is a local file that is uploaded in the end, and an object store shows no half of an object.

    The block may make a file or a folder there. When it fails, the temporary is removed and `path` stays as it was.
    What a killed process left is removed by the next that writes `path`.

    Args:
        marker: name of a file that shows that a folder is of our making; no other folder is replaced.
    Raises:
        InputError: `path` is a folder with something else in it, or the operating system cannot write it.

    >>> with atomic(Path("out.txt")) as tmp:
    ...     tmp.write_text("whole")
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
    """An empty folder beside `path` (or in TMPDIR) while the block runs; call it as the sole writer of `path`."""
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
    """Hold SIGINT and SIGTERM back until the block ends; for moments, not for work."""
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
    """Undo the first of a folder's two renames, where the second did not follow."""
    if old.exists() and not path.exists():
        old.rename(path)


def remove(*paths: Path) -> None:
    """Delete files and folders, those that are there."""
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
        raise InputError(f"{path}: not a file but a device or pipe, and not replaced; give another output")
    if path.is_dir() and not (marker and ((path / marker).exists() or not any(path.iterdir()))):
        raise InputError(f"{path}: this folder was made by something else and is not replaced; give another --out")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError if an output would be written over an input."""
    read = {as_path(path).resolve() for path in inputs}
    for path in outputs:
        if as_path(path).resolve() in read:
            raise InputError(f"{path}: this is an input itself and would be overwritten; give another --out")


def write_json(path: Path, record: dict) -> None:
    """Write `record` as indented JSON, whole or not at all."""
    with atomic(path) as tmp:
        tmp.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Read a JSON object; InputError names the file and line when it is not one."""
    try:
        record = json.loads(as_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); make it anew") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a JSON object; make it anew")
    return record


def claim(record_path: Path, settings: dict, overwrite: bool, outputs: str) -> None:
    """Bind the files beside `record_path` to one run's settings, so that two runs never mix.

    The first run writes `settings` there. A later run with equal settings goes on; with others, where there are outputs
    of the first, it raises InputError that names what differs, unless `overwrite`, where `outputs` (a glob in the
    record's folder) is deleted first.
    Files like `outputs` without a record were made by something else and are never touched. What a killed run left
    half written under a temporary name is removed. Call it as the folder's sole writer.
    """
    folder = record_path.parent
    if not record_path.exists() and (foreign := sorted(folder.glob(outputs))):
        raise InputError(f"{foreign[0]}: made by something else, as {record_path} is missing; give another output")
    changed = []
    if record_path.exists() and not overwrite:
        before, now = read_json(record_path), json.loads(json.dumps(settings))
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed and any(folder.glob(outputs)):
            detail = "; ".join(_difference(key, before.get(key), now.get(key)) for key in changed)
            raise InputError(f"{folder} holds another run's work ({detail}): give another output, or --overwrite")
    with writing(folder):
        remove(*folder.glob(f".{outputs}.tmp"), folder / f".{record_path.name}.tmp")
        remove(*(folder.glob(outputs) if overwrite else ()))
    if overwrite or not record_path.exists() or changed:
        write_json(record_path, settings)


def _difference(key: str, before: object, now: object) -> str:
    """What changed, in a few words however long the values are."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return f"{len(names)} of its {key} differ, {names[0]} among them"
    return f"{key} was {before!r}, is {now!r}"
