"""Files that appear whole or not at all, and the small JSON records beside them."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError


@contextmanager
def atomic(path: Path, marker: str | None = None) -> Iterator[Path]:
    """Yield a temporary name in `path`'s folder; when the block ends well, flush it and rename it to `path`.

    The block may make a file or a folder there. When it fails, the temporary is removed and `path` stays as it was.

    Args:
        marker: name of a file that shows that a folder is of our making; no other folder is replaced.
    Raises:
        InputError: `path` is a folder with something else in it.

    >>> with atomic(Path("out.txt")) as tmp:
    ...     tmp.write_text("whole")
    """
    refuse_folder(path, marker)
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = tmp.with_suffix(".old")
    try:
        yield tmp
        for file in [tmp] if tmp.is_file() else tmp.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if path.is_dir():
            path.rename(old)
        tmp.replace(path)
    finally:
        for left in (tmp, old):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def refuse_folder(path: Path, marker: str | None = None) -> None:
    """Raise InputError if `path` is a folder, unless it is empty or holds `marker` where a folder is to be written."""
    path = Path(path)
    if path.is_dir() and not (marker and ((path / marker).exists() or not any(path.iterdir()))):
        raise InputError(f"{path}: this folder was made by something else and is not replaced; give another --out")


def write_json(path: Path, record: dict) -> None:
    """Write `record` as indented JSON, whole or not at all."""
    with atomic(path) as tmp:
        tmp.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Read a JSON object; InputError names the file and line when it is not one."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); make it anew") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a JSON object; make it anew")
    return record


def claim(record_path: Path, settings: dict, overwrite: bool, outputs: str) -> None:
    """Bind the files beside `record_path` to one run's settings, so that two runs never mix.

    The first run writes `settings` there. A later run with equal settings goes on; with others it raises InputError
    that names what differs, unless `overwrite`, where `outputs` (a glob in the record's folder) is deleted first.
    Files like `outputs` without a record were made by something else and are never touched.
    """
    if not record_path.exists() and (foreign := sorted(record_path.parent.glob(outputs))):
        raise InputError(f"{foreign[0]}: made by something else, as {record_path} is missing; give another output")
    if record_path.exists():
        before = read_json(record_path)
        now = json.loads(json.dumps(settings))
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed and not overwrite:
            detail = "; ".join(_difference(key, before.get(key), now.get(key)) for key in changed)
            raise InputError(
                f"{record_path.parent} holds another run's work ({detail}): give another output, or --overwrite"
            )
        if not overwrite:
            return
    if overwrite:
        for path in record_path.parent.glob(outputs):
            path.unlink()
    write_json(record_path, settings)


def _difference(key: str, before: object, now: object) -> str:
    """What changed, in a few words however long the values are."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return f"{len(names)} of its {key} differ, {names[0]} among them"
    return f"{key} was {before!r}, is {now!r}"
