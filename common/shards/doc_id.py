"""doc_ids, `path/of/shard:start-end`: write them, parse them, and keep them inside the allowed folders.

The path is without `.bin`. An array keeps its `.npy`, so that `x.bin` and `x.npy` in one folder have different ids.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.files import as_path, is_url

DOC_ID_PATTERN = r"^(?P<shard>.+?)(?:\.bin)?:(?P<start>[0-9]{1,18})-(?P<end>[0-9]{1,18})$"


ARRAY = ".npy"


def shard_name(path: Path) -> str:
    """The first half of the doc_ids of a shard.

    >>> shard_name(Path("data/x.bin")), shard_name(Path("data/x.npy"))
    ('data/x', 'data/x.npy')
    """
    return str(path) if path.suffix == ARRAY else str(path.with_suffix(""))


def shard_path(name: str) -> Path:
    """The file of a shard with this name."""
    return as_path(name if name.endswith(ARRAY) else f"{name}.bin")


def format_doc_id(shard_name: str, start: int, end: int) -> str:
    """The doc_id of the tokens [start, end) of a shard.

    >>> format_doc_id("data/finewebsample/fineweb_train_000001", 0, 289)
    'data/finewebsample/fineweb_train_000001:0-289'
    """
    return f"{shard_name}:{start}-{end}"


def parse_doc_id(doc_id: str) -> tuple[Path, int, int]:
    """Split `path/of/shard:start-end` into the path of the shard and the token offsets.

    Raises:
        InputError: it does not have that form, or start is not below end.
    """
    match = re.fullmatch(DOC_ID_PATTERN, doc_id)
    if not match or int(match["start"]) >= int(match["end"]):
        raise InputError(f"doc_id {doc_id!r}: expected path/of/shard:start-end with start below end")
    return shard_path(match["shard"]), int(match["start"]), int(match["end"])


def require_inside(doc_id: str, path: Path, folders: Sequence[Path]) -> None:
    """Raise InputError if the path of the shard, as it is spelled, is outside all the folders.

    A link inside a folder counts as part of the folder.
    """
    for inside in (*folders, *(Path.cwd() / folder for folder in folders if not is_url(folder))):
        if path.is_relative_to(inside) and ".." not in path.relative_to(inside).parts:
            return
    raise InputError(
        f"doc_id {doc_id!r}: leads outside of {', '.join(map(str, folders))}; to read that shard, name its folder with "
        "--data_dir"
    )
