"""The arms of does_it_help.py: which extra documents each reads, and how many tokens of each domain."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.files import remove
from common.shards.index import INDEX_SUFFIX, read_index
from common.shards.reader import ShardReader
from common.shards.writer import DatasetWriter
from common.text.corpus import SourceDocument
from common.text.tokenization import TextTokenizer
from common.training.mixture import DocumentStream, Mixture

EXTRA, FIFTH, NEAREST = 0.235, 0.2, 20  # the paper's share of extra tokens; documents of nearly the same length
RANDOM, CORPUS = "random", "corpus"
# Of each arm, what its documents are sorted by, and whether the highest come first.
SORTED = {
    "AI_Score": ("AI_Score", True),
    "AI_Score_novel": ("AI_Score_novel_5", True),
    "lowest L_base": ("L_base", False),
    "lowest AI_Score": ("AI_Score", False),
}
ARMS = ("AI_Score", "AI_Score_novel", RANDOM, "lowest L_base", "lowest AI_Score", CORPUS)


def documents(folder: Path, scores: Path) -> pd.DataFrame:
    """The pool in the order of its shards: where each document is, and its scores; InputError if one has none."""
    found = []
    for path in sorted(folder.glob("shards/*.bin")):
        index = read_index(path.with_suffix(INDEX_SUFFIX), ["start", "end", "id", "domain"])[0].to_pandas()
        found.append(index[["start", "end", "id", "domain"]].assign(shard=str(path)))
    pool = pd.concat(found).merge(pd.read_parquet(scores), how="left", on=["domain", "id"], validate="1:1")
    if not (pool["num_tokens"] == pool["end"] - pool["start"]).all():
        raise InputError(f"{scores}: not the scores of all documents of the pool; run experiments/pilot.py again")
    return pool.astype({"num_tokens": "int64"})


def best(pool: pd.DataFrame, column: str, highest: bool) -> pd.Index:
    """The rows of the documents that come first by a column, a fifth of the tokens of each domain."""
    ordered = pool.sort_values(column, ascending=not highest, kind="stable")
    tokens = ordered["num_tokens"].groupby(ordered["domain"])
    return ordered.index[tokens.cumsum() - ordered["num_tokens"] / 2 <= FIFTH * tokens.transform("sum")]


def sample(pool: pd.DataFrame, rows: pd.Index, tokens: int, seed: int) -> pd.Series:
    """Random documents of these rows, and how many tokens of each: for each domain its share of the pool's tokens.

    The last document of a domain is cut, so that the tokens of each domain are exact.
    """
    sizes = pool.groupby("domain")["num_tokens"].sum()
    wanted = pd.Series(np.diff(np.round(sizes.cumsum() / sizes.sum() * tokens), prepend=0).astype(int), sizes.index)
    shuffled = pool.loc[rows].sample(frac=1, random_state=seed)
    size, domain = shuffled["num_tokens"], shuffled["domain"]
    before = size.groupby(domain).cumsum() - size
    taken = np.minimum(size, domain.map(wanted) - before)
    if short := [name for name in wanted.index if taken[domain == name].clip(lower=0).sum() < wanted[name]]:
        raise InputError(f"--tokens: a fifth of the domain {short[0]} has not {wanted[short[0]]} tokens; lower it")
    return taken[taken > 0]


def like(pool: pd.DataFrame, taken: pd.Series, seed: int) -> pd.Series:
    """A random document for each of a sample, of its domain and nearly its length, cut to as many tokens."""
    draw, found = np.random.default_rng(seed), {}
    free = pool.sort_values("num_tokens", kind="stable")
    for row, size in taken.sort_values(ascending=False, kind="stable").items():
        fitting = free.index[(free["domain"] == pool.at[row, "domain"]) & (free["num_tokens"] >= size)]
        chosen = draw.choice(fitting[:NEAREST])
        found[chosen], free = size, free.drop(chosen)
    return pd.Series(found)


def samples(pool: pd.DataFrame, tokens: int, seed: int) -> dict[str, pd.Series]:
    """The sample of each arm that reads extra tokens; all have the same number of tokens of each domain."""
    found = {arm: sample(pool, best(pool, *order), tokens, seed) for arm, order in SORTED.items()}
    return found | {RANDOM: like(pool, found["AI_Score"], seed)}


def facts(pool: pd.DataFrame, taken: pd.Series) -> dict:
    """What is read of a sample: documents, their mean length, tokens, those of AI_Score's fifth, tokens by domain."""
    return {
        "documents": len(taken),
        "mean length": float(taken.mean()),
        "tokens": int(taken.sum()),
        "in AI_Score's fifth": int(taken[taken.index.isin(best(pool, *SORTED["AI_Score"]))].sum()),
        "domains": taken.groupby(pool["domain"]).sum().astype(int).to_dict(),
    }


def write(pool: pd.DataFrame, taken: pd.Series, folder: Path, tokenizer: TextTokenizer) -> None:
    """Write a sample as a shard."""
    remove(folder)
    writer, shards = DatasetWriter(folder, tokenizer, int(taken.sum()), 0), {}
    for row, size in taken.items():
        place = pool.loc[row]
        if place["shard"] not in shards:
            shards[place["shard"]] = ShardReader().open(place["shard"]).tokens
        token_ids = shards[place["shard"]][place["start"] : place["start"] + size - 1]
        writer.add(SourceDocument("", place["id"], place["domain"]), token_ids)
    writer.close()


def shares(arm: str) -> dict[str, float]:
    """The mix of an arm."""
    return {"baseline": 1.0} if arm == CORPUS else {"selected": EXTRA, "baseline": 1 - EXTRA}


def drawn(arm: str, pool: pd.DataFrame, seq_len: int, num_sequences: int) -> dict[str, int]:
    """How many tokens an arm reads of the corpus and of its extra documents; InputError if it reads a token twice."""
    stream, _ = by_domain(pool)
    found = Mixture(dict.fromkeys(shares(arm), stream), shares(arm), seq_len, 0, num_sequences).drawn()
    if found["baseline"] > stream.num_tokens:
        raise InputError(
            f"--tokens {num_sequences * seq_len}: {arm} reads {found['baseline']} tokens of the corpus, which has "
            f"{stream.num_tokens}, so more often than in the paper; lower it"
        )
    return found


def by_domain(pool: pd.DataFrame) -> tuple[DocumentStream, list[str]]:
    """The pool as a stream in which each token is the number of its domain, and the domains."""
    codes, names = pd.factorize(pool["domain"], sort=True)
    ends = pool["num_tokens"].cumsum().to_numpy()
    spans = np.stack([ends - pool["num_tokens"], ends], axis=1)
    return DocumentStream([np.repeat(codes, pool["num_tokens"])], np.zeros(len(pool), int), spans), list(names)


def read_by_domain(pool: pd.DataFrame, tokens: int, seed: int) -> dict[str, int]:
    """How many tokens of each domain are among the first that a run reads of the corpus."""
    stream, names = by_domain(pool)
    counts = np.bincount(stream.read(0, tokens, seed), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))
