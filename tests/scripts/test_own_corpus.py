"""A corpus shaped like FineWeb-Edu's parquet goes through the steps, with all its columns."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import attention_influence_scoring
import export_selection
import fineweb
import join_scores
import rank_scores
from common.shards.reader import ShardReader
from common.text.tokenization import load_tokenizer
from tests.conftest import MASKED, error_of, save_pair
from tests.scripts.conftest import sentence

SCORE = "--base_model model --data shards/*.bin --seq_len 64 --out ai_scores.tsv"
# The columns of FineWeb-Edu, and one of another kind.
SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "id": pa.string(),
        "dump": pa.string(),
        "url": pa.string(),
        "file_path": pa.string(),
        "language": pa.string(),
        "language_score": pa.float64(),
        "token_count": pa.int64(),
        "score": pa.float64(),
        "int_score": pa.int64(),
        "crawled": pa.timestamp("ms", "UTC"),
    }
)
TEXTS = [" ".join(sentence(n % 997 + m) for m in range(1 + n % 5)) for n in range(2400)]


def write(path: str, first: int, last: int) -> None:
    """Rows of the corpus: `dump` is in the folder's name, some `score` and `id` are null, and an id is there twice."""
    rows = [
        {
            "text": TEXTS[n],
            "id": None if n % 50 == 7 else f"<urn:uuid:{n if n != 11 else 10}>",
            "url": f"https://example.org/{n}",
            "file_path": f"s3://commoncrawl/{n % 7}.warc.gz",
            "language": "en",
            "language_score": 0.65 + n % 30 / 100,
            "token_count": len(TEXTS[n].split()),
            "score": None if n % 40 == 3 else 2.5 + n % 11 / 5,
            "int_score": 3 + n % 2,
            "crawled": datetime(2024, 5, 1 + n % 28),
        }
        for n in range(first, last)
    ]
    schema = SCHEMA.remove(SCHEMA.get_field_index("dump"))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=500)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, bpe_folder):
    folder = tmp_path_factory.mktemp("edu")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_pair(folder, bpe_folder, MASKED)
        write("edu/dump=CC-MAIN-2024-10/000_00000.parquet", 0, 1300)
        tokenize()
        attention_influence_scoring.main(SCORE.split())
        write("edu/dump=CC-MAIN-2024-18/000_00000.parquet", 1300, 2400)
        tokenize()
        (folder / "before.json").write_text((folder / "ai_scores.parts/time.json").read_text())
        attention_influence_scoring.main(SCORE.split())
    return folder


def tokenize(*flags: str) -> None:
    command = "--input edu --tokenizer model --domain_column language --keep_columns all --shard_size 20000"
    fineweb.main([*command.split(), "--out_dir", "shards", *flags])


def test_the_scores_stand_beside_all_columns_of_the_source(scored):
    table = pq.read_table(scored / "ai_scores.parquet")
    source = pa.concat_tables(
        pq.read_table(path, partitioning=None).append_column("dump", pa.array([path.parent.name[5:]] * rows))
        for path, rows in zip(sorted(scored.glob("edu/*/*.parquet")), (1300, 1100), strict=True)
    )
    files = [str(path.relative_to(scored)) for path in sorted(scored.glob("edu/*/*.parquet"))]
    assert table["file"].to_pylist() == [files[0]] * 1300 + [files[1]] * 1100
    assert table["row"].to_pylist() == [*range(1300), *range(1100)]
    kept = [name for name in SCHEMA.names if name not in ("text", "id")]
    for name in kept:
        assert table[name].equals(source[name].cast(table.schema.field(name).type)), name
        assert table.schema.field(name).type == SCHEMA.field(name).type
    ids = source["id"].to_pylist()
    expected = [each or f"{files[0]}:row {n + 1}" for n, each in enumerate(ids[:1300])]
    assert table["id"].to_pylist()[:1300] == expected
    assert ids.count("<urn:uuid:10>") == table["id"].to_pylist().count("<urn:uuid:10>") == 2


def test_the_tsv_has_the_same_values(scored):
    parquet, tsv = pd.read_parquet(scored / "ai_scores.parquet"), pd.read_csv(scored / "ai_scores.tsv", sep="\t")
    assert list(tsv) == list(parquet)
    for name in ("id", "file", "row", "dump", "int_score", "text_hash"):
        assert tsv[name].tolist() == parquet[name].tolist()
    np.testing.assert_allclose(tsv["score"], parquet["score"])


CHOICE = [
    "--where",
    "language_score > 0.7 and crawled < DATE '2024-05-20'",
    "--score",
    "0.5 * pct(AI_Score) + 0.5 * pct(score)",
]


def test_the_selection_is_by_columns_of_the_source_and_keeps_them(scored, monkeypatch):
    monkeypatch.chdir(scored)
    rank_scores.main(["--scores", "ai_scores.tsv", *CHOICE, "--max_repetition", "1", "--dedup", "none"])
    table, found = pq.read_table("ai_scores.parquet"), pq.read_table("top20.parquet")
    assert found.schema.names == [*table.schema.names, "rank_score", "shard", "start", "end"]
    assert all(found.schema.field(field.name).type == field.type for field in table.schema)
    rows = table.to_pandas()
    fit = rows[(rows["language_score"] > 0.7) & (rows["crawled"] < pd.Timestamp("2024-05-20", tz="UTC"))]
    fit = fit.dropna(subset="score")  # only documents that have a rank in both are compared
    ranks = [fit.groupby("domain")[name].rank(pct=True) for name in ("AI_Score", "score")]
    best = (
        fit.assign(by=(ranks[0] + ranks[1]) / 2).dropna(subset="by").sort_values("by", ascending=False, kind="stable")
    )
    assert found["doc_id"].to_pylist() == best["doc_id"].head(-(-len(best) // 5)).tolist()


def test_scores_come_back_and_the_selection_goes_to_another_tokenizer(scored, monkeypatch, bytes_folder):
    monkeypatch.chdir(scored)
    rank_scores.main(["--scores", "ai_scores.tsv", *CHOICE, "--out", "chosen.tsv"])
    join_scores.main(["--scores", "ai_scores.parquet", "--out_dir", "joined"])
    export_selection.main("--selection chosen.parquet --format parquet --out_dir selected".split())
    table, selected = (pq.read_table(name).to_pandas() for name in ("ai_scores.parquet", "chosen.parquet"))
    exported, sources = [], {path: pq.read_table(path, partitioning=None) for path in sorted(set(table["file"]))}
    for path, source in sources.items():
        joined, scores = pq.read_table(f"joined/{path[4:]}"), table[table["file"] == path].set_index("row")
        assert joined["id"].equals(source["id"])
        expected = scores["AI_Score"].reindex(range(len(source)))
        np.testing.assert_array_equal(joined["AI_Score"].to_numpy(), expected.to_numpy())
        rows = sorted(selected[selected["file"] == path]["row"])
        dump = pa.array([Path(path).parent.name[5:]] * len(rows))
        exported.append(source.take(rows).append_column("dump", dump))
    found = pq.read_table("selected/part-00000.parquet")
    for name in exported[0].column_names:
        assert found[name].equals(pa.concat_tables(exported)[name]), name
    assert found.schema.field("crawled").type == SCHEMA.field("crawled").type
    command = "--input selected --keep_columns AI_Score,score --out_dir other --tokenizer"
    fineweb.main([*command.split(), bytes_folder])
    tokenizer, [path] = load_tokenizer(bytes_folder), Path("other").glob("*.bin")
    shard, index = ShardReader().open(path), pq.read_table(path.with_suffix(".index.parquet"))
    texts = [tokenizer.decode(shard.document(row).token_ids[:-1].tolist()) for row in range(len(shard.spans))]
    assert texts == found["text"].to_pylist()
    assert index["source_AI_Score"].to_pylist() == found["AI_Score"].to_pylist()
    assert index["score"].to_pylist() == found["score"].to_pylist()


def test_a_tsv_that_was_changed_by_hand_is_read_and_no_other(scored, monkeypatch):
    monkeypatch.chdir(scored)
    lines = Path("ai_scores.tsv").read_text().splitlines(keepends=True)
    for name in ("fewer.tsv", "fewer.parquet"):
        Path(name).write_bytes(Path("ai_scores").with_suffix(Path(name).suffix).read_bytes())
    Path("fewer.tsv").write_text("".join(lines[:11]))
    rank_scores.main("--scores fewer.tsv --top_pct 100 --max_repetition 1 --dedup none --out fewest.tsv".split())
    assert len(pq.read_table("fewest.parquet")) == 10


def test_files_that_are_added_are_scored_alone(scored, monkeypatch):
    before, after = (json.loads((scored / name).read_text()) for name in ("before.json", "ai_scores.parts/time.json"))
    index = pq.read_table(scored / "ai_scores.parquet", columns=["num_tokens"])["num_tokens"].to_numpy()
    assert before["tokens"] == index[:1300].sum()
    assert after["tokens"] == index.sum()
    monkeypatch.chdir(scored)
    attention_influence_scoring.main([*SCORE.split()[:-1], "whole.tsv"])
    whole, grown = pd.read_parquet("whole.parquet"), pd.read_parquet("ai_scores.parquet")
    pd.testing.assert_frame_equal(whole, grown, rtol=1e-4, atol=1e-6)


def test_shards_that_change_or_go_are_refused(scored, monkeypatch, capsys):
    monkeypatch.chdir(scored)
    fewer = SCORE.replace("shards/*.bin", "shards/fineweb_train_000001.bin")
    assert "of its shards differ" in error_of(attention_influence_scoring, fewer.split(), capsys)
