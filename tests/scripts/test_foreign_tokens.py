"""Tokens that Megatron's and OLMo-core's own writers wrote, from the scores to a trainer."""

import numpy as np
import pandas as pd
import pytest

import attention_influence_scoring
import export_selection
import pretrain
import rank_scores
import report
import validate_docs
from common.shards.reader import ShardReader
from common.text.tokenization import load_tokenizer
from tests.conftest import tiny_model
from tests.scripts.conftest import SHARD, page_data, shown_losses, spoil
from tests.shards.test_foreign import write_megatron


@pytest.fixture
def documents(run):
    """All documents of the finished run, in its order."""
    shards = [ShardReader().open(path) for path in sorted(run.glob("data/mine/*.bin"))]
    (run / "theirs").mkdir()
    return [shard.document(row).token_ids.tolist() for shard in shards for row in range(len(shard.spans))]


def write_olmo(folder, documents):
    from olmo_core.data.utils import write_array_to_disk

    write_array_to_disk(np.concatenate(documents).astype(np.uint16), folder / "x.npy")


def lines_of(export, capsys):
    export_selection.main(f"--selection theirs/top20.parquet --out_dir theirs/out --overwrite {export}".split())
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("write", "data", "flags"),
    [(write_megatron, "theirs/x.bin", ""), (write_olmo, "theirs/x.npy", "--eot_id 2 --token_dtype uint16")],
)
def test_their_tokens_have_the_scores_of_ours(run, spm_folder, documents, capsys, write, data, flags):
    write(run / "theirs", documents)
    command = f"--base_model {spm_folder} --seq_len 64"
    attention_influence_scoring.main(f"{command} --data {data} --out theirs/ai_scores.tsv".split())
    rank_scores.main("--scores theirs/ai_scores.parquet".split())
    ours, theirs = (pd.read_parquet(f"{folder}/ai_scores.parquet") for folder in ("data", "theirs"))
    numbers = ["num_tokens", "L_base", "L_ref", "AI_Score", "repetition"]
    np.testing.assert_allclose(theirs[numbers], ours[numbers], rtol=1e-5)

    selection = pd.read_parquet("theirs/top20.parquet")
    assert set(selection["shard"]) == {data}
    first = selection.iloc[0]
    capsys.readouterr()
    validate_docs.main(f"{command} --doc_id {first['doc_id']}".split())
    assert shown_losses(capsys.readouterr().out) == pytest.approx(tuple(first[["L_base", "L_ref", "AI_Score"]]), 1e-4)

    report.main("--scores theirs/ai_scores.parquet --out theirs/report.html".split())
    shown = dict(zip(*map(page_data(run / "theirs/report.html")["documents"].get, ("doc_id", "text")), strict=True))
    row = theirs["doc_id"].tolist().index(first["doc_id"])
    assert shown[first["doc_id"]] == load_tokenizer(spm_folder).decode(documents[row][:-1])

    tiny_model("Llama", vocab_size=400).config.save_pretrained("new")
    sizes = "--seq_len 16 --batch_size 2 --max_tokens 64 --log_every 1 --device cpu --num_workers 0"
    source = f"--config new --selected theirs/top20.parquet --data {data} --out_dir trained"
    pretrain.main(f"{source} {sizes} {flags}".split())
    assert f"selected: {len(selection)} documents" in capsys.readouterr().out

    chosen = {tuple(documents[row]) for row in np.flatnonzero(theirs["doc_id"].isin(selection["doc_id"]))}
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    lines_of(f"--format megatron {flags}", capsys)
    dataset = IndexedDataset("theirs/out/x")
    assert {tuple(dataset[number].tolist()) for number in range(len(dataset))} == chosen
    lines_of("--format olmo --eot_id 2 --token_dtype uint16", capsys)
    copied = ShardReader(eot_id=2, token_dtype="uint16").open("theirs/out/x.npy")
    assert {tuple(copied.document(row).token_ids.tolist()) for row in range(len(copied.spans))} == chosen


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
