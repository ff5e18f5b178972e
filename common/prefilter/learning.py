"""A scored pilot to a predictor and its price list."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from common.errors import InputError
from common.export.sources import Counts
from common.export.text import TextSource, scored_texts
from common.files import claim, file_digest, is_unclaimed, read_json, remove, scratch, write_json
from common.prefilter.features import features_of
from common.prefilter.predictor import FOLDS, PREDICTOR, fit, held_out
from common.prefilter.price_list import CHANCE, Price, price
from common.shards.reader import ShardReader
from common.table.schema import TABLE_SCHEMA
from common.text.corpus import hash_of

MIN_DOCUMENTS = 100  # of a domain, with a score
RECORD, CLAIM = "learn.json", ".learn.json"
KEPT = "kept"  # what `apply` writes
FEW = "too few documents in the pilot"
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
        top_pct: the percentage that the prices are of.
        prices: of each domain for which there is a predictor.
        whole: why a domain is scored whole, for those that are.
        digest: of the predictor.
    """

    top_pct: float
    prices: dict[str, Price]
    whole: dict[str, str]
    digest: str

    def price(self, domain: str) -> Price | None:
        """The price list of a domain; None if it is scored whole."""
        return None if domain in self.whole else self.prices.get(domain)

    @classmethod
    def read(cls, folder: Path) -> "Learnt":
        """Read the record in a folder; InputError if it is none, or the predictor beside it is another."""
        found, path = read_json(folder / RECORD), folder / PREDICTOR
        try:
            prices = {name: Price(**each) for name, each in found["prices"].items()}
            learnt = cls(found["top_pct"], prices, found["whole"], found["predictor"])
        except (AttributeError, KeyError, TypeError):
            raise InputError(f"{folder / RECORD}: not a record of this version; make it with learn again") from None
        if not path.exists() or file_digest(path).hex() != learnt.digest:
            raise InputError(f"{path}: not the predictor of {RECORD} beside it; make both with learn again")
        return learnt


def learn(options: LearnOptions, source: TextSource, reader: ShardReader, total: Counts) -> Learnt:
    """Learn from a score table and the texts of its documents; write the predictor and its record into a folder.

    Call it as the sole writer of the folder.

    Args:
        total: as in `scored_texts`.
    Raises:
        InputError: as in `scored_texts`; the score is not known, or no domain has enough documents.
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
        name: price(*(own[column].to_numpy() for column in ("predicted", "score", "num_tokens")), options.top_pct)
        for name, own in table.groupby("domain")
    }
    whole |= {name: CHANCE for name, each in prices.items() if each.is_chance}
    claim(*claiming)
    remove(*(folder / f"{KEPT}{suffix}" for suffix in (".json", ".parquet")))
    fit(features, ranks, domains).write(folder / PREDICTOR)
    digest = file_digest(folder / PREDICTOR).hex()
    record = {**made, "documents": len(table), "whole": whole, "predictor": digest}
    write_json(folder / RECORD, record | {"prices": {name: dataclasses.asdict(each) for name, each in prices.items()}})
    return Learnt(options.top_pct, prices, whole, digest)


def _pilot(
    options: LearnOptions, source: TextSource, reader: ShardReader, total: Counts
) -> tuple[np.ndarray, pd.DataFrame]:
    """The features of the documents with a finite score, and their domain, tokens, score and fold."""
    features, tables = [], []
    with scratch(options.out_dir / RECORD) as spare:
        for texts, scores in scored_texts(source, reader, spare, total):
            features.append(features_of(texts))
            table = scores.select(["domain", "num_tokens"]).to_pandas()
            table["score"] = scores[options.score].to_numpy()
            table["fold"] = [hash_of(text.encode("utf-8", "replace")) % FOLDS for text in texts]
            tables.append(table)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["score"])
    finite = np.isfinite(table["score"].to_numpy(float))
    if not finite.any():
        raise InputError(f"{source.selection}: no document has a finite {options.score}; name another --score")
    return np.concatenate(features)[finite], table[finite].reset_index(drop=True)
