"""The sources of a training run belong together, and say how large they are."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.shards.reader import ShardReader
from common.training.mixture import Mixture
from common.training.pretraining import open_streams
from tests.conftest import write_shards

RECALL = ["estimate", "low", "high"]
MIX = {"selected": 0.75, "baseline": 0.25}


@pytest.fixture
def corpora(tmp_path):
    """Two folders of shards with 20 documents of 5 tokens, and a selection of 4 documents of the first."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths = write_shards(tmp_path / name, [[7] * 4] * 20, ["a"] * 20, shard_size=30)
    paths = sorted((tmp_path / "one").glob("*.bin"))
    rows = [(str(path), *map(int, ShardReader().open(path).spans[0])) for path in paths[:4]]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], names=["shard", "start", "end"])
    pq.write_table(table, tmp_path / "top.parquet")
    return tmp_path


def streams(folder, *data: str, allow: bool = False):
    return open_streams(
        MIX, [f"{folder}/top.parquet"], [f"{folder}/{name}/*.bin" for name in data], None, ShardReader(), allow
    )


def test_a_selection_from_other_shards_is_refused_unless_allowed(corpora):
    assert streams(corpora, "one").keys() == streams(corpora, "two", "one").keys() == MIX.keys()
    with pytest.raises(InputError, match=r"top\.parquet: selected from .*one/.*\.bin, which is not in --data"):
        streams(corpora, "two")
    assert streams(corpora, "two", allow=True).keys() == MIX.keys()


def test_a_baseline_that_went_through_a_prefilter_is_told(corpora, capsys):
    told = "one holds only what a prefilter kept, so it is neither the whole corpus nor a baseline; tokenize the corpus"
    part = {"documents": 50, "kept": 20, "characters": 9, "kept_characters": 4, "recall": dict.fromkeys(RECALL, 0.9)}
    facts = {"model": "f00d", "keep": 0.4, "recall": None, "score": "AI_Score", "top_pct": 20, "domains": {"a": part}}
    (corpora / "one/dataset.json").write_text(json.dumps({"prefilter": facts}))
    streams(corpora, "one")
    assert told in capsys.readouterr().err
    streams(corpora, "two", allow=True)  # as the warning says
    open_streams(["selected"], [f"{corpora}/top.parquet"], [f"{corpora}/one/*.bin"], None, ShardReader(), False)
    facts["domains"]["a"] |= {"documents": 20, "characters": 4}
    for record in (json.dumps({"prefilter": facts}), '{"prefilter": "x"}', "{"):
        (corpora / "one/dataset.json").write_text(record)
        streams(corpora, "one")
        assert "prefilter" not in capsys.readouterr().err


def test_shards_can_be_what_is_selected(corpora):
    shards = f"{corpora}/two/*.bin"
    found = open_streams(MIX, [shards], [f"{corpora}/one/*.bin"], None, ShardReader(), False)
    assert [stream.num_documents for stream in found.values()] == [20, 20]
    assert found["selected"].names == [str(path)[:-4] for path in sorted((corpora / "two").glob("*.bin"))]


def test_each_source_says_how_often_it_is_read(corpora):
    mixture = Mixture(streams(corpora, "one"), MIX, seq_len=8, num_sequences=20)
    assert list(mixture.sources()) == [
        "selected: 4 documents, 20 tokens; 75% of the training, 120 tokens, 6 epochs",
        "baseline: 20 documents, 100 tokens; 25% of the training, 40 tokens, 0.4 epochs",
    ]
