"""The records in a reference model's folder: its base, its masked heads and the kind of masking; and its check."""

from pathlib import Path
from typing import NamedTuple

from common.errors import InputError
from common.files import as_path, read_json, write_json
from common.model.heads import Head
from common.model.masking import Masking

# A folder with this file is a reference model that this project made.
RECORD_NAME = "attention_influence.json"
CHECK_NAME = "causal_check.json"


class Check(NamedTuple):
    """Shares of the answers' tokens that are predicted over some probes.

    Attributes:
        base, masked: by the base, and by its masked copy.
        random: by the base with as many random other heads masked, one share per draw.
    """

    probes: int
    base: float
    masked: float
    random: list[float]


def write_record(folder: Path, base_model: str, masking: Masking) -> None:
    """Write the record into the reference model's folder."""
    write_json(folder / RECORD_NAME, {"base_model": base_model, "mask": masking.kind, "heads": masking.heads})


def base_of(folder: str | Path) -> str | None:
    """The base model that a reference model's record names; None if there is no record."""
    path = as_path(folder) / RECORD_NAME
    return read_json(path).get("base_model") if path.exists() else None


def read_record(folder: str | Path) -> Masking | None:
    """The masking of a reference model, from the record in its folder; None if there is no record.

    Raises:
        InputError: the record is damaged.
    """
    path = as_path(folder) / RECORD_NAME
    if not path.exists():
        return None
    record = read_json(path)
    try:
        return Masking(str(record["mask"]), [Head(int(layer), int(index)) for layer, index in record["heads"]])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: it does not list the masked heads; make the folder again") from None


def read_check(folder: str | Path) -> Check | None:
    """The causal check in the folder of a reference model; None if there is none, InputError if it is damaged."""
    path = as_path(folder) / CHECK_NAME
    if not path.exists():
        return None
    record = read_json(path)
    try:
        check = Check(**record)
        if not (check.random and all(0 <= share <= 1 for share in (check.base, check.masked, *check.random))):
            raise ValueError("a share is not from 0 to 1")
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not a causal check ({error}); make_reference_model.py --probes makes it") from None
    return check
