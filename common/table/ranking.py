"""The best documents of each domain, from tables of any length.

A table is read twice. The first pass counts the documents of each domain in each bin of scores; the counts show which
bin holds the threshold. The second pass writes the documents up to that bin to disk, in buckets in the order of the
result. Then each bucket is sorted, cut at the exact threshold and yielded. Memory holds a batch of rows, the counts,
and one bucket: a million rows, or the rows of one bin if it has more.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.table.schema import EXACT, NEAR, TABLE_SCHEMA
from common.table.tables import count_rows, read_score_batches

# A bin holds the scores with the same sign, exponent and first 8 bits of the mantissa; they differ by 0.4 % at most.
BITS = 20
ROWS_PER_BUCKET = 2**20
HASH_FILES = 64
DRAWN, SAMPLE = 24, 2000  # domains in a picture, and documents of each domain
COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Limits:
    """Which documents are left out before a domain is ranked.

    Attributes:
        max_repetition: documents that repeat more than this share of their tokens.
        dedup: copies of another document, `exact` or `near`; or `none`.
    """

    max_repetition: float = 1.0
    dedup: str = "none"

    def over(self, path: Path, table: pa.Table) -> dict[str, np.ndarray]:
        """For each limit, which rows are over it; InputError if the table lacks the column for it."""
        found = {}
        if self.max_repetition < 1:
            found["repetitive"] = _known(path, table, "repetition", "--max_repetition 1") > self.max_repetition
        if self.dedup != "none":
            column = {"exact": EXACT, "near": NEAR}[self.dedup]
            found["duplicates"] = _known(path, table, column, "--dedup none") != ""
        return found


def _known(path: Path, table: pa.Table, column: str, without: str) -> np.ndarray:
    if pc.any(pc.is_null(table[column], nan_is_null=True)).as_py():
        raise InputError(
            f"{path}: some rows have no {column}; score again with attention_influence_scoring.py, or rank "
            f"without it: {without}"
        )
    return table[column].to_numpy()


@dataclass
class Domain:
    """The contents of one domain, and the selection from it.

    Attributes:
        left_out: by limit, how many documents it left out; all counts below are of the other documents.
        sample: repetition, AI_Score and kept of about `SAMPLE` documents, chosen by a hash of their ids, including
            those left out; None except for the `DRAWN` largest domains.
        score_sum: of the documents with a finite score; documents without one are not counted.
        weights: by bin, the number of documents, or of their tokens.
        rows: by bin, the number of documents.
        limit: documents are selected, best first, until the documents before have this weight.
        threshold: the score of the last selected document.
    """

    left_out: Counter = field(default_factory=Counter)
    sample: pd.DataFrame | None = None
    num_documents: int = 0
    num_tokens: int = 0
    score_sum: float = 0.0
    weights: Counter = field(default_factory=Counter)
    rows: Counter = field(default_factory=Counter)
    limit: int = 0
    taken: int = 0
    num_selected: int = 0
    selected_tokens: int = 0
    threshold: float = math.nan

    def histogram(self, lowest: bool) -> tuple[np.ndarray, np.ndarray]:
        """The scores of the ranked documents, exact to 0.4 %, and the number of documents with each."""
        bins = np.array(sorted(self.rows), np.int64)
        return _scores_of(bins, lowest), np.array([self.rows[bin_] for bin_ in bins.tolist()])


class Ranking:
    """The best (or the `lowest`) `percent` of each domain by AI_Score.

    Args:
        path: a table of scores; rows without a finite score are never selected.
        by: `documents` takes that percentage of the domain's documents, rounded up; `tokens` takes documents until
            they hold that percentage of its tokens.
        limits: the documents that are left out before.
        scratch: an empty folder for data that does not fit into memory.
        watch: called with the batches of a pass, the name of the pass and the number of rows (None if unknown); returns
            the batches, and may show progress.

    Attributes:
        domains: by name, in order; complete when `selected` is exhausted.
        num_rows: of the table.
        num_not_finite: rows without a finite score.
    """

    def __init__(
        self,
        path: Path,
        percent: float,
        by: str,
        lowest: bool,
        scratch: Path,
        limits: Limits = Limits(),
        watch=lambda batches, *_: batches,
    ):
        self.path, self.percent, self.by, self.lowest, self.limits = path, percent, by, lowest, limits
        self._scratch, self._watch = scratch, watch
        self.domains: dict[str, Domain] = {}
        self.num_rows = self.num_not_finite = 0

    def selected(self) -> Iterator[pa.Table]:
        """The selected rows, domains by name, best first (or lowest), ties in the table's order; some at a time.

        Raises:
            InputError: as in `read_score_batches`; no row has a finite score, or all are left out; a doc_id is there
                twice; or the table lacks a column for the limits.
        """
        twice = self._count()
        if not self.domains:
            raise InputError(f"{self.path}: no row has a finite AI_Score; check L_base and L_ref in it")
        if not any(domain.num_documents for domain in self.domains.values()):
            raise InputError(f"{self.path}: all rows are left out; raise --max_repetition, or use --dedup none")
        self.domains = dict(sorted(self.domains.items()))
        self._hash_limits = self._limit_hashes()
        last_places, edges = self._plan()
        buckets = self._spill(last_places, edges, twice)
        expected = sum(domain.limit for domain in self.domains.values()) if self.by == "documents" else None
        yield from self._watch(map(self._cut, buckets), "writing", expected)

    def _count(self) -> np.ndarray:
        """The first pass; returns the hashes that occur twice."""
        with ExitStack() as stack:
            files = [stack.enter_context((self._scratch / f"hashes{n}").open("wb")) for n in range(HASH_FILES)]
            for table in self._watch(read_score_batches(self.path), "reading", count_rows(self.path)):
                self.num_rows += len(table)
                hashes = np.sort(_hashes(table))
                for file, part in zip(files, np.split(hashes, _edges_of_hash_files(hashes)), strict=True):
                    file.write(part)
                table = _finite(table)
                self.num_not_finite += len(hashes) - len(table)
                keep = self._count_left_out(table)
                self._count_batch(*_ranked(table.filter(pa.array(keep)), self.lowest))
        return np.concatenate([_twice(self._scratch / f"hashes{n}") for n in range(HASH_FILES)])

    def _keep(self, table: pa.Table) -> np.ndarray:
        """Which rows are under all limits."""
        over = self.limits.over(self.path, table).values()
        return ~np.logical_or.reduce([np.zeros(len(table), bool), *over])

    def _count_left_out(self, table: pa.Table) -> np.ndarray:
        """Count by domain the rows that each limit leaves out, each row once; returns the same as `_keep`."""
        left = np.ones(len(table), bool)
        for limit, over in self.limits.over(self.path, table).items():
            for each in pc.value_counts(table["domain"].filter(pa.array(over & left))).to_pylist():
                self.domains.setdefault(each["values"], Domain()).left_out[limit] += each["counts"]
            left &= ~over
        return left

    def _draw(self, table: pa.Table, keep: np.ndarray) -> None:
        """Add rows to the samples of their domains: those with a hash of the id under a limit."""
        names = table["domain"].combine_chunks().dictionary_encode()
        limits = np.array([self._hash_limits.get(name, 0) for name in names.dictionary.to_pylist()], np.uint64)
        rows = np.flatnonzero(_hashes(table) < limits[names.indices.to_numpy()])
        drawn = table.take(rows).select(["domain", "repetition", "AI_Score"]).to_pandas().assign(kept=keep[rows])
        for name, sample in drawn.groupby("domain"):
            self.domains[name].sample = pd.concat([self.domains[name].sample, sample], ignore_index=True)

    def _limit_hashes(self) -> dict[str, int]:
        """By domain, the hash below which an id is in the sample."""
        sizes = {name: domain.num_documents + sum(domain.left_out.values()) for name, domain in self.domains.items()}
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:DRAWN]
        return {name: min(2**64 - 1, 2**64 * SAMPLE // sizes[name]) for name in largest}

    def _count_batch(
        self, names: list[str], codes: np.ndarray, lengths: np.ndarray, scores: np.ndarray, bins: np.ndarray
    ):
        groups, group_of = np.unique(codes << BITS | bins, return_inverse=True)
        rows = np.bincount(group_of)
        tokens = np.bincount(group_of, lengths).astype(np.int64)
        sums = np.bincount(group_of, scores)
        for group, count, num_tokens, score_sum in zip(
            groups.tolist(), rows.tolist(), tokens.tolist(), sums.tolist(), strict=True
        ):
            domain = self.domains.setdefault(names[group >> BITS], Domain())
            bin_ = group & (1 << BITS) - 1
            domain.num_documents += count
            domain.num_tokens += num_tokens
            domain.score_sum += score_sum
            domain.rows[bin_] += count
            domain.weights[bin_] += count if self.by == "documents" else num_tokens

    def _plan(self) -> tuple[np.ndarray, list[int]]:
        """The place of the last selected bin of each domain, and the places where the buckets begin.

        A place is a bin of a domain, numbered in the order of the result.
        """
        share = Fraction(str(self.percent)) / 100
        last_places, edges, in_bucket = [], [0], 0
        for rank, domain in enumerate(self.domains.values()):
            domain.limit = math.ceil(share * sum(domain.weights.values()))
            weight, place = 0, (rank << BITS) - 1
            for bin_ in sorted(domain.rows):
                if weight >= domain.limit:
                    break
                weight += domain.weights[bin_]
                place = rank << BITS | bin_
                if in_bucket and in_bucket + domain.rows[bin_] > ROWS_PER_BUCKET:
                    edges.append(place)
                    in_bucket = 0
                in_bucket += domain.rows[bin_]
            last_places.append(place)
        return np.array(last_places), edges

    def _spill(self, last_places: np.ndarray, edges: list[int], twice: np.ndarray) -> list[Path]:
        """The second pass; returns the buckets' files."""
        ranks = {name: rank for rank, name in enumerate(self.domains)}
        files = [self._scratch / f"bucket{n}" for n in range(len(edges))]
        seen: set[str] = set()
        with ExitStack() as stack:
            writers = [stack.enter_context(pa.ipc.new_stream(str(f), TABLE_SCHEMA, options=COMPRESSED)) for f in files]
            for table in self._watch(read_score_batches(self.path), "selecting", self.num_rows):
                if len(twice):
                    self._refuse_repeated(table, twice, seen)
                table = _finite(table)
                keep = self._keep(table)
                self._draw(table, keep)
                table = table.filter(pa.array(keep))
                names, codes, _, _, bins = _ranked(table, self.lowest)
                rank_of = np.array([ranks[name] for name in names], np.int64)
                places = rank_of[codes] << BITS | bins
                rows = np.flatnonzero(places <= last_places[rank_of[codes]])
                buckets = np.searchsorted(edges, places[rows], side="right") - 1
                order = np.argsort(buckets, kind="stable")
                kept, present = table.take(rows[order]), np.bincount(buckets, minlength=len(edges))
                first = 0
                for bucket in np.flatnonzero(present):
                    writers[bucket].write_table(kept.slice(first, present[bucket]))
                    first += present[bucket]
        return files

    def _cut(self, bucket: Path) -> pa.Table:
        """Sort a bucket, and return and count the selected documents."""
        with pa.ipc.open_stream(str(bucket)) as reader:
            table = reader.read_all()
        bucket.unlink()
        names = table["domain"].combine_chunks().dictionary_encode()
        ranks = {name: rank for rank, name in enumerate(self.domains)}
        domain_ranks = np.array([ranks[name] for name in names.dictionary.to_pylist()])[names.indices.to_numpy()]
        order = np.lexsort((_sort_keys(table["AI_Score"].to_numpy(), self.lowest), domain_ranks))
        table, domain_ranks = table.take(order), domain_ranks[order]
        lengths, scores = table["num_tokens"].to_numpy(), table["AI_Score"].to_numpy()
        chosen = []
        present = sorted(names.dictionary.to_pylist())
        edges = [0, *(np.flatnonzero(np.diff(domain_ranks)) + 1).tolist(), len(table)]
        for name, (first, last) in zip(present, pairwise(edges), strict=True):
            domain = self.domains[name]
            weights = lengths[first:last] if self.by == "tokens" else np.ones(last - first, np.int64)
            before = domain.taken + np.cumsum(weights) - weights
            count = int(np.searchsorted(before, domain.limit))
            domain.taken += int(weights.sum())
            if count:
                chosen.append(table.slice(first, count))
                domain.num_selected += count
                domain.selected_tokens += int(lengths[first : first + count].sum())
                domain.threshold = float(scores[first + count - 1])
        return pa.concat_tables(chosen) if chosen else table.slice(0, 0)

    def _refuse_repeated(self, table: pa.Table, twice: np.ndarray, seen: set[str]) -> None:
        """Raise InputError for a doc_id that was seen before; only ids whose hash occurs twice are compared."""
        for doc_id in table["doc_id"].filter(np.isin(_hashes(table), twice)).to_pylist():
            if doc_id in seen:
                raise InputError(
                    f"{self.path}: doc_id {doc_id} is there twice; make it with attention_influence_scoring.py"
                )
            seen.add(doc_id)


def ends(path: Path, top: int, bottom: int) -> Iterator[tuple[str, int, pa.Table, pa.Table]]:
    """The best and the lowest documents of each domain, in one pass; none is in both.

    Yields:
        (domain, its number of documents, the best, the lowest in descending order), domains by name.
    """
    kept: dict[str, tuple[int, pa.Table, pa.Table]] = {}
    for table in map(_finite, read_score_batches(path)):
        for name in pc.unique(table["domain"]).to_pylist():
            rows = table.filter(pc.equal(table["domain"], name))
            count, *before = kept.get(name, (0, rows.slice(0, 0), rows.slice(0, 0)))
            best, lowest = (
                t.take(np.argsort(_sort_keys(t["AI_Score"].to_numpy(), lowest=False), kind="stable"))
                for t in (pa.concat_tables([part, rows]) for part in before)
            )
            kept[name] = count + len(rows), best.slice(0, top), lowest.slice(max(0, len(lowest) - bottom))
    for name, (count, best, lowest) in sorted(kept.items()):
        spare = count - len(best)
        yield name, count, best, lowest.slice(max(0, len(lowest) - spare))


def _sort_keys(scores: np.ndarray, lowest: bool) -> np.ndarray:
    """Integers in the order of the scores: best first, or lowest first."""
    bits = (np.ascontiguousarray(scores) + 0.0).view(np.int64)  # turns -0.0 into 0.0
    ascending = bits ^ ((bits >> 63) & np.int64(2**63 - 1))
    return ascending if lowest else ~ascending


def _scores_of(bins: np.ndarray, lowest: bool) -> np.ndarray:
    """The score at the lower end of each bin, as `_ranked` numbers them."""
    keys = (bins - 2 ** (BITS - 1)) << 64 - BITS
    ascending = keys if lowest else ~keys
    return (ascending ^ ((ascending >> 63) & np.int64(2**63 - 1))).view(np.float64)


def _finite(table: pa.Table) -> pa.Table:
    """The rows with a finite score."""
    return table.filter(pc.is_finite(table["AI_Score"]))


def _ranked(table: pa.Table, lowest: bool):
    """Names of domains, and for each row: code of its domain, tokens, score and bin."""
    domains = table["domain"].combine_chunks().dictionary_encode()
    codes = domains.indices.to_numpy().astype(np.int64)
    scores = table["AI_Score"].to_numpy()
    bins = (_sort_keys(scores, lowest) >> 64 - BITS) + 2 ** (BITS - 1)
    return domains.dictionary.to_pylist(), codes, table["num_tokens"].to_numpy(), scores, bins


def _hashes(table: pa.Table) -> np.ndarray:
    """A hash of each doc_id, uint64: the ids themselves would be most of a large table's memory."""
    return pd.util.hash_array(table["doc_id"].to_numpy(), categorize=False)


def _edges_of_hash_files(hashes: np.ndarray) -> np.ndarray:
    """Where sorted hashes are cut into `HASH_FILES` ranges."""
    return np.searchsorted(hashes, np.arange(1, HASH_FILES, dtype=np.uint64) * np.uint64(2**64 // HASH_FILES))


def _twice(file: Path) -> np.ndarray:
    """The hashes that a file holds more than once."""
    hashes = np.sort(np.fromfile(file, np.uint64))
    file.unlink()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
