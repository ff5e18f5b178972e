"""What a prefilter (prefilter_scores.py) kept of a corpus: the documents that step 4 takes, and the facts of all steps.

A prefilter has a folder: `kept.parquet` has a row for every document of the corpus, `kept.json` the counts of its
domains. Only what is kept is scored, but a percentage is of the whole corpus; so these counts go from record to record.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from functools import lru_cache
from itertools import groupby, pairwise, zip_longest
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import for_pyarrow, read_json
from common.text.corpus import SourceDocument
from common.text.kept import PREDICTED

MAKE = "make it with prefilter_scores.py apply"
LISTED = pa.schema(
    [
        *(("file", pa.string()), ("row", pa.int64()), ("domain", pa.string()), ("characters", pa.int64())),
        *(("kept", pa.bool_()), ("predicted", pa.float64())),
    ]
)


@dataclass(frozen=True)
class KeptPart:
    """What a prefilter kept of one domain.

    Attributes:
        documents, characters: of the domain, as far as its files were read.
        kept, kept_characters: of the part of those that is kept.
        recall: the share of the domain's best documents, in all files of the prefilter, that is kept: `estimate`, `low`
            and `high`; None if all of the domain is kept.
    """

    documents: int
    kept: int
    characters: int
    kept_characters: int
    recall: dict[str, float] | None

    def whole(self, by: str) -> Fraction:
        """What was read of the domain as a multiple of the kept part; tokens are taken to be as characters."""
        of = (self.documents, self.kept) if by == "documents" else (self.characters, self.kept_characters)
        return Fraction(*of) if of[1] else Fraction(1)


COUNTS = [each.name for each in fields(KeptPart)][:-1]
PER_FILE = ["file", "domain", *COUNTS]


@dataclass(frozen=True)
class Facts:
    """What a prefilter kept.

    Attributes:
        model: a digest of what the prefilter learnt.
        keep, recall: what was asked of it, the share to keep or the recall to reach.
        score: whose rank was predicted.
        top_pct: the percentage of best documents that each `recall` of `domains` is of.
        domains: by name.
        pilot: how the scores were made that it learnt from: flags of step 5, as far as they are known.
        in_part: `domains` count only some documents of all that the prefilter read.
    """

    model: str
    keep: float | None
    recall: float | None
    score: str
    top_pct: float
    domains: dict[str, KeptPart]
    pilot: dict[str, object] = field(default_factory=dict)
    in_part: bool = False

    def and_of(self, other: "Facts") -> "Facts | None":
        """What was kept of two corpora together; None if they went through different prefilters."""
        grown = {"domains": {}, "pilot": self.pilot or other.pilot, "in_part": self.in_part or other.in_part}
        if replace(self, **grown) != replace(other, **grown):
            return None
        found = dict(self.domains)
        for name, part in other.domains.items():
            before = found.get(name, KeptPart(*[0] * len(COUNTS), part.recall))
            found[name] = replace(before, **{count: getattr(before, count) + getattr(part, count) for count in COUNTS})
        return replace(self, **grown | {"domains": found})

    def share(self, kept: str, of: str) -> float:
        """The sum of a count of all domains as a share of that of another, both by name."""
        sums = [sum(getattr(part, count) for part in self.domains.values()) for count in (kept, of)]
        return sums[0] / max(1, sums[1])

    def in_words(self, is_its_top: bool = True) -> str:
        """What was scored, and what it misses.

        Args:
            is_its_top: a selection is of the best `top_pct` of the documents, which is what the recall is of.
        """
        parts = self.domains.values()

        def shown(share: float) -> str:
            return f"{100 * share:.3g}"

        def recall(which: str) -> str:
            found = sum(part.documents * (part.recall[which] if part.recall else 1) for part in parts)
            return shown(found / sum(part.documents for part in parts))

        corpus, other = "the corpus", ""
        if self.in_part:
            corpus = "what was read"
            other = "; that holds for all that was prefiltered, and is not known for the part that was read"
        elif not is_its_top:
            other = "; this is another selection, so what it misses is not known"
        return (
            f"{shown(self.share('kept', 'documents'))} % of {corpus} ("
            f"{shown(self.share('kept_characters', 'characters'))} % of its characters); by the price list about "
            f"{recall('estimate')} % ({recall('low')} to {recall('high')} %) of its true top {self.top_pct:g} % "
            f"(without guards) is in it{other}"
        )


def facts_of(record: object, where: object) -> Facts | None:
    """The facts in a record that a step wrote, None if it is None; `where` names its file for the InputError."""
    if record is None:
        return None
    try:
        names = [*COUNTS, "recall"]
        domains = {name: KeptPart(*map(part.__getitem__, names)) for name, part in record["domains"].items()}
        for part in domains.values():
            counts = (part.kept, part.documents, part.kept_characters, part.characters)
            if not all(isinstance(count, int) for count in counts):
                raise TypeError("a count is not a whole number")
            if not (0 <= part.kept <= part.documents and 0 <= part.kept_characters <= part.characters):
                raise ValueError("it keeps more of a domain than there is")
            if part.recall is None and part.kept < part.documents:
                raise ValueError("a domain without recall is not kept whole")
        later = record.get("pilot", {}), record.get("in_part", False)
        facts = Facts(*map(record.__getitem__, [each.name for each in fields(Facts)][:-3]), domains, *later)
        facts.in_words()
        if not (isinstance(facts.score, str) and isinstance(facts.pilot, dict) and isinstance(facts.in_part, bool)):
            raise TypeError("the score is not a name, in_part not true or false, or the pilot no record")
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{where}: not the record of a prefilter ({error!r}); make it again") from None
    return facts


def facts_in(path: Path) -> Facts | None:
    """The facts under `prefilter` in the record of a later step; None if there is no such record, or nothing in it."""
    return facts_of(read_json(path).get("prefilter"), path) if path.exists() else None


def _counts(table: pa.Table) -> pa.Table:
    """The `COUNTS` of each domain of each file in some rows."""
    table = table.append_column("kept_characters", pc.if_else(table["kept"], table["characters"], 0))
    sums = [(name, "sum") for name in COUNTS[1:]]
    counted = table.group_by(["file", "domain"]).aggregate([("row", "count"), *sums])
    return counted.select(["file", "domain", "row_count", *("_".join(each) for each in sums)]).rename_columns(PER_FILE)


class Prefilter:
    """The folder of a prefilter.

    Attributes:
        facts: what it kept of all its files.
        num_documents, num_kept: so far, of those given to `kept`.
    """

    def __init__(self, folder: Path):
        self._table, record = folder / "kept.parquet", folder / "kept.json"
        for path in (self._table, record):
            if not path.exists():
                raise InputError(f"{path}: no such file; {MAKE}")
        known = read_json(record)
        self.facts, self._inputs = facts_of(known, record), known.get("inputs")
        if not isinstance(self._inputs, dict):
            raise InputError(f"{record}: not the record of a prefilter (no inputs); {MAKE}")
        with self._reading():
            self._rows = pq.ParquetFile(for_pyarrow(self._table), pre_buffer=False)
            self._ranges = list(map(self._range_of, range(self._rows.num_row_groups)))
        self._group = lru_cache(maxsize=1)(self._sorted_group)  # which the next file may share
        self.num_documents = self.num_kept = 0

    def facts_of_files(self, files: Sequence[str], most: int | None) -> Facts:
        """What it kept of some files, in this order; of the documents up to the last of the `most` that are kept.

        Raises:
            InputError: it has not seen one of them, lists no document of them, or is not of the record beside it.
        """
        counts = self._counts_of(files)
        kept = np.bincount(counts["place"], counts["kept"], len(files)).astype(int)
        most = sys.maxsize if most is None else min(most, sys.maxsize)
        last = int(np.searchsorted(kept.cumsum(), most))
        counts = counts.filter(pc.less(counts["place"], last)).select(PER_FILE)
        if last < len(files):
            rows = self._table_of(files[last])
            end = int(np.searchsorted(rows["kept"].to_numpy().cumsum(), most - kept[:last].sum())) + 1
            counts = pa.concat_tables([counts, _counts(rows.slice(0, end))])
        if not len(counts):
            raise self._differs(files[0], 0)
        sums = counts.group_by("domain").aggregate([(name, "sum") for name in COUNTS]).sort_by("domain")
        whole, domains = self.facts.domains, {}
        for row in sums.to_pylist():
            recall = whole[row["domain"]].recall if row["domain"] in whole else None
            domains[row["domain"]] = {name: row[f"{name}_sum"] for name in COUNTS} | {"recall": recall}
        in_part = pc.sum(sums["documents_sum"]).as_py() < sum(part.documents for part in whole.values())
        return facts_of(asdict(self.facts) | {"domains": domains, "in_part": in_part}, self._table)

    def _counts_of(self, files: Sequence[str]) -> pa.Table:
        """The counts of each domain of these files, and the `place` of its file among them; in one pass."""
        with self._reading():
            counts = pa.concat_tables(_counts(self._read_group(group)) for group in range(len(self._ranges)))
        known = {*counts["file"].to_pylist(), *self._inputs}
        if strange := next((file for file in files if file not in known), None):
            raise self._differs(strange, 0)
        counts = counts.append_column("place", pc.index_in(counts["file"], pa.array(files)))
        return counts.filter(pc.is_valid(counts["place"]))

    def kept(self, documents: Iterable[SourceDocument], files: Iterable[str]) -> Iterator[SourceDocument]:
        """The documents that are kept, each with what was predicted for it in `kept`.

        Args:
            documents: of these files, one file after the other.
        Raises:
            InputError: a file has not exactly the documents that are listed of it.
        """
        unread = dict.fromkeys(files)
        for file, found in groupby(documents, attrgetter("file")):
            unread.pop(file, None)
            types = None
            for document, listed in zip_longest(found, self._rows_of(file)):
                *place, is_kept, predicted = listed or [None] * (len(LISTED) - 1)
                if document is None or [document.row, document.domain, len(document.text)] != place:
                    raise self._differs(file, document.row if document else place[0])
                self.num_documents += 1
                if is_kept:
                    self.num_kept += 1
                    if document.types is not None and types is None:
                        types = document.types.append(pa.field(PREDICTED, pa.float64()))
                    yield replace(document, kept={**document.kept, PREDICTED: float(predicted)}, types=types)
        if emptied := next((file for file in unread if len(self._table_of(file))), None):
            raise self._differs(emptied, 0)

    def _differs(self, file: str, row: int) -> InputError:
        return InputError(
            f"{file}: row {row}, counted from 0, is not as {self._table} lists it; give the same files and columns as "
            "to prefilter_scores.py apply, or run that again"
        )

    def _rows_of(self, file: str) -> Iterator[tuple]:
        """The rows of a file, in order, each as in `LISTED` without its file."""
        table = self._table_of(file)
        return zip(*(table[name].to_numpy() for name in LISTED.names[1:]), strict=True)

    def _table_of(self, file: str) -> pa.Table:
        with self._reading():
            found = [self._group(group) for group, (low, high) in enumerate(self._ranges) if low <= file <= high]
            pieces = [table.slice(*places[file]) for table, places in found if file in places]
        return pieces[0] if len(pieces) == 1 else pa.concat_tables([LISTED.empty_table(), *pieces]).sort_by("row")

    def _sorted_group(self, group: int) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
        """A group of rows by file and row, and where those of a file begin in it and how many they are."""
        table = self._read_group(group).sort_by([("file", "ascending"), ("row", "ascending")])
        runs = pc.run_end_encode(table["file"].combine_chunks())
        ends = runs.run_ends.to_pylist()
        places = ((begin, end - begin) for begin, end in pairwise([0, *ends]))
        return table, dict(zip(runs.values.to_pylist(), places, strict=True))

    def _read_group(self, group: int) -> pa.Table:
        table = self._rows.read_row_group(group, LISTED.names).select(LISTED.names).cast(LISTED)
        if nulls := [name for name in LISTED.names[:-1] if table[name].null_count]:
            raise ValueError(f"a null in its column {nulls[0]}")
        return table

    def _range_of(self, group: int) -> tuple[str, str]:
        """The first and the last name of a file in a group of rows."""
        metadata = self._rows.metadata
        about = metadata.row_group(group).column(metadata.schema.names.index("file")).statistics
        return (about.min, about.max) if about and about.has_min_max else ("", chr(sys.maxunicode))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{self._table}: not the table of a prefilter ({error}); {MAKE}") from None

    def report(self) -> None:
        """Print how many documents were left out, if any was read."""
        if self.num_documents:
            left_out = self.num_documents - self.num_kept
            print(f"left out by the prefilter: {left_out:,} of {self.num_documents:,} documents")
