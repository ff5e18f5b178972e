"""A run of step 5: workers score the missing documents, then the parts become tables."""

import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from common import cli
from common.errors import one_line
from common.files import claim, read_json, write_json
from common.scoring.pair import PairDescription, PairOptions
from common.scoring.plan import ShardPlan, documents_missing, stretches, tokens_missing, units
from common.scoring.units import Piece, Scored, StepOptions, Unit
from common.shards.doc_id import format_doc_id
from common.shards.documents import Document
from common.shards.format import check_vocabulary
from common.shards.reader import ShardReader
from common.table.merging import Health, merge_parts
from common.table.parts import Parts, Stretch
from common.table.schema import NOVEL_SUFFIX, PART_SCHEMA
from common.text.prefiltered import Facts
from common.workers.read_ahead import read_ahead
from common.workers.team import Team

TIMES = "time.json"


def parts_folder(out: Path) -> Path:
    """Where the finished parts of a table are."""
    return out.with_suffix(".parts")


@dataclass(frozen=True)
class Job:
    """What a run scores, and where its results go.

    Attributes:
        data: the patterns of --data.
        plan: the documents to score.
        out: the table, `.tsv`.
        overwrite: delete another run's work first.
        sample: the share of the documents that the plan was made for; None is all.
        prefilter: what a prefilter kept of the corpus; None without one.
    """

    pair: PairOptions
    steps: StepOptions
    data: list[str]
    plan: list[ShardPlan]
    reader: ShardReader
    out: Path
    overwrite: bool
    sample: float | None = None
    prefilter: Facts | None = None

    @property
    def folder(self) -> Path:
        """The folder of the finished parts."""
        return parts_folder(self.out)

    @property
    def steps_out(self) -> Path:
        """The table of steps, `.tsv`."""
        return self.out.with_suffix(".steps.tsv")

    @property
    def shards(self) -> dict[str, str]:
        """The digest of each shard, by its path."""
        return {str(item.path): item.digest for item in self.plan}

    @property
    def flags(self) -> dict:
        """The flags that later steps find in the record: `RECORDED`."""
        pair = {name: getattr(self.pair, name) for name in ("base_model", "reference_model", "seq_len")}
        reader = {name: getattr(self.reader, name) for name in ("score_separator", "score_tokens")}
        tokenizer = self.pair.runtime.tokenizer or self.pair.base_model
        return {**pair, **reader, "reference_of": dict(self.pair.reference_of), "tokenizer": tokenizer}

    def warn_of_another_pilot(self) -> None:
        """Warn if a prefilter learnt from scores that were made in another way: its recall is of those."""
        pilot, now = self.prefilter.pilot if self.prefilter else {}, self.flags
        changed = [name for name in now.keys() & pilot.keys() if _resolved(pilot[name]) != _resolved(now[name])]
        if changed:
            detail = "; ".join(f"{name} was {pilot[name]}, is {now[name]}" for name in sorted(changed))
            cli.warn(
                f"the pilot of the prefilter was scored in another way ({detail}), and its expected recall is of those "
                "scores; give the same flags, or make a pilot with these"
            )

    def time_spent(self) -> dict:
        """What scoring has taken so far: tokens, seconds, and when it ended; empty if nothing was scored."""
        path = self.folder / TIMES
        return read_json(path) if path.exists() else {}

    def binding(self, models: PairDescription) -> tuple[Path, dict, bool, str]:
        """The arguments with which `files.claim` binds the parts to this run.

        The share and the end may change, and shards may be added.
        """
        record, shards = self.folder / "run.json", self.shards
        before = read_json(record).get("shards", {}) if record.exists() and not self.overwrite else {}
        if before and all(shards.get(path) == digest for path, digest in before.items()):
            shards = before
        settings = {
            **models.identity,
            "seq_len": self.pair.seq_len,
            "columns": PART_SCHEMA.names,
            "steps": [self.steps.wanted, self.steps.separator],
            # runs from before it was an option had it
            **({} if self.reader.score_separator else {"score_separator": False}),
            "score_tokens": self.reader.score_tokens,
            "shards": shards,
        }
        return record, settings, self.overwrite, "*.parquet"


def _resolved(flag: object) -> object:
    """The value of a flag, the same for all ways to write the path of a folder."""
    if isinstance(flag, dict):
        return {name: _resolved(value) for name, value in flag.items()}
    return Path(flag).resolve() if isinstance(flag, str) else flag


@dataclass
class Tally:
    """Saves finished scores in parts, and shows the progress."""

    parts: Parts
    bar: tqdm
    status: Callable[[], str]
    num_documents: int = 0
    found_not_finite: bool = False

    def add(self, unit: Unit, piece: Piece) -> None:
        """Save the scores of a piece."""
        for scored in piece.scores:
            if not self.found_not_finite and not math.isfinite(sum(scored.means)):
                self.found_not_finite = True
                doc_id = unit.document(scored.row).doc_id
                cli.warn(f"{doc_id}: its loss is not finite; all such documents are counted at the end")
        rows = [row_of(unit.document(scored.row), scored) for scored in piece.scores]
        self.parts.add(unit.shard_name, piece.first, piece.last, rows, unit.hashes)
        self.num_documents += piece.last - piece.first
        self.bar.set_postfix_str(f"{self.num_documents:,} documents{self.status()}", refresh=False)
        self.bar.update(unit.num_read(piece))


def row_of(document: Document, scored: Scored) -> dict:
    """The row of a document in a part, by column name."""
    about = {"doc_id": document.doc_id, "domain": document.domain, "num_tokens": len(document)}
    novel = {f"{name}{NOVEL_SUFFIX}": value for name, value in scored.novel._asdict().items()}
    measured = scored.means._asdict() | novel | {"scored_tokens": scored.num_scored} | scored.guards._asdict()
    return about | measured | {"steps": [step._asdict() for step in scored.steps]}


def score_corpus(team: Team, job: Job) -> None:
    """Score what is missing, write the tables, and next to them a record of how they were made.

    Raises:
        SystemExit: with status 3, after the table is written, if some documents could not be scored.
    """
    print(one_line(f"{job.out}: {team.description.summary}"))
    found, num_scored = _score(team, job)
    for unit, reason in team.set_aside:
        documents = format_doc_id(unit.shard_name, unit.documents[0].start, unit.documents[-1].end)
        print(
            f"set aside: {len(unit.documents)} documents, {documents}, whose worker was lost three times ({reason})",
            file=sys.stderr,
        )
    if team.set_aside and not found:
        sys.exit(cli.INCOMPLETE)
    if job.overwrite and not job.steps.wanted:
        for old in (job.steps_out, job.steps_out.with_suffix(".parquet")):
            old.unlink(missing_ok=True)
    health = _write_tables(found, num_scored, job)
    for warning in health.warnings(team.description.vocabulary.size):
        print(f"warning: {warning}")
    write_json(job.out.with_suffix(".json"), _record(team, job, health))
    if team.set_aside:
        print("not all documents are scored; the same command tries those that were set aside again")
        sys.exit(cli.INCOMPLETE)
    print(f"next: python rank_scores.py --scores {job.out} --top_pct 20")


def _score(team: Team, job: Job) -> tuple[list[Stretch], int]:
    """Have the team score the missing documents into `job.folder`; returns the parts, and how many documents they hold.

    Both count only planned documents. There may be parts of a run that planned more.
    """
    models, reader, plan = team.description, job.reader, job.plan
    if job.overwrite:  # faults in the shards must show before the old work is deleted
        for item in plan:
            check_vocabulary(item.path, reader.open(item.path).verified().tokens, models.vocabulary)
    record, settings, overwrite, outputs = job.binding(models)
    claim(record, settings, overwrite, outputs)
    if settings["shards"] != job.shards:
        write_json(record, settings | {"shards": job.shards})
    before = {} if job.overwrite else job.time_spent()
    begun = time.monotonic()
    with Parts(job.folder) as parts, cli.progress(sum(item.num_tokens for item in plan), "scoring") as bar:
        cli.skip(bar, sum(item.num_tokens - tokens_missing(item, parts, reader) for item in plan))
        planned = sum(item.num_documents for item in plan)
        tally = Tally(parts, bar, team.status, planned - documents_missing(plan, parts))
        missing = units(plan, parts, reader, job.overwrite, models)
        try:
            for _, unit, piece in team.run(read_ahead(missing, 2 * team.num_workers)):
                tally.add(unit, piece)
        finally:
            if scored := bar.n - bar.initial:
                now = {
                    "tokens": before.get("tokens", 0) + scored,
                    "seconds": round(before.get("seconds", 0) + time.monotonic() - begun, 1),
                    "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
                }
                write_json(job.folder / TIMES, now)
    return stretches(plan, parts), planned - documents_missing(plan, parts)


def _write_tables(found: list[Stretch], num_scored: int, job: Job) -> Health:
    """Merge the parts into the tables, and print what was written."""
    health = merge_parts(found, job.out, job.steps_out if job.steps.wanted else None)
    print(f"wrote {health.num_rows:,} scores to {job.out} and {job.out.with_suffix('.parquet')}")
    if job.steps.wanted:
        print(f"wrote the scores of their steps to {job.steps_out} and {job.steps_out.with_suffix('.parquet')}")
        print(f"select from those: python rank_scores.py --scores {job.steps_out} --max_repetition 1 --dedup none")
    if skipped := num_scored - health.num_rows:
        print(f"skipped {skipped:,} documents with nothing to predict: less than two tokens, or chats without answer")
    return health


def _record(team: Team, job: Job, health: Health) -> dict:
    """How the table was made."""
    models = team.description
    return {
        **job.flags,
        "summary": models.summary,
        "data": job.data,
        "sample": None if job.sample == 1 else job.sample,
        "prefilter": job.prefilter and asdict(job.prefilter),
        "num_shards": len({item.path for item in job.plan}),
        "eot_id": job.reader.eot_id,
        "eot_side": job.reader.eot_side,
        "token_dtype": job.reader.token_dtype,
        "steps": job.steps.wanted,
        "step_separator": job.steps.separator,
        "device": models.device,
        "dtype": models.dtype,
        "compiled": models.compiled,
        "num_workers": team.num_workers,
        "num_documents": health.num_rows,
        "num_tokens": health.num_tokens,
        "scoring": job.time_spent(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }
