"""A cheap predictor of the score, and what it keeps of a corpus."""

import json
from pathlib import Path

import pandas as pd

import fineweb
import prefilter_scores
from common.shards.index import read_index
from tests.prefilter.conftest import SIZES, repeats, rows

APPLY = ["apply", "--input", "raw", "--domain_column", "kind"]


def kept(*flags):
    """Apply; the table, and the record."""
    prefilter_scores.main([*APPLY, *flags])
    return pd.read_parquet("data/prefilter/kept.parquet"), json.loads(Path("data/prefilter/kept.json").read_text())


def test_a_function_of_the_text_is_learnt_and_chance_and_few_documents_are_told(pilot, capsys):
    record = json.loads((pilot / "data/prefilter/learn.json").read_text())
    assert record["prices"].keys() == {"told", "random"}
    told = record["prices"]["told"]
    assert told["documents"] == SIZES["told"]
    assert told["recall"][39] > 0.97
    assert record["whole"] == {
        "random": "the predictor is no better than chance",
        "tiny": "too few documents in the pilot",
    }
    lines = (pilot / "data/prefilter/price_list.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["domain", "share", "tokens", "recall", "low", "high"]
    assert len(lines) == 1 + 2 * 20
    assert (pilot / "data/prefilter/price_list.png").read_bytes().startswith(b"\x89PNG")


def test_exactly_the_share_is_kept_and_other_domains_are_kept_whole(learnt, capsys):
    table, record = kept("--keep", "0.4")
    assert record["domains"].keys() == {"told", "random", "tiny", "new"}
    for name, domain in record["domains"].items():
        own = table[table["domain"] == name]
        assert domain["kept"] == own["kept"].sum() == (49 if name == "told" else len(own))  # 0.4 of 122, rounded up
        assert domain["characters"] == own["characters"].sum()
        assert domain["kept_characters"] == own["characters"][own["kept"]].sum()
        assert (domain["recall"] is None) == (name != "told")
    told = table[table["domain"] == "told"]
    assert told["predicted"][told["kept"]].min() >= told["predicted"][~told["kept"]].max()
    texts = {
        row["id"]: row["text"]
        for first in (1000, 2000)
        for row in rows(first, {"told": 61, "random": 10, "tiny": 5, "new": 3})
    }
    true = told["id"].map(lambda name: repeats(texts[name]))
    assert told["kept"][true >= true.quantile(0.8)].mean() > 0.97
    assert "new: 6 of 6 documents, 100% of the text; whole" in capsys.readouterr().out


def test_rows_are_those_of_the_index_of_fineweb(learnt, bytes_folder):
    table, _ = kept("--keep", "0.4")
    fineweb.main(["--tokenizer", bytes_folder, "--out_dir", "shards", *APPLY[1:]])
    index = pd.concat(read_index(path)[0].to_pandas() for path in sorted(Path("shards").glob("*.index.parquet")))
    names = ["file", "row", "id", "domain"]
    pd.testing.assert_frame_equal(table[names], index[names].reset_index(drop=True))


def test_recall_takes_the_smallest_share_whose_lower_edge_reaches_it(learnt, pilot):
    _, record = kept("--recall", "0.9")
    told = json.loads((pilot / "data/prefilter/learn.json").read_text())["prices"]["told"]
    share = record["domains"]["told"]["share"]
    assert told["low"][round(share * 100) - 1] >= 0.9 > told["low"][round(share * 100) - 2]
    assert record["domains"]["told"]["recall"]["low"] >= 0.9
