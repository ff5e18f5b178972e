"""The best of a whole corpus, of which a prefilter chose the part that is scored."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import duckdb

from common.errors import InputError, few
from common.table.domains import Domain
from common.table.names import record_of
from common.text.kept import PREDICTED
from common.text.prefiltered import Facts


def check_rows(source: duckdb.DuckDBPyRelation, facts: Facts | None, path: Path) -> None:
    """Raise InputError if a prefilter chose rows of a table, and not all of a domain, or it is not known what it kept.

    In a domain for which the prefilter had no predictor, nothing was predicted.
    """
    if PREDICTED not in source.columns:
        return
    counts = source.aggregate(f"domain, count({PREDICTED}), count(*) - count({PREDICTED})", "domain").fetchall()
    mixed = [name for name, chosen, others in counts if chosen and others]
    if mixed or (facts is None and any(chosen for _, chosen, _ in counts)):
        why = f"not all of {few(sorted(mixed))}" if mixed else f"{record_of(path)} does not say what it kept"
        raise InputError(
            f"{path}: rows went through a prefilter (column {PREDICTED}), but {why}, so the size of the whole corpus "
            "is not known; put the record of the scores there, or drop this column to rank only what is in the table"
        )


def set_wholes(domains: dict[str, Domain], by: str, facts: Facts | None, path: Path) -> dict[str, Fraction]:
    """Set `whole` of the domains if a prefilter chose what was scored.

    Returns:
        Each whole domain as a multiple of its scored part, in documents or tokens (`by`).
    Raises:
        InputError: the prefilter kept no document of a domain of the table.
    """
    if facts is None:
        return dict.fromkeys(domains, Fraction(1))
    if strange := [name for name in domains if name not in facts.domains or not facts.domains[name].kept]:
        raise InputError(
            f"{path}: {few(strange)}: by {record_of(path)} the prefilter kept nothing of such a domain, so its size is "
            "not known; rank the domains of the shards"
        )
    times = {name: facts.domains[name].whole(by) for name in domains}
    for name, domain in domains.items():
        domain.whole = round(getattr(domain, by) * times[name])
    return times


def refuse_unscored(
    domains: Mapping[str, Domain], facts: Facts, rates: Mapping[str, Fraction], lowest: bool, path: Path
) -> None:
    """Raise InputError if what is wanted of a domain is not in what a prefilter kept, or nothing of one was kept.

    Args:
        rates: what is wanted as a share of the ranked documents or tokens, by domain.
        lowest: the lowest documents are wanted, which are those that it left out.
    """
    if missing := [name for name, part in facts.domains.items() if part.documents and not part.kept]:
        raise InputError(
            f"{path}: {few(missing)}: nothing of such a domain was kept by the prefilter, so its share of a selection "
            "is not known; run fineweb.py --prefilter again over more files or without --max_docs, and score that"
        )
    cut = {name: part for name, part in facts.domains.items() if part.kept < part.documents}
    of_table = (name for name in cut if name in domains and domains[name].documents)
    scarce = [name for name in of_table if lowest or rates[name] > 1]
    if scarce:
        raise InputError(
            f"{path}: {few(scarce)}: the prefilter left out {'the lowest' if lowest else 'some'} documents of such "
            "a domain that are wanted; ask for less, keep more with prefilter_scores.py apply, or score all of it"
        )
