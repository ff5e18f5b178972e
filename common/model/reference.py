"""The record in a reference model's folder: its base model, its masked heads, and the kind of masking."""

from pathlib import Path

from common.errors import InputError
from common.files import as_path, read_json, write_json
from common.model.heads import Head
from common.model.masking import Masking

# A folder with this file is a reference model that this project made.
RECORD_NAME = "attention_influence.json"


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
