"""Predictions for a whole corpus, file by file, and which of its documents are kept."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common import cli
from common.errors import InputError, few
from common.files import as_path, atomic, claim, read_json, remove, scratch, write_json
from common.prefilter.features import LONGEST, features_of
from common.prefilter.learning import KEPT, Learnt
from common.prefilter.predictor import PREDICTOR, Predictor
from common.prefilter.price_list import Price
from common.table.tables import duckdb_errors, literal
from common.text.corpus import Columns, RowReader, SourceDocument, hash_of, read_files
from common.text.fineweb import file_state, input_files
from common.text.rows import text_bytes
from common.workers.team import EngineOptions, workers

PARTS, RECORD = "parts", "parts.json"  # a folder in that of the predictor, and what its files are of
BATCH_DOCUMENTS = 256
MEMORY = "1GB"
SCHEMA = pa.schema(
    [
        *(("file", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("domain", pa.string())),
        *(("characters", pa.int64()), ("predicted", pa.float32())),
    ]
)


@dataclass(frozen=True)
class ApplyOptions:
    """What is kept.

    Attributes:
        input: files, folders, globs and URLs.
        keep: the share of each domain's documents, rounded up; or None.
        recall: of the true selection in each domain, which chooses the share; or None.
        on_bad_row: `stop` or `skip`.
        overwrite: replace what was kept with other options, and predictions of files that have changed or are gone.
    """

    out_dir: Path
    input: Sequence[str]
    keep: float | None
    recall: float | None
    on_bad_row: str
    overwrite: bool


def apply(options: ApplyOptions, columns: Columns, engine: EngineOptions) -> dict:
    """Predict each document of a corpus and write which are kept; returns the record, `kept.json`.

    A stopped run goes on after its last finished file, and one with more files predicts only those that are new. Call
    it as the sole writer of the folder.

    Raises:
        InputError: nothing was learnt, a file is damaged, or the folder holds the work of another run.
    """
    folder, learnt = options.out_dir, Learnt.read(options.out_dir)
    paths, record = input_files(options.input), folder / f"{KEPT}.json"
    inputs = {name: state for name, *state in map(file_state, paths)}
    settings = {"model": learnt.digest, "columns": vars(columns), "inputs": inputs}
    chosen = {"keep": options.keep, "recall": options.recall, "score": learnt.score, "top_pct": learnt.top_pct}
    _refuse_others(record, chosen, options.overwrite)
    is_first = not record.with_suffix(".parquet").exists()  # one that was stopped may have left it alone
    inputs_before = read_json(record).get("inputs") if record.exists() else None
    reader = RowReader(columns, options.on_bad_row == "skip")
    next(chain.from_iterable(read_files([path], reader) for path in paths), None)  # wrong columns must change nothing
    _claim_parts(folder / PARTS / RECORD, settings, options.overwrite)
    parts = {str(path): folder / PARTS / _part_of(*each) for path, each in zip(paths, inputs.items(), strict=True)}
    stale = {*(folder / PARTS).glob("*.parquet")} - {*parts.values()}
    remove(*stale)
    if stale:
        print(f"{folder / PARTS}: deleted predictions of files that have changed or are not in --input: {len(stale):,}")
    _predict(parts, options, columns, engine)
    domains = _keep([*parts.values()], folder, options, learnt)
    result = {**chosen, "model": learnt.digest, "pilot": learnt.pilot, "domains": domains, "columns": vars(columns)}
    write_json(record, result | {"inputs": inputs})
    if not is_first and inputs_before != inputs:
        print(
            f"{record}: of other files than before, so the cut of a domain may have moved; fineweb.py refuses to add "
            "to shards of the old cut if it keeps others of their documents now"
        )
    return result


def _predict(parts: dict[str, Path], options: ApplyOptions, columns: Columns, engine: EngineOptions) -> None:
    """Write the parts that are not there yet, each by the name of its file."""
    make = partial(FilePredictor, str(options.out_dir / PREDICTOR), columns, options.on_bad_row == "skip")
    units = [(path, str(part)) for path, part in parts.items() if not part.exists()]
    sizes = {path: text_bytes(as_path(path), columns.text) for path in parts}
    with (
        workers(engine, make, FilePredictor.rest_after, on_gpu=False, processes=True) as team,
        cli.progress(sum(sizes.values()), "predicting", unit="characters") as bar,
    ):
        cli.skip(bar, bar.total - sum(sizes[path] for path, _ in units))
        for _, _, characters in team.run(units):
            bar.set_postfix_str(team.status().lstrip(", "), refresh=False)
            bar.update(characters or 0)
        for (path, _), reason in team.set_aside:
            raise InputError(f"{path}: three workers were lost while they read it ({reason}); run the same again")


def _part_of(name: str, state: list) -> str:
    """The name of a file's predictions, another if the file has changed."""
    return f"{hash_of(json.dumps([name, *state]).encode()):016x}.parquet"


def _claim_parts(record: Path, settings: dict, overwrite: bool) -> None:
    """Bind the parts to these settings, also if files were added since; with `overwrite`, if files changed or are gone.

    Raises:
        InputError: the parts are of other settings.
    """
    before = read_json(record) if record.exists() else settings
    is_same = before | {"inputs": 0} == settings | {"inputs": 0} and isinstance(before.get("inputs"), dict)
    goes_on = is_same and (overwrite or before["inputs"].items() <= settings["inputs"].items())
    claim(record, before if goes_on else settings, overwrite and not goes_on, "*.parquet")
    write_json(record, settings)


def _refuse_others(record: Path, chosen: dict, overwrite: bool) -> None:
    before = read_json(record) if record.exists() else chosen
    if not overwrite and (changed := [name for name, value in chosen.items() if before.get(name) != value]):
        detail = "; ".join(f"{name} was {before.get(name)}, is {chosen[name]}" for name in changed)
        raise InputError(f"{record}: of another choice ({detail}); give --overwrite, or another --prefilter")


class FilePredictor:
    """A worker that reads a file and writes the predictions of its documents, whole or not at all.

    For a unit, the path of the file and that of its part, it yields the characters of some documents, again and again,
    and in the end None.

    Args:
        predictor: its path.
        skip: skip rows that cannot be used.
    """

    def __init__(self, predictor: str, columns: Columns, skip: bool):
        self._predictor, self.description = Predictor.read(as_path(predictor)), predictor
        self._columns, self._skip = columns, skip

    def __call__(self, unit: tuple[str, str]) -> Iterator[int | None]:
        path, part = map(as_path, unit)
        reader = RowReader(self._columns, self._skip)
        with atomic(part) as tmp, pq.ParquetWriter(tmp, SCHEMA) as writer:
            documents = map(_beginning, read_files([path], reader))
            while batch := list(islice(documents, BATCH_DOCUMENTS)):
                writer.write_table(table := self._predicted(batch))
                yield pc.sum(table["characters"]).as_py()
        if reader.num_skipped:
            cli.warn(f"{path}: {reader.num_skipped:,} rows skipped, the first: {reader.first_skipped}")
        yield None

    @staticmethod
    def rest_after(unit: tuple[str, str], piece: int | None) -> tuple[str, str] | None:
        """The unit, until it is done: a file is begun again."""
        return None if piece is None else unit

    def _predicted(self, found: list[tuple[SourceDocument, int]]) -> pa.Table:
        batch, lengths = zip(*found, strict=True)
        features = features_of([document.text for document in batch])
        named = {name: [getattr(each, name) for each in batch] for name in ("file", "row", "id", "domain")}
        predicted, domains = np.full(len(batch), np.nan, np.float32), np.array(named["domain"])
        for name in self._predictor.domains.keys() & {*named["domain"]}:
            predicted[domains == name] = self._predictor(name, features[domains == name])
        named["characters"] = lengths
        return pa.table({**named, "predicted": pa.array(predicted, from_pandas=True)}, SCHEMA)


def _beginning(document: SourceDocument) -> tuple[SourceDocument, int]:
    """A document with so much of its text as is looked at, and the characters of all of it."""
    return replace(document, text=document.text[:LONGEST]), len(document.text)


def _keep(parts: list[Path], folder: Path, options: ApplyOptions, learnt: Learnt) -> dict[str, dict]:
    """Write `kept.parquet`, by file and row, and remove the record of an older one; the counts of each domain."""
    out, rows = folder / f"{KEPT}.parquet", f"read_parquet([{', '.join(map(literal, parts))}])"
    with (
        scratch(out) as spare,
        duckdb_errors(f"{out}: cannot be written"),
        duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": str(spare / "spilled")}) as database,
    ):
        counted = database.sql(f"SELECT domain, count(*), sum(characters) FROM {rows} GROUP BY domain").fetchall()
        if not any(characters for *_, characters in counted):
            raise InputError(f"{' '.join(options.input)}: no text in it; give other files, or another --text_column")
        sizes = {name: documents for name, documents, _ in counted}
        if not sizes.keys() & learnt.prices.keys():
            raise InputError(
                f"no document is of a domain that was learnt ({few(sorted(learnt.prices))}), but of "
                f"{few(sorted(sizes))}; name the right --domain_column"
            )
        prices = {name: learnt.price(name) for name in sorted(sizes)}
        shares = {name: _share(each, options) for name, each in prices.items()}
        most = {name: math.ceil(Fraction(str(share)) * sizes[name]) for name, share in shares.items()}
        database.register("limits", pa.table([list(most), list(most.values())], ["domain", "most"]))
        best_first = "PARTITION BY domain ORDER BY predicted DESC NULLS LAST, file, row"
        with atomic(out) as tmp:
            database.sql(f"""COPY (
                SELECT file, row, id, domain, characters, predicted, row_number() OVER ({best_first}) <= most AS kept
                FROM {rows} JOIN limits USING (domain) ORDER BY file, row
            ) TO {literal(tmp)} (FORMAT parquet)""")
            kept = database.sql(f"""
                SELECT domain, count(*), count(*) FILTER (kept), sum(characters)::BIGINT,
                    coalesce(sum(characters) FILTER (kept), 0)::BIGINT
                FROM read_parquet({literal(tmp)}) GROUP BY domain ORDER BY domain
            """).fetchall()
            remove(out.with_suffix(".json"))  # last, so that a record never describes another table
    names = ("documents", "kept", "characters", "kept_characters")
    return {
        name: dict(zip(names, counts, strict=True))
        | {"share": shares[name], "recall": prices[name].at(shares[name]) if prices[name] else None}
        for name, *counts in kept
    }


def _share(price: Price | None, options: ApplyOptions) -> float:
    """The share of a domain that is kept."""
    if price is None:
        return 1.0
    return price.share_for(options.recall) if options.keep is None else options.keep
