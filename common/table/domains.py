"""The domains of a table: how many documents of each are ranked and selected, and which are the best and the lowest."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.table.schema import NO_DOMAIN, RANK_SCORE

SHOWN, SAMPLE = 24, 2000  # domains in a table or picture, and documents of each domain in a picture


@dataclass
class Domain:
    """The documents of one domain with a finite score, and the selection from them.

    Attributes:
        left_out: by limit, how many documents it left out; the next four are of the other documents.
        mean_score, threshold: None if there is no document; the threshold is the lowest selected score (the highest
            if the lowest are selected).
        wanted_tokens: the domain's part of a budget of tokens; None without one.
        whole: documents or tokens, as the percentage is of them, of the whole domain: an estimate from what a prefilter
            kept; None without one.
    """

    left_out: dict[str, int]
    documents: int
    tokens: int
    mean_score: float | None
    threshold: float | None
    selected_documents: int
    selected_tokens: int
    wanted_tokens: int | None = None
    whole: int | None = None

    @property
    def num_finite(self) -> int:
        """Documents with a finite score, including those left out."""
        return self.documents + sum(self.left_out.values())

    @property
    def share_of_tokens(self) -> float | None:
        """Selected tokens per ranked token."""
        return self.selected_tokens / self.tokens if self.tokens else None


def together(domains: Iterable[Domain]) -> Domain:
    """The sums of several domains, without a mean or a threshold."""
    counts = [name for name, kind in Domain.__annotations__.items() if kind is int]
    domains = list(domains)
    left_out = sum((Counter(domain.left_out) for domain in domains), Counter())
    sums = {name: sum(getattr(domain, name) for domain in domains) for name in counts}
    return Domain(dict(left_out), mean_score=None, threshold=None, **sums)


def largest(sizes: dict[str, int]) -> list[str]:
    """The `SHOWN` domains with the most documents, in order of their names."""
    return sorted(sorted(sizes, key=sizes.__getitem__, reverse=True)[:SHOWN])


def smaller(count: int) -> str:
    """The name of the domains that have no line of their own."""
    return f"… and {count:,} smaller domain{'s' * (count > 1)}"


def lines(domains: dict[str, Domain]) -> list[tuple[str, Domain]]:
    """What a table has a line for: the largest domains by name, and all others together."""
    names = largest({name: domain.num_finite for name, domain in domains.items()})
    found = [(name or NO_DOMAIN, domains[name]) for name in names]
    if rest := domains.keys() - names:
        found.append((smaller(len(rest)), together(domains[name] for name in rest)))
    return found


class Drawn(NamedTuple):
    """The data of a domain's pictures.

    Attributes:
        scores: scores of documents, rounded to three digits.
        ranked, left_out: the number of documents with each score that were ranked, and that were left out.
        sample: repetition, AI_Score, L_base, num_tokens, kept (it was ranked) and selected of about `SAMPLE` documents,
            chosen by hashes of ids.
    """

    scores: np.ndarray
    ranked: np.ndarray
    left_out: np.ndarray
    sample: pd.DataFrame


# What a score may only repeat, and at which end of it a filter would select.
SIMPLER = {"L_base": "lowest", "num_tokens": "highest", "repetition": "highest"}


def goes_with(sample: pd.DataFrame, lowest: bool = False) -> dict[str, dict[str, float | None]]:
    """How far the score of a domain goes with simpler measures, from the rows of `Drawn.sample`.

    Args:
        lowest: whether the lowest scores are selected; then the other end of each measure is compared.
    Returns:
        For each measure of `SIMPLER`: `all` and `ranked`, Spearman's rank correlations of the score with it before and
        after the guards, and `overlap`, the share of the selected documents that would also be among as many ranked
        documents at its end. None if the measure is not known, or the same everywhere.
    """
    found = {}
    ranked = sample[sample["kept"]]
    for name, end in SIMPLER.items():
        best = ranked.sort_values(name, ascending=(end == "lowest") != lowest, kind="stable")
        both = best["selected"].head(int(ranked["selected"].sum()))
        values = _spearman(sample, name), _spearman(ranked, name), both.mean() if ranked[name].nunique() > 1 else None
        found[name] = {
            what: None if value is None or pd.isna(value) else round(float(value), 3)
            for what, value in zip(("all", "ranked", "overlap"), values, strict=True)
        }
    return found


def _spearman(rows: pd.DataFrame, name: str) -> float | None:
    rows = rows[["AI_Score", name]].dropna().rank()
    return rows["AI_Score"].corr(rows[name]) if (rows.nunique() > 1).all() else None


def id_hashes(table: pa.Table) -> np.ndarray:
    """A hash of each doc_id, uint64; the same in every run."""
    with duckdb.connect() as database:
        return database.from_arrow(table.select(["doc_id"])).project("hash(doc_id) AS hash").fetchnumpy()["hash"]


def sample_limit(size: int) -> int:
    """Of `size` documents, about `SAMPLE` have a hash below this."""
    return min(2**64 - 1, 2**64 * SAMPLE // size)


def score_of(table: pa.Table) -> pa.ChunkedArray:
    """What the rows of a table are ranked by."""
    return table[RANK_SCORE if RANK_SCORE in table.column_names else "AI_Score"]


def domain_sizes(batches: Iterable[pa.Table]) -> dict[str, int]:
    """The number of documents with a finite score in each domain, by name."""
    sizes: Counter[str] = Counter()
    for batch in batches:
        counts = pc.value_counts(batch["domain"].filter(pc.is_finite(score_of(batch))))
        sizes.update({count["values"]: count["counts"] for count in counts.to_pylist()})
    return dict(sorted(sizes.items()))


def ends(
    batches: Iterable[pa.Table], domains: Sequence[str], top: int, bottom: int
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """The best and the lowest documents of some domains, in one pass; none is in both.

    Yields:
        (domain, the best, the lowest in descending order), domains by name.
    """
    kept: dict[str, tuple[int, pa.Table, pa.Table]] = {}
    for batch in batches:
        wanted = pc.is_in(batch["domain"], pa.array(domains, pa.string()))
        table = batch.filter(pc.and_(pc.is_finite(score_of(batch)), wanted))
        for name in pc.unique(table["domain"]).to_pylist():
            rows = table.filter(pc.equal(table["domain"], name))
            count, *before = kept.get(name, (0, rows.slice(0, 0), rows.slice(0, 0)))
            best, lowest = (
                t.take(np.argsort(-score_of(t).to_numpy(), kind="stable"))
                for t in (pa.concat_tables([part, rows]) for part in before)
            )
            kept[name] = count + len(rows), best.slice(0, top), lowest.slice(max(0, len(lowest) - bottom))
    for name, (count, best, lowest) in sorted(kept.items()):
        spare = count - len(best)
        yield name, best, lowest.slice(max(0, len(lowest) - spare))
