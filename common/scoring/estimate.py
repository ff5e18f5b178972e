"""What a run of step 5 takes: documents drawn at random are scored for half a minute, and nothing is kept."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, one_line
from common.files import is_unclaimed
from common.scoring.plan import ShardPlan, documents_missing, tokens_missing, unit_tokens
from common.scoring.run import Job, row_of
from common.scoring.units import Unit
from common.shards.documents import Document
from common.shards.format import check_vocabulary
from common.shards.reader import ShardReader
from common.table.merging import merge_parts
from common.table.parts import SECONDS_PER_PART, Parts, Stretch
from common.workers.team import Team

SECONDS, MIN_PIECES = 30, 3  # of scoring; a slow device goes on until it has some pieces
MOST_TOKENS = 2**24  # drawn; more than a GPU scores in that time
STRETCHES = 10  # of the time, whose rates are compared


class Measured(NamedTuple):
    """What was scored.

    Attributes:
        tokens, seconds: of each piece, shape [num_pieces].
        num_documents: in all pieces.
        rows: of those documents that can be scored, as in a part.
    """

    tokens: np.ndarray
    seconds: np.ndarray
    num_documents: int
    rows: list[dict]

    @property
    def rates(self) -> tuple[float, float, float]:
        """Tokens in a second: over all of the time, and in its slowest and its fastest stretch.

        >>> Measured(np.array([30, 10]), np.array([1.0, 1.0]), 2, []).rates
        (20.0, 10.0, 30.0)
        """
        count = min(STRETCHES, len(self.tokens))
        tokens, seconds = (
            np.array([each.sum() for each in np.array_split(values, count)]) for values in (self.tokens, self.seconds)
        )
        rates = tokens / seconds
        return float(tokens.sum() / seconds.sum()), float(rates.min()), float(rates.max())


def estimate(team: Team, job: Job, num_workers: int, command: str) -> None:
    """Print how long the documents that are not scored yet take, and how large the parts and tables become.

    Args:
        num_workers: for how many workers the time is shown, besides one.
        command: scores the documents; it is shown.
    Raises:
        InputError: the parts are of another run, or no drawn document can be scored.
    """
    models, plan = team.description, job.plan
    print(one_line(f"{job.out}: {models.summary}"))
    is_unclaimed(*job.binding(models))
    parts = Parts(job.folder, job.overwrite)
    documents, planned = documents_missing(plan, parts), sum(item.num_documents for item in plan)
    tokens = sum(tokens_missing(item, parts, job.reader) for item in plan)
    print(f"to score: {documents:,} documents, {tokens:,} tokens; {planned - documents:,} documents are scored already")
    if documents:
        held = tokens * sum(item.num_held for item in plan) // sum(item.num_tokens for item in plan)
        drawn = draw(plan, parts, job.reader, held)
        for document in drawn:
            check_vocabulary(document.doc_id, document.token_ids, models.vocabulary)
        measured = measure(team, list(_units(drawn, unit_tokens(plan, plan[-1].hashes, models))))
        if not measured.rows:
            raise InputError(f"{job.out}: no document that was drawn has two or more tokens, so none can be scored")
        _print_time(measured, tokens, f"{models.device}, {models.dtype}", num_workers)
        in_parts, in_tables = disk(measured, plan, job.steps.wanted) / 1e6
        print(f"disk: {in_parts:,.2f} MB of parts and {in_tables:,.2f} MB of tables when all of it is scored")
    print(f"next: {command}")


def draw(plan: Sequence[ShardPlan], parts: Parts, reader: ShardReader, tokens: int) -> list[Document]:
    """Documents that are in no part, at random and in random order: all, or about `MOST_TOKENS` of their `tokens`."""
    missing = [item.missing(parts) for item in plan]
    last = np.cumsum([sum(map(len, gaps)) for gaps in missing])
    count = -(-int(last[-1]) * min(MOST_TOKENS, tokens) // tokens)
    drawn = np.random.default_rng(0).choice(last[-1], count, replace=False)
    items, found = np.searchsorted(last, drawn, side="right"), {}
    for number in np.unique(items).tolist():
        shard, rows = plan[number].open(reader), np.concatenate(missing[number])
        for place in np.flatnonzero(items == number).tolist():
            document = shard.document(int(rows[drawn[place] - last[number]]))  # counted from the end
            found[place] = replace(document, token_ids=np.array(document.token_ids))
    return [found[place] for place in range(count)]


def measure(team: Team, units: list[Unit]) -> Measured:
    """Have a team score units until half a minute has passed, after a piece that is not counted."""
    with closing(team.run(units)) as pieces:
        next(pieces)
    tokens, seconds, rows, num_documents = [], [], [], 0
    before = time.perf_counter()
    with closing(team.run(units)) as pieces:
        for _, unit, piece in pieces:
            tokens.append(unit.num_read(piece))
            rows += [row_of(unit.document(scored.row), scored) for scored in piece.scores]
            num_documents += piece.last - piece.first
            now = time.perf_counter()
            seconds.append(now - before)
            before = now
            if sum(seconds) > SECONDS and len(seconds) >= MIN_PIECES:
                break
    return Measured(np.array(tokens), np.array(seconds), num_documents, rows)


def _units(documents: list[Document], size: int) -> Iterator[Unit]:
    """The documents in units of about `size` tokens."""
    lengths = np.array([document.num_read for document in documents])
    numbers = (np.cumsum(lengths) - lengths) // size
    for _, group in groupby(zip(numbers.tolist(), documents, strict=True), key=itemgetter(0)):
        yield Unit(0, [document for _, document in group])


def _print_time(measured: Measured, tokens: int, device: str, num_workers: int) -> None:
    rate, slowest, fastest = measured.rates
    print(
        f"speed: {rate:,.0f} tokens/s on this device ({device}), {slowest:,.0f} to {fastest:,.0f} from moment to "
        f"moment; measured on {measured.num_documents:,} documents, {measured.seconds.sum():.1f} s"
    )
    hours = [
        f"{tokens / rate / 3600 / count:,.2f} hours on {name} "
        f"({tokens / fastest / 3600 / count:,.2f} to {tokens / slowest / 3600 / count:,.2f})"
        for count, name in ((1, "this device"), (num_workers, f"{num_workers} of them"))
    ]
    print(f"time: {', '.join(hours)}, and some minutes to load the models and to write the tables")


def disk(measured: Measured, plan: Sequence[ShardPlan], steps: bool) -> np.ndarray:
    """Bytes of the parts, and of the tables, of the whole plan: rows are as large as the measured ones.

    A file is larger than its rows, and one worker writes a part in `SECONDS_PER_PART` or less.
    """
    num_rows = len(measured.rows)
    one, all_ = (_num_bytes(rows, steps) for rows in (measured.rows[:1], measured.rows))
    of_row = (all_ - one) / (num_rows - 1) if num_rows > 1 else one
    rows = sum(item.num_documents for item in plan) * num_rows / measured.num_documents
    seconds = sum(item.num_tokens for item in plan) / measured.rates[0]
    return of_row * rows + (one - of_row) * [len(plan) + seconds / SECONDS_PER_PART, 1]


def _num_bytes(rows: list[dict], steps: bool) -> np.ndarray:
    """Bytes of a part with these rows, and of the tables with them."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name, "parts"), Path(name, "tables/scores.tsv")
        with Parts(folder) as parts:
            parts.add("", 0, len(rows), rows)
        found = [Stretch([part.path]) for part in parts.of_shard("")]
        merge_parts(found, out, out.with_suffix(".steps.tsv") if steps else None)
        return np.array([sum(path.stat().st_size for path in each.iterdir()) for each in (folder, out.parent)])
