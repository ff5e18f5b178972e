"""An overview of a score table: its domains, its sources, and documents to show.

Under 50 bytes of each row are kept in memory, so that tables of many million rows fit.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.pages.origins import Origins
from common.table.domains import id_hashes, largest, score_of
from common.table.schema import OTHER_MEASURES, RANK_SCORE, RANKED
from common.table.selection import with_states

END = 0.2  # the share of a domain's ranked documents that counts as its best, and as its lowest
SOURCES_SHOWN = 12


@dataclass
class Overview:
    """The rows of a table that have a finite score, in its order.

    Attributes:
        rows: their places in the table, int64, shape [num_finite], like all arrays below.
        domains, sources: names; `domain_of` and `source_of` are indices into them.
        num_tokens, scores, repetition: of each row; the score is what was ranked by; an unknown value is NaN.
        ranked: whether a row was ranked, or left out before.
        hashes: of the doc_ids.
        num_rows: of the whole table.
    """

    rows: np.ndarray
    domains: list[str]
    domain_of: np.ndarray
    sources: pa.Array
    source_of: np.ndarray
    num_tokens: np.ndarray
    scores: np.ndarray
    repetition: np.ndarray
    ranked: np.ndarray
    hashes: np.ndarray
    num_rows: int

    @cached_property
    def of_domains(self) -> list[tuple[str, np.ndarray]]:
        """Each domain with its rows (indices into the arrays): the ranked best first, then those left out."""
        order = np.lexsort((-self.scores, ~self.ranked, self.domain_of))
        edges = np.searchsorted(self.domain_of[order], np.arange(len(self.domains) + 1))
        return list(zip(self.domains, np.split(order, edges[1:-1]), strict=True))

    @property
    def largest_domains(self) -> list[tuple[str, np.ndarray]]:
        """As `of_domains`, those that the page shows."""
        shown = set(largest({name: len(rows) for name, rows in self.of_domains}))
        return [(name, rows) for name, rows in self.of_domains if name in shown]


def read_overview(path: Path, selection: Path, origins: Origins) -> Overview:
    """Read a table's numbers; InputError as in `with_states` and `Origins.of`, and if no score is finite."""
    columns, domains, sources, num_rows = [], [], [], 0
    for table in with_states(path, selection):
        finite = np.flatnonzero(table["state"].is_valid())
        kept = table.take(finite)
        if len(kept):
            numbers = [column.to_numpy() for column in (kept["num_tokens"], score_of(kept), kept["repetition"])]
            ranked = pc.is_in(kept["state"], pa.array(RANKED)).to_numpy()
            columns.append([finite + num_rows, *numbers, ranked, id_hashes(kept)])
            domains.append(kept["domain"].combine_chunks().dictionary_encode())
            sources.append(origins.of(kept))
        num_rows += len(table)
    if not columns:
        raise InputError(f"{path}: no row has a finite AI_Score; check L_base and L_ref in it")
    rows, num_tokens, scores, *others = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    repetition, ranked, hashes = others
    names, domain_of = _unified(domains)
    order = np.argsort(np.array(names.to_pylist(), dtype=object))
    domain_of = np.argsort(order)[domain_of].astype(np.int32)
    source_names, source_of = _unified(sources)
    return Overview(
        rows=rows,
        domains=names.take(pa.array(order)).to_pylist(),
        domain_of=domain_of,
        sources=source_names,
        source_of=source_of,
        num_tokens=num_tokens,
        scores=scores,
        repetition=repetition,
        ranked=ranked,
        hashes=hashes,
        num_rows=num_rows,
    )


def _unified(chunks: list[pa.DictionaryArray]) -> tuple[pa.Array, np.ndarray]:
    """The names in dictionary arrays, and for each entry the index of its name."""
    whole = pa.chunked_array(chunks).unify_dictionaries()
    return whole.chunk(0).dictionary, np.concatenate([chunk.indices.to_numpy() for chunk in whole.chunks])


def evenly(counts: list[int], limit: int) -> list[int]:
    """How many to take from each group: together at most `limit`, and as equal as the groups allow.

    >>> evenly([10, 2, 10], 12)
    [5, 2, 5]
    """
    taken = [0] * len(counts)
    for rank, group in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        taken[group] = min(counts[group], limit // (len(counts) - rank))
        limit -= taken[group]
    return taken


def choose(overview: Overview, limit: int, seed: int = 0) -> np.ndarray:
    """Documents to show, as ascending indices into the overview: all, or `limit` of them.

    Domains share the limit evenly. A third of a domain's documents are the best that were ranked, a third the lowest,
    and a third are random others, also of those left out.
    """
    if len(overview.rows) <= limit:
        return np.arange(len(overview.rows))
    generator, chosen = np.random.default_rng(seed), []
    domains = [rows for _, rows in overview.of_domains]
    for rows, count in zip(domains, evenly(list(map(len, domains)), limit), strict=True):
        best, rest = np.split(rows[overview.ranked[rows]], [-(-count // 3)])
        ends = np.concatenate([best, rest[max(0, len(rest) - count // 3) :]])
        others = np.setdiff1d(rows, ends)
        chosen += [ends, generator.choice(others, count - len(ends), replace=False)]
    return np.sort(np.concatenate(chosen))


def read_rows(path: Path, selection: Path, rows: np.ndarray) -> pa.Table:
    """The rows of a table at the given, ascending places, with their states."""
    parts, first = [], 0
    for table in with_states(path, selection):
        here = rows[(rows >= first) & (rows < first + len(table))]
        parts.append(table.take(here - first))
        first += len(table)
    return pa.concat_tables(parts)


def count_sources(overview: Overview) -> list[dict]:
    """The largest sources of the largest domains: their shares in all ranked documents, the best and the lowest.

    Returns:
        A record for each domain with ranked documents: name, number of documents and of sources, and `rows` of (source,
        documents, share in all, in the best, in the lowest); without rows if no two documents share a source.
    """
    found = []
    for name, every in overview.largest_domains:
        rows = every[overview.ranked[every]]
        if not len(rows):
            continue
        source_of, end = overview.source_of[rows], math.ceil(END * len(rows))
        present, local = np.unique(source_of, return_inverse=True)
        counts = [np.bincount(part, minlength=len(present)) for part in (local, local[:end], local[len(rows) - end :])]
        largest = np.argsort(-counts[0], kind="stable")[:SOURCES_SHOWN]
        lines = []
        if counts[0][largest[0]] > 1:
            shares = [part / part.sum() for part in counts]
            for source in largest.tolist():
                title = overview.sources[int(present[source])].as_py()
                lines.append((title, int(counts[0][source]), *(float(share[source]) for share in shares)))
        found.append({"domain": name, "documents": len(rows), "sources": len(present), "rows": lines})
    return found


def seven_digits(value: float | None) -> float | None:
    """A number for a page's JSON, with 7 digits; None where it is not finite."""
    return float(f"{value:.7g}") if value is not None and math.isfinite(value) else None


def columns_of(
    table: pa.Table,
    read: Iterable[tuple[int, str, str, str]],
    source_of: Sequence[str],
    max_chars: int,
) -> dict[str, list]:
    """The documents of a page, as one list per column.

    Args:
        table: rows of the score table, with their states.
        read: their texts, from `origins.texts`.
        source_of: the source of each row.
        max_chars: longer texts are cut; `length` is the number of characters before the cut.
    """
    guards = [name for name in OTHER_MEASURES if table[name].null_count < len(table)]
    columns = {name: table[name].to_pylist() for name in ("doc_id", "domain", "num_tokens", "state")}
    others = [name for name in (RANK_SCORE, *guards) if name in table.column_names]
    for name in ("AI_Score", "L_base", "L_ref", *others):
        values = table[name].to_pylist()
        is_text = pa.types.is_string(table.schema.field(name).type)
        columns[name] = values if is_text else [seven_digits(value) for value in values]
    columns["source"] = list(source_of)
    for name in ("text", "id", "url", "length"):
        columns[name] = [None] * len(table)
    for row, text, source_id, url in read:
        columns["text"][row], columns["length"][row] = text[:max_chars], len(text)
        columns["id"][row], columns["url"][row] = source_id, url
    return columns
