"""What a scoring run was, for the eye: from the record beside its table, and the one beside the reference model."""

from collections.abc import Sequence

from common.heads import Head


def facts(record: dict, mask: str | None, heads: Sequence[Head]) -> list[tuple[str, str]]:
    """(name, value) of what is known.

    Args:
        record: what the scoring script left beside its table; any of it may be missing.
        mask: how the heads are masked, or None where that is not known.
        heads: the masked ones, best first.
    """
    versions = record.get("versions") or {}
    seconds, seq_len = record.get("seconds"), record.get("seq_len")
    known = [
        ("base model", record.get("base_model")),
        ("reference model", record.get("reference_model")),
        ("how they relate", record.get("summary")),
        ("mask", mask),
        (f"{len(heads)} heads, best first", "  ".join(f"{layer},{head}" for layer, head in heads)),
        ("window", seq_len and f"{seq_len:,} tokens"),
        ("scored on", " in ".join(str(record[name]) for name in ("device", "dtype") if record.get(name))),
        ("took", None if seconds is None else duration(seconds)),
        ("finished", str(record.get("finished") or "").replace("T", " ")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(name, str(value)) for name, value in known if value]


def duration(seconds: float) -> str:
    """A time in two units.

    >>> duration(3725.2)
    '1 h 2 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
