"""A scored pilot to a predictor and its price list."""

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from common import cli
from common.errors import InputError
from common.export.sources import Counts
from common.export.text import TextSource, scored_texts
from common.files import claim, file_digest, is_unclaimed, read_json, remove, scratch, write_json
from common.prefilter.features import features_of
from common.prefilter.predictor import FOLDS, PREDICTOR, fit, held_out
from common.prefilter.price_list import CHANCE, SHARES, Price, price
from common.shards.reader import ShardReader
from common.table.names import RECORDED, record_of
from common.table.schema import SLICES, TABLE_SCHEMA
from common.table.tables import column_names, read_score_batches
from common.text.corpus import hash_of
from common.text.kept import PREDICTED

MIN_DOCUMENTS = 100  # of a domain, with a score
RECORD, CLAIM = "learn.json", ".learn.json"
KEPT = "kept"  # what `apply` writes
FEW = "too few documents in the pilot"
CURVES, NUMBERS = ("tokens", "recall", "low", "high"), ("documents", "gain", "gain_low")  # of a `Price`
SCORES = [field.name for field in TABLE_SCHEMA if pa.types.is_floating(field.type)]


@dataclass(frozen=True)
class LearnOptions:
    """What is learnt.

    Attributes:
        score: the column of the table whose rank is predicted.
        top_pct: the percentage of each domain that is selected in the end.
        overwrite: replace what was learnt from another pilot, or with other options.
    """

    out_dir: Path
    score: str
    top_pct: float
    overwrite: bool


@dataclass(frozen=True)
class Learnt:
    """What was learnt.

    Attributes:
        score: the column whose rank is predicted.
        top_pct: the percentage that the prices are of.
        prices: of each domain for which there is a predictor.
        whole: why a domain is scored whole, for those that are.
        digest: of the predictor.
        pilot: how it was scored, as far as that is known: `RECORDED`.
    """

    score: str
    top_pct: float
    prices: dict[str, Price]
    whole: dict[str, str]
    digest: str
    pilot: dict

    def price(self, domain: str) -> Price | None:
        """The price list of a domain; None if it is scored whole."""
        return None if domain in self.whole else self.prices.get(domain)

    @classmethod
    def read(cls, folder: Path) -> "Learnt":
        """Read the record in a folder; InputError if it is none, or the predictor beside it is another."""
        found, path = read_json(folder / RECORD), folder / PREDICTOR
        try:
            prices = {name: Price(**each) for name, each in found["prices"].items()}
            learnt = cls(
                found["score"], found["top_pct"], prices, found["whole"], found["predictor"], found.get("pilot", {})
            )
            learnt._check()
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{folder / RECORD}: not a record of this version; make it with learn again") from None
        if not path.exists() or file_digest(path).hex() != learnt.digest:
            raise InputError(f"{path}: not the predictor of {RECORD} beside it; make both with learn again")
        return learnt

    def _check(self) -> None:
        """Raise ValueError for a value of another type, or a curve that is not a share at each of `SHARES`."""
        prices = self.prices.values()
        curves = np.array([getattr(each, name) for each in prices for name in CURVES])
        numbers = np.array([self.top_pct, *(getattr(each, name) for each in prices for name in NUMBERS)])
        is_right = (
            isinstance(self.whole, dict)
            and isinstance(self.pilot, dict)
            and self.score in SCORES
            and {curves.dtype.kind, numbers.dtype.kind} <= {*"if"}
            and curves.shape == (len(CURVES) * len(prices), len(SHARES))
            and ((curves >= 0) & (curves <= 1)).all()
            and np.isfinite(numbers).all()
        )
        if not is_right:
            raise ValueError


def learn(options: LearnOptions, source: TextSource, reader: ShardReader, total: Counts) -> Learnt:
    """Learn from a score table and the texts of its documents; write the predictor and its record into a folder.

    Call it as the sole writer of the folder.

    Args:
        total: as in `scored_texts`.
    Raises:
        InputError: as in `scored_texts`; the table is no fair sample, or no domain has enough documents.
    """
    folder = options.out_dir
    if not source.selection.is_file():
        raise InputError(f"{source.selection}: no such file; make it with attention_influence_scoring.py --sample")
    made = {
        "scores": str(source.selection),
        "digest": file_digest(source.selection).hex(),
        **{name: getattr(source, name) for name in ("text_column", "from_tokens", "tokenizer")},
        **{name: getattr(options, name) for name in ("score", "top_pct")},
    }
    claiming = folder / CLAIM, made, options.overwrite, PREDICTOR
    is_unclaimed(*claiming)
    scored = _record(source.selection)
    _check_fair(source.selection, scored)
    features, table = _pilot(options, source, reader, total)
    sizes = table["domain"].value_counts()
    enough = table["domain"].isin(sizes.index[sizes >= MIN_DOCUMENTS]).to_numpy()
    if not enough.any():
        raise InputError(
            f"{source.selection}: no domain has {MIN_DOCUMENTS} documents with a finite {options.score}; score a "
            "larger sample: attention_influence_scoring.py --sample"
        )
    whole = dict.fromkeys(sorted(sizes.index[sizes < MIN_DOCUMENTS]), FEW)
    features, table = features[enough], table[enough].reset_index(drop=True)
    ranks = (table.groupby("domain")["score"].rank(pct=True) - 0.5).to_numpy()
    domains = table["domain"].to_numpy(str)
    table["predicted"] = held_out(features, ranks, domains, table["fold"].to_numpy())
    prices = {
        name: price(*(own[column].to_numpy() for column in ("predicted", "score", "tokens")), options.top_pct)
        for name, own in table.groupby("domain")
    }
    whole |= {name: CHANCE for name, each in prices.items() if each.is_chance}
    claim(*claiming)
    fit(features, ranks, domains).write(folder / PREDICTOR)
    digest = file_digest(folder / PREDICTOR).hex()
    record = {**made, "documents": len(table), "whole": whole, "predictor": digest}
    record["pilot"] = {name: value for name, value in scored.items() if name in RECORDED}
    record["prices"] = {name: dataclasses.asdict(each) for name, each in prices.items()}
    _remove_kept(folder, record)
    write_json(folder / RECORD, record)
    return Learnt(options.score, options.top_pct, prices, whole, digest, record["pilot"])


def _check_fair(scores: Path, record: dict) -> None:
    """Raise InputError for a table that is no fair sample of a corpus; warn if its record does not say that it is."""
    for table in read_score_batches(scores):
        if PREDICTED not in table.column_names:
            break
        if np.isfinite(pd.to_numeric(table[PREDICTED].to_pandas(), errors="coerce")).any():
            raise InputError(
                f"{scores}: a prefilter chose these documents (column {PREDICTED}), so they are no fair sample; "
                "tokenize without --prefilter and score with --sample"
            )
    if {*SLICES.names} <= {*column_names(scores)}:
        raise InputError(
            f"{scores}: a selection (columns {', '.join(SLICES.names)}), which is no fair sample; name the score table "
            "of the pilot"
        )
    if not record.get("sample"):
        where = record_of(scores)
        cli.warn(f"{where}: does not say --sample; the prices are right only if the pilot is a fair sample, or all")


def _record(scores: Path) -> dict:
    with suppress(InputError):
        return read_json(record_of(scores))
    return {}


def _remove_kept(folder: Path, record: dict) -> None:
    """Remove what was kept with another record than this one."""
    with suppress(InputError):
        if read_json(folder / RECORD) == json.loads(json.dumps(record)):
            return
    kept = [path for suffix in (".json", ".parquet") if (path := folder / f"{KEPT}{suffix}").exists()]
    remove(*kept)
    if kept:
        print(f"deleted {' and '.join(map(str, kept))}: made with another {RECORD}; run apply again")


def _pilot(
    options: LearnOptions, source: TextSource, reader: ShardReader, total: Counts
) -> tuple[np.ndarray, pd.DataFrame]:
    """The features of the documents with a finite score, and their domain, tokens that were scored, score and fold."""
    features, tables, has_text = [], [], False
    with scratch(options.out_dir / RECORD) as spare:
        for texts, scores in scored_texts(source, reader, spare, total):
            has_text = has_text or any(texts)
            features.append(features_of(texts))
            table = scores.select(["domain", "num_tokens", "scored_tokens"]).to_pandas()
            table["tokens"] = table["scored_tokens"].fillna(table["num_tokens"])  # fewer with --score_tokens
            table["score"] = scores[options.score].to_numpy()
            table["fold"] = [hash_of(text.encode("utf-8", "replace")) % FOLDS for text in texts]
            tables.append(table)
    if not has_text:
        raise InputError(
            f"{source.selection}: no document has a text, as it was when it was scored; name its column with "
            "--text_column, or take the texts from the shards: --from_tokens"
        )
    table = pd.concat(tables, ignore_index=True)
    finite = np.isfinite(table["score"].to_numpy(float))
    if not finite.any():
        raise InputError(f"{source.selection}: no document has a finite {options.score}; name another --score")
    return np.concatenate(features)[finite], table[finite].reset_index(drop=True)
