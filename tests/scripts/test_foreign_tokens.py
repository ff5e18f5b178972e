"""Tokens that Megatron's and OLMo-core's own writers wrote, from the scores to a trainer."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import attention_influence_scoring
import export_selection
import pretrain
import rank_scores
import report
import validate_docs
from common.pages.origins import Origins
from common.shards.reader import ShardReader
from common.text.tokenization import load_tokenizer
from tests.conftest import tiny_model, write_shards
from tests.scripts.conftest import SHARD, page_data, shown_losses, spoil
from tests.shards.test_foreign import write_megatron

OLMO = "--eot_id 2 --token_dtype uint16"


def write_olmo(folder, documents):
    from olmo_core.data.utils import write_array_to_disk

    write_array_to_disk(np.concatenate(documents).astype(np.uint16), folder / "x.npy")


@pytest.fixture(params=[(write_megatron, "theirs/x.bin", ""), (write_olmo, "theirs/x.npy", OLMO)], ids=["bin", "npy"])
def scored(request, run, spm_folder):
    """A run on the documents of the finished run, written by another program: documents, path, flags, scores."""
    write, data, flags = request.param
    shards = [ShardReader().open(path) for path in sorted(run.glob("data/mine/*.bin"))]
    documents = [shard.document(row).token_ids.tolist() for shard in shards for row in range(len(shard.spans))]
    (run / "theirs").mkdir()
    write(run / "theirs", documents)
    command = f"--base_model {spm_folder} --seq_len 64 --data {data} --out theirs/ai_scores.tsv"
    attention_influence_scoring.main(command.split())
    rank_scores.main("--scores theirs/ai_scores.parquet".split())
    return documents, data, flags, pd.read_parquet("theirs/ai_scores.parquet")


def test_their_tokens_have_the_scores_and_the_texts_of_ours(run, spm_folder, scored, capsys):
    documents, data, _, theirs = scored
    ours = pd.read_parquet("data/ai_scores.parquet")
    numbers = ["num_tokens", "L_base", "L_ref", "AI_Score", "repetition"]
    np.testing.assert_allclose(theirs[numbers], ours[numbers], rtol=1e-5)

    selection = pd.read_parquet("theirs/top20.parquet")
    assert set(selection["shard"]) == {data}
    first = selection.iloc[0]
    capsys.readouterr()
    validate_docs.main(f"--base_model {spm_folder} --seq_len 64 --doc_id {first['doc_id']}".split())
    assert shown_losses(capsys.readouterr().out) == pytest.approx(tuple(first[["L_base", "L_ref", "AI_Score"]]), 1e-4)

    report.main("--scores theirs/ai_scores.parquet --out theirs/report.html".split())
    shown = page_data(run / "theirs/report.html")["documents"]
    text = dict(zip(shown["doc_id"], shown["text"], strict=True))[first["doc_id"]]
    row = theirs["doc_id"].tolist().index(first["doc_id"])
    assert text == load_tokenizer(spm_folder).decode(documents[row][:-1])


def test_a_selection_of_their_tokens_trains_a_model_and_is_exported(scored, capsys):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    documents, data, flags, theirs = scored
    selected = theirs["doc_id"].isin(pd.read_parquet("theirs/top20.parquet")["doc_id"])
    tiny_model("Llama", vocab_size=400).config.save_pretrained("new")
    sizes = "--seq_len 16 --batch_size 2 --max_tokens 64 --log_every 1 --device cpu --num_workers 0 --out_dir trained"
    pretrain.main(f"--config new --selected theirs/top20.parquet --data {data} {sizes} {flags}".split())
    assert f"selected: {selected.sum()} documents" in capsys.readouterr().out

    chosen = [documents[row] for row in np.flatnonzero(selected)]
    export = "--selection theirs/top20.parquet --out_dir theirs/out --overwrite --format"
    export_selection.main(f"{export} megatron {flags}".split())
    dataset = IndexedDataset("theirs/out/x")
    assert [dataset[number].tolist() for number in range(len(dataset))] == chosen
    export_selection.main(f"{export} olmo {OLMO}".split())
    copied = ShardReader(eot_id=2, token_dtype="uint16").open("theirs/out/x.npy")
    assert [copied.document(row).token_ids.tolist() for row in range(len(copied.spans))] == chosen


def megatron(change=lambda data: data, documents=([5, 6, 2], [7, 8, 2])):
    def prepare(folder):
        write_megatron(folder, documents)
        spoil(folder / "x.idx", change)

    return prepare


SCORE = [attention_influence_scoring, *"--base_model BASE --seq_len 64 --out new.tsv --data".split()]
EXPORT = [export_selection, *"--out_dir new --format".split()]

# name: (command, what is done to the folder first, what the message must name)
BAD_INPUT = {
    "a short .idx": ([*SCORE, "x.bin"], megatron(lambda data: data[:-1]), ["x.idx", "promises"]),
    "an .idx of an unknown type": (
        [*SCORE, "x.bin"],
        megatron(lambda data: data[:17] + b"\7" + data[18:]),
        ["x.idx", "type 7"],
    ),
    "a pointer outside": ([*SCORE, "x.bin"], megatron(lambda data: data.replace(b"\6\0", b"\xff\0")), ["x.idx"]),
    "a .bin without its .idx": (
        [*SCORE, "x.bin"],
        lambda d: (megatron()(d), (d / "x.idx").unlink()),
        ["x.bin", "12 bytes", ".idx"],
    ),
    "ids beyond the vocabulary": (
        [*SCORE, "x.bin"],
        megatron(documents=[[5, 6, 2], [7, 400, 2]]),
        ["x.bin", "offset 4", "400"],
    ),
    "an array of another type": (
        [*SCORE, "x.npy", "--token_dtype", "uint32"],
        lambda d: np.array([5, 6, 7, 2], "<u2").tofile(d / "x.npy"),
        ["x.npy", "--eot_id"],
    ),
    "no selection": ([*EXPORT, "megatron", "--selection", "data/ai_scores.parquet"], None, ["ai_scores.parquet"]),
    "an empty selection": (
        [*EXPORT, "megatron", "--selection", "empty.parquet"],
        lambda d: pd.read_parquet(d / "data/top20.parquet").iloc[:0].to_parquet(d / "empty.parquet"),
        ["empty.parquet", "no documents"],
    ),
    "a selection of a shard that is gone": (
        [*EXPORT, "olmo"],
        lambda d: (d / SHARD).unlink(),
        [SHARD],
    ),
    "a selection whose shard was made again": (
        [*EXPORT, "litdata", "--selection", "moved.parquet"],
        lambda d: pd.read_parquet(d / "data/top20.parquet").assign(start=1).to_parquet(d / "moved.parquet"),
        ["moved.parquet: row ", "score and rank again"],
    ),
    "a folder of another program": (
        [export_selection, *"--format megatron --out_dir data/mine".split()],
        None,
        ["data/mine", "another program"],
    ),
    "an object store to export to": (
        [export_selection, *"--format megatron --out_dir memory://bucket/x".split()],
        None,
        ["--out_dir memory://bucket/x"],
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_status_2(refused, name):
    refused(*BAD_INPUT[name])


def test_an_array_next_to_a_shard_of_the_same_name_has_none_of_its_sources(tmp_path):
    [path] = write_shards(tmp_path, [[5]], ["d"])
    path.with_suffix(".npy").touch()
    table = pa.table({"doc_id": [f"{path.with_suffix(suffix)}:0-2" for suffix in ("", ".npy")]})
    assert Origins([tmp_path]).of(table).to_pylist() == ["id0", ""]
