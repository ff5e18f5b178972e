"""The facts of a scoring run as text: from the record next to its table, and from the reference model's record."""

from collections.abc import Collection
from pathlib import Path

from common.errors import InputError
from common.files import read_json
from common.model.heads import Head
from common.model.masking import Masking
from common.model.reference import RECORD_NAME
from common.pages.overview import Overview
from common.table.domains import SHOWN


def read_run(record_path: Path) -> dict:
    """The record of a scoring run; empty if there is none."""
    return read_json(record_path) if record_path.exists() else {}


def facts(record: dict, record_path: Path, masking: Masking | None, chosen: list[Head]) -> list[tuple[str, str]]:
    """(name, value) of each known fact about a run.

    Args:
        record: of a scoring run; any of its fields may be missing.
        record_path: where it was read.
        masking: from the reference model's record, if there is one.
        chosen: the heads that the table of heads selects, best first; listed if `masking` is not known.
    Raises:
        InputError: the record is damaged.
    """
    try:
        found = _facts(record, masking.kind if masking else None, masking.heads if masking else chosen)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{record_path}: not the record of a scoring run ({error}); delete it") from None
    return [(name, str(value)) for name, value in found if value]


def _facts(record: dict, mask: str | None, heads: list[Head]) -> list[tuple[str, str | None]]:
    versions = record.get("versions") or {}
    scoring = record.get("scoring") or {}
    seconds = scoring.get("seconds")
    seq_len, sample, scored = (record.get(name) for name in ("seq_len", "sample", "score_tokens"))
    counts = {name: record.get(f"num_{name}") for name in ("documents", "tokens", "shards")}
    of_domains = (record.get("reference_of") or {}).items()
    corpus = [f"{count:,} {name}" for name, count in counts.items() if count]
    return [
        ("base model", record.get("base_model")),
        ("reference model", record.get("reference_model")),
        ("references of domains", ", ".join(f"{domain}: {name}" for domain, name in of_domains)),
        ("how they relate", record.get("summary")),
        ("mask", mask),
        (f"{len(heads)} heads, best first", "  ".join(map(str, heads))),
        ("corpus", " ".join([", ".join(corpus), *(record.get("data") or [])])),
        ("sample", sample and f"{100 * sample:g}% of the documents (--sample); the others are not in the table"),
        ("window", seq_len and f"{seq_len:,} tokens"),
        (
            "scored in part",
            scored
            and f"documents longer than {2 * scored:,} tokens, each on its first {scored:,} and on {scored:,} "
            "from a random place (--score_tokens)",
        ),
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
    reference_model: str,
    masking: Masking | None,
    chosen: list[Head],
    own: Collection[str] = (),
) -> list[str]:
    """Notes for the reader: what the report lacks; `masking` and `chosen` as in `facts`.

    Args:
        own: the domains that have a reference of their own.
    """
    not_finite, not_shown = overview.num_rows - len(overview.rows), len(overview.rows) - num_shown
    cases = [
        (not record_path.exists(), f"There is no {record_path}, so how and when this was scored is not known."),
        (not masking, f"There is no {reference_model}/{RECORD_NAME}; the heads are those of the table of heads."),
        (
            masking and set(masking.heads) != set(chosen),
            "The reference masks other heads than the table of heads selects.",
        ),
        (own, f"Domains with a reference of their own: {', '.join(own)}. Heads and verdict are of {reference_model}."),
        (not_finite, f"{not_finite:,} documents without a finite score are left out everywhere."),
        (
            not_shown,
            f"{num_shown:,} of {len(overview.rows):,} documents are listed: of each domain the best, the lowest, and "
            "random others, a third each. All figures above the list count every document.",
        ),
        (
            len(overview.domains) > SHOWN,
            f"The {SHOWN} largest domains are drawn, and have a line of their own; the selection's record, .json, has "
            "all.",
        ),
    ]
    return [text for applies, text in cases if applies]
