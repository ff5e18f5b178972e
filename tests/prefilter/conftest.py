"""A pilot: documents in three domains, tokenized, with scores of which one is a function of the text."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefilter_scores
from tests.conftest import SENTENCES, write_jsonl
from tests.export.conftest import scored

WORDS = " ".join(SENTENCES).split()
SIZES = {"told": 240, "random": 120, "tiny": 20}
RAW = {"told": 61, "random": 10, "tiny": 5, "new": 3}


def text_of(number: int) -> str:
    """Some words; the vocabulary is small where the document repeats itself."""
    rng = random.Random(number)
    own = rng.sample(WORDS, rng.randint(5, 80))
    return " ".join(rng.choices(own, k=80))


def repeats(text: str) -> float:
    """The share of the words that were there before."""
    words = text.split()
    return 1 - len({*words}) / len(words)


def rows(first: int, sizes: dict[str, int]) -> list[dict]:
    domains = [domain for domain, size in sizes.items() for _ in range(size)]
    random.Random(first).shuffle(domains)
    return [
        {"text": text_of(number), "id": f"id {number}", "kind": domain} for number, domain in enumerate(domains, first)
    ]


@pytest.fixture(scope="session")
def pilot(tmp_path_factory, bytes_folder):
    """A folder with `pilot.jsonl`, its shards and `scores.parquet`: the score of `told` is how much a text repeats."""
    folder = tmp_path_factory.mktemp("pilot")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        documents = rows(0, SIZES)
        write_jsonl("pilot.jsonl", documents)
        table = scored(bytes_folder, "--input pilot.jsonl --domain_column kind")
        known = {row["id"]: repeats(row["text"]) for row in documents}
        drawn = np.random.default_rng(0).random(len(table))
        scores = [
            known[name] if domain == "told" else chance
            for name, domain, chance in zip(table["id"].to_pylist(), table["domain"].to_pylist(), drawn, strict=True)
        ]
        place = table.column_names.index("AI_Score")
        table = table.set_column(place, "AI_Score", pa.array(scores)).drop_columns(["shard", "start", "end"])
        pq.write_table(table, "scores.parquet")
        Path("scores.json").write_text('{"sample": 0.01, "base_model": "base", "seq_len": 64}')
        prefilter_scores.main(["learn", "--scores", "scores.parquet"])
    return folder


@pytest.fixture
def learnt(pilot, tmp_path, monkeypatch):
    """A folder with the predictor, and files `raw/0.jsonl` and `raw/1.jsonl` to apply it to."""
    for name in ("predictor.json", "learn.json"):
        Path(tmp_path, "data/prefilter").mkdir(parents=True, exist_ok=True)
        Path(tmp_path, "data/prefilter", name).write_bytes((pilot / "data/prefilter" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    for number in range(2):
        write_jsonl(f"raw/{number}.jsonl", rows(1000 * (1 + number), RAW))
    return tmp_path
