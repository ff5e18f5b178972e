"""The best documents of each domain, out of tables of any length.

A table is read twice. The first pass counts, in each domain, the documents of every bin of scores, which gives the bin
that the threshold falls into. The second puts the documents up to that bin aside on disk, in buckets that follow each
other in the order of the result; bucket by bucket they are sorted, cut at the exact threshold and handed on. Memory
holds a batch of rows, the counts, and one bucket: a million rows, or those of one bin where that has more.
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
from common.table.scores import EXACT, NEAR, TABLE_SCHEMA, count_rows, read_score_batches

# A bin holds the scores that share sign, exponent and the first 8 bits of the mantissa: that differ by 0.4 % at most.
BITS = 20
ROWS_PER_BUCKET = 2**20
HASH_FILES = 64
DRAWN, SAMPLE = 24, 2000  # domains in a picture, and documents of each
COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Limits:
    """Which documents are left out before a domain is ranked.

    Attributes:
        max_repetition: those that repeat more than this share of their tokens.
        dedup: those that equal an earlier document (`exact`), that nearly do (`near`), or `none`.
    """

    max_repetition: float = 1.0
    dedup: str = "none"

    def over(self, path: Path, table: pa.Table) -> dict[str, np.ndarray]:
        """For each limit, which rows are over it; InputError where the table lacks what it takes to tell."""
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
            f"{path}: rows without {column} in it; score anew with attention_influence_scoring.py, or rank without it: "
            f"{without}"
        )
    return table[column].to_numpy()


@dataclass
class Domain:
    """What one domain holds, and what was selected of it.

    Attributes:
        dropped: by limit, how many documents it left out; what is said of documents below is of the others.
        sample: about `SAMPLE` documents drawn by their ids, those left out among them: repetition, AI_Score, kept; None
            but for the `DRAWN` largest domains.
        score_sum: of the documents with a finite score, which alone are counted.
        weights: documents, or their tokens, by bin.
        rows: documents by bin.
        limit: documents are selected, best first, until those before weigh this much.
        threshold: the score of the last that was selected.
    """

    dropped: Counter = field(default_factory=Counter)
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
        """The scores of the ranked documents, each good to 0.4 %, and how many there are of each."""
        bins = np.array(sorted(self.rows), np.int64)
        return _scores_of(bins, lowest), np.array([self.rows[bin_] for bin_ in bins.tolist()])


class Ranking:
    """The best (or the `lowest`) `percent` of each domain by AI_Score.

    Args:
        path: a table of scores; rows without a finite score are never selected.
        by: `documents` takes that percentage of the domain's documents, rounded up; `tokens` takes documents until
            they hold that percentage of its tokens.
        limits: what is left out before.
        scratch: an empty folder for what does not fit into memory.
        watch: called with the batches of a pass, what the pass does and how many rows there are, None if that is not
            known; gives the batches back, and may show how far it is.

    Attributes:
        domains: by name, in order; complete once `selected` is exhausted.
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
        self._path, self._by, self._lowest, self._limits = path, by, lowest, limits
        self._share = Fraction(str(percent)) / 100
        self._scratch, self._watch = scratch, watch
        self.domains: dict[str, Domain] = {}
        self.num_rows = self.num_not_finite = 0

    def selected(self) -> Iterator[pa.Table]:
        """The selected rows, domains by name, best first (or lowest), ties in the table's order; some at a time.

        Raises:
            InputError: as `read_score_batches`; no row has a finite score, or all are left out; a doc_id stands there
                twice; or the table does not have what the limits are about.
        """
        twice = self._count()
        if not self.domains:
            raise InputError(f"{self._path}: no row has a finite AI_Score; look at L_base and L_ref in it")
        if not any(domain.num_documents for domain in self.domains.values()):
            raise InputError(f"{self._path}: nothing is left of it; raise --max_repetition, or lower --dedup")
        self.domains = dict(sorted(self.domains.items()))
        self._hash_limits = self._limit_hashes()
        last_places, edges = self._plan()
        buckets = self._spill(last_places, edges, twice)
        expected = sum(domain.limit for domain in self.domains.values()) if self._by == "documents" else None
        yield from self._watch(map(self._cut, buckets), "writing", expected)

    def _count(self) -> np.ndarray:
        """The first pass; returns the hashes that occur twice."""
        with ExitStack() as stack:
            files = [stack.enter_context((self._scratch / f"hashes{n}").open("wb")) for n in range(HASH_FILES)]
            for table in self._watch(read_score_batches(self._path), "reading", count_rows(self._path)):
                self.num_rows += len(table)
                hashes = np.sort(_hashes(table))
                for file, part in zip(files, np.split(hashes, _edges_of_hash_files(hashes)), strict=True):
                    file.write(part)
                table = _finite(table)
                self.num_not_finite += len(hashes) - len(table)
                keep = self._count_dropped(table)
                self._count_batch(*_ranked(table.filter(pa.array(keep)), self._lowest))
        return np.concatenate([_twice(self._scratch / f"hashes{n}") for n in range(HASH_FILES)])

    def _keep(self, table: pa.Table) -> np.ndarray:
        """Which rows no limit leaves out."""
        over = self._limits.over(self._path, table).values()
        return ~np.logical_or.reduce([np.zeros(len(table), bool), *over])

    def _count_dropped(self, table: pa.Table) -> np.ndarray:
        """Count what the limits leave out, by domain, a row under the first alone; returns the same as `_keep`."""
        left = np.ones(len(table), bool)
        for limit, over in self._limits.over(self._path, table).items():
            for each in pc.value_counts(table["domain"].filter(pa.array(over & left))).to_pylist():
                self.domains.setdefault(each["values"], Domain()).dropped[limit] += each["counts"]
            left &= ~over
        return left

    def _draw(self, table: pa.Table, keep: np.ndarray) -> None:
        """Take rows into the samples of their domains: those whose ids have hashes under a limit."""
        names = table["domain"].combine_chunks().dictionary_encode()
        limits = np.array([self._hash_limits.get(name, 0) for name in names.dictionary.to_pylist()], np.uint64)
        rows = np.flatnonzero(_hashes(table) < limits[names.indices.to_numpy()])
        drawn = table.take(rows).select(["domain", "repetition", "AI_Score"]).to_pandas().assign(kept=keep[rows])
        for name, sample in drawn.groupby("domain"):
            self.domains[name].sample = pd.concat([self.domains[name].sample, sample], ignore_index=True)

    def _limit_hashes(self) -> dict[str, int]:
        """By domain, the hash under which an id's must be for its row to be drawn."""
        sizes = {name: domain.num_documents + sum(domain.dropped.values()) for name, domain in self.domains.items()}
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
            domain.weights[bin_] += count if self._by == "documents" else num_tokens

    def _plan(self) -> tuple[np.ndarray, list[int]]:
        """The place of the last bin of each domain from which documents are taken, and where the buckets begin.

        A place is a bin of a domain, numbered in the order of the result.
        """
        last_places, edges, in_bucket = [], [0], 0
        for rank, domain in enumerate(self.domains.values()):
            domain.limit = math.ceil(self._share * sum(domain.weights.values()))
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
            for table in self._watch(read_score_batches(self._path), "selecting", self.num_rows):
                if len(twice):
                    self._refuse_repeated(table, twice, seen)
                table = _finite(table)
                keep = self._keep(table)
                self._draw(table, keep)
                table = table.filter(pa.array(keep))
                names, codes, _, _, bins = _ranked(table, self._lowest)
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
        """Sort a bucket, take what is selected, and count it."""
        with pa.ipc.open_stream(str(bucket)) as reader:
            table = reader.read_all()
        bucket.unlink()
        names = table["domain"].combine_chunks().dictionary_encode()
        ranks = {name: rank for rank, name in enumerate(self.domains)}
        domain_ranks = np.array([ranks[name] for name in names.dictionary.to_pylist()])[names.indices.to_numpy()]
        order = np.lexsort((_keys(table["AI_Score"].to_numpy(), self._lowest), domain_ranks))
        table, domain_ranks = table.take(order), domain_ranks[order]
        lengths, scores = table["num_tokens"].to_numpy(), table["AI_Score"].to_numpy()
        chosen = []
        present = sorted(names.dictionary.to_pylist())
        edges = [0, *(np.flatnonzero(np.diff(domain_ranks)) + 1).tolist(), len(table)]
        for name, (first, last) in zip(present, pairwise(edges), strict=True):
            domain = self.domains[name]
            weights = lengths[first:last] if self._by == "tokens" else np.ones(last - first, np.int64)
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
        """Raise InputError at a doc_id that has been seen; only those are looked at whose hash occurs twice."""
        for doc_id in table["doc_id"].filter(np.isin(_hashes(table), twice)).to_pylist():
            if doc_id in seen:
                raise InputError(
                    f"{self._path}: doc_id {doc_id} stands there twice; make it with attention_influence_scoring.py"
                )
            seen.add(doc_id)


def ends(path: Path, top: int, bottom: int) -> Iterator[tuple[str, int, pa.Table, pa.Table]]:
    """The best and the lowest documents of each domain, in one pass; none is in both.

    Yields:
        (domain, how many documents it has, the best, the lowest last), domains by name.
    """
    kept: dict[str, tuple[int, pa.Table, pa.Table]] = {}
    for table in map(_finite, read_score_batches(path)):
        for name in pc.unique(table["domain"]).to_pylist():
            rows = table.filter(pc.equal(table["domain"], name))
            count, *before = kept.get(name, (0, rows.slice(0, 0), rows.slice(0, 0)))
            best, lowest = (
                t.take(np.argsort(_keys(t["AI_Score"].to_numpy(), lowest=False), kind="stable"))
                for t in (pa.concat_tables([part, rows]) for part in before)
            )
            kept[name] = count + len(rows), best.slice(0, top), lowest.slice(max(0, len(lowest) - bottom))
    for name, (count, best, lowest) in sorted(kept.items()):
        spare = count - len(best)
        yield name, count, best, lowest.slice(max(0, len(lowest) - spare))


def _keys(scores: np.ndarray, lowest: bool) -> np.ndarray:
    """Integers that are ordered as the scores are: best first, or lowest first."""
    bits = (np.ascontiguousarray(scores) + 0.0).view(np.int64)  # which makes -0.0 a 0.0
    ascending = bits ^ ((bits >> 63) & np.int64(2**63 - 1))
    return ascending if lowest else ~ascending


def _scores_of(bins: np.ndarray, lowest: bool) -> np.ndarray:
    """The score at the lower end of each bin, as `_ranked` numbers them."""
    keys = (bins - 2 ** (BITS - 1)) << 64 - BITS
    ascending = keys if lowest else ~keys
    return (ascending ^ ((ascending >> 63) & np.int64(2**63 - 1))).view(np.float64)


def _finite(table: pa.Table) -> pa.Table:
    """The rows with a finite score, which alone are looked at."""
    return table.filter(pc.is_finite(table["AI_Score"]))


def _ranked(table: pa.Table, lowest: bool):
    """Names of domains, and of each row: code of its domain, tokens, score and bin."""
    domains = table["domain"].combine_chunks().dictionary_encode()
    codes = domains.indices.to_numpy().astype(np.int64)
    scores = table["AI_Score"].to_numpy()
    bins = (_keys(scores, lowest) >> 64 - BITS) + 2 ** (BITS - 1)
    return domains.dictionary.to_pylist(), codes, table["num_tokens"].to_numpy(), scores, bins


def _hashes(table: pa.Table) -> np.ndarray:
    """A hash of each doc_id, uint64: the ids of a large table are most of its memory."""
    return pd.util.hash_array(table["doc_id"].to_numpy(), categorize=False)


def _edges_of_hash_files(hashes: np.ndarray) -> np.ndarray:
    """Where sorted hashes are cut into `HASH_FILES` ranges."""
    return np.searchsorted(hashes, np.arange(1, HASH_FILES, dtype=np.uint64) * np.uint64(2**64 // HASH_FILES))


def _twice(file: Path) -> np.ndarray:
    """The hashes that a file holds more than once."""
    hashes = np.sort(np.fromfile(file, np.uint64))
    file.unlink()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
