"""What a scoring run was, for the eye: from the record beside its table, and the one beside the reference model."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.files import read_json
from common.model.heads import Head
from common.pages.overview import DOMAINS_DRAWN, Overview
from common.scoring.pair import RECORD_NAME


def facts(known: dict, record_path: Path, mask: str | None, heads: Sequence[Head]) -> list[tuple[str, str]]:
    """(name, value) of what is known of a run.

    Args:
        known: what stands in the record of a scoring run, as far as it is known without one.
        record_path: what the scoring script leaves beside its table; it, or any of its fields, may be missing.
        mask: how the heads are masked, or None where that is not known.
        heads: the masked ones, best first.
    Raises:
        InputError: the record is damaged.
    """
    record = known | (read_json(record_path) if record_path.exists() else {})
    try:
        return [(name, str(value)) for name, value in _facts(record, mask, heads) if value]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{record_path}: not the record of a scoring run ({error}); delete it") from None


def _facts(record: dict, mask: str | None, heads: Sequence[Head]) -> list[tuple[str, str | None]]:
    versions = record.get("versions") or {}
    scoring = record.get("scoring") or {}
    seconds = scoring.get("seconds")
    seq_len = record.get("seq_len")
    counts = {name: record.get(f"num_{name}") for name in ("documents", "tokens", "shards")}
    corpus = [f"{count:,} {name}" for name, count in counts.items() if count]
    return [
        ("base model", record.get("base_model")),
        ("reference model", record.get("reference_model")),
        ("how they relate", record.get("summary")),
        ("mask", mask),
        (f"{len(heads)} heads, best first", "  ".join(f"{layer},{head}" for layer, head in heads)),
        ("corpus", " ".join([", ".join(corpus), *(record.get("data") or [])])),
        ("window", seq_len and f"{seq_len:,} tokens"),
        ("scored on", " in ".join(str(record[name]) for name in ("device", "dtype") if record.get(name))),
        ("took", None if seconds is None else duration(seconds)),
        ("finished", str(scoring.get("finished") or "").replace("T", " ")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


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


def notes(
    overview: Overview,
    num_shown: int,
    record_path: Path,
    masked: tuple[str, list[Head]] | None,
    reference_model: str,
    chosen: list[Head],
) -> list[str]:
    """What a reader of a report should know about what is missing from it.

    Args:
        masked: the reference model's record, if it has one.
        chosen: the heads that the table of heads chooses.
    """
    dropped, left_out = overview.num_rows - len(overview.rows), len(overview.rows) - num_shown
    cases = [
        (not record_path.exists(), f"There is no {record_path}, so how and when this was scored is not known."),
        (not masked, f"There is no {reference_model}/{RECORD_NAME}; the heads are those of the table of heads."),
        (masked and set(masked[1]) != set(chosen), "The reference masks other heads than the table of heads chooses."),
        (dropped, f"{dropped:,} documents without a finite score are left out everywhere."),
        (
            left_out,
            f"{num_shown:,} of {len(overview.rows):,} documents are listed: of each domain the best, the lowest, and a "
            "random part of the rest, a third each. All figures above the list count every document.",
        ),
        (len(overview.domains) > DOMAINS_DRAWN, f"The {DOMAINS_DRAWN} largest domains are drawn."),
    ]
    return [text for applies, text in cases if applies]
