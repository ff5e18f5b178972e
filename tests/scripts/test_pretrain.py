"""Training: equal to a plain loop, on one process or two, stopped or not; and what cannot be trained on."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

import fineweb
import pretrain
from common import cli
from common.shards.reader import ShardReader
from common.training.mixture import DocumentStream, Mixture
from common.training.trainer import WHOLE, LossCurve
from tests.conftest import ROOT, SENTENCES, error_of

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
STEPS, BATCH, SEQ_LEN = 12, 8, 32
TRAIN = (
    f"--config config.json --data shards/*.bin --seq_len {SEQ_LEN} --batch_size {BATCH} --max_tokens "
    f"{STEPS * BATCH * SEQ_LEN + 5} --learning_rate 0.01 --warmup_pct 20 --decay_pct 25 --log_every 1 --save_every 4 "
    "--num_workers 0 --dtype float32 --device cpu --mix selected=0.7 baseline=0.3 --selected top.parquet"
)
RATES = [0, 0.005, *[0.01] * 8, 0.01 * 2 / 3, 0.01 / 3]  # 2 steps up, 7 at the top, 3 down


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bpe_folder):
    """Shards, a selection and a config."""
    folder = tmp_path_factory.mktemp("pretrain")
    text = "\n".join(json.dumps({"text": " ".join(SENTENCES[n % 16 :])}) for n in range(40))
    (folder / "text.jsonl").write_text(text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer").symlink_to(bpe_folder)
    with chdir(folder):
        fineweb.main("--tokenizer tokenizer --input text.jsonl --out_dir shards --shard_size 2_000".split())
        fineweb.main("--tokenizer tokenizer --input text.jsonl --out_dir held_out --max_docs 5".split())
        stale = pa.table([["shards/fineweb_train_000001.bin"], [1], [9]], names=["shard", "start", "end"])
        pq.write_table(stale, "stale.parquet")
        paths = sorted(Path("shards").glob("*.bin"))[:2]
        rows = [(str(path), *map(int, span)) for path in paths for span in ShardReader().open(path).spans[:3]]
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, names=["shard", "start", "end"]), "top.parquet")
    return folder


@pytest.fixture
def inside(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    return tmp_path


def curve(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(folder):
    """Losses and weights of a loop that is written out: AdamW by hand over the sequences in their order."""
    with chdir(folder):
        sources = {
            "selected": DocumentStream.of_selection("top.parquet"),
            "baseline": DocumentStream.of_shards(["shards/*.bin"]),
        }
    mixture = Mixture(sources, {"selected": 0.7, "baseline": 0.3}, SEQ_LEN, 0, STEPS * BATCH)
    transformers.set_seed(0)
    vocab = {"vocab_size": 400, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**vocab, **CONFIG))
    decayed = [p for n, p in model.named_parameters() if "norm" not in n]
    others = [p for n, p in model.named_parameters() if "norm" in n]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=1, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step, rate in enumerate(RATES):
        ids = torch.stack([mixture[step * BATCH + n]["input_ids"] for n in range(BATCH)])
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict()


def same_as(plain, out: Path) -> None:
    losses, weights = plain
    rows = curve(out)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["tokens"] for row in rows] == [step * BATCH * SEQ_LEN for step in range(1, STEPS + 1)]
    assert [row["loss"] for row in rows] == pytest.approx(losses, abs=1e-4)
    trained = transformers.AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(trained[name], tensor, atol=2e-4, rtol=0, msg=name)


def test_it_equals_a_plain_loop(inside, plain, capsys):
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])
    same_as(plain, inside / "out")
    assert plain[0][0] - plain[0][-1] > 0.5
    out, err = capsys.readouterr()
    assert re.search(
        r"^selected: \d+ documents, [\d,]+ tokens; 70% of the training, [\d,]+ tokens, [\d.e+]+ epochs$", out, re.M
    )
    assert "baseline: 40 documents" in out
    assert f"after {STEPS * BATCH * SEQ_LEN:,} tokens" in out
    assert "training: 100%" in err
    assert (inside / "out/loss.png").read_bytes().startswith(b"\x89PNG")
    saved = transformers.AutoTokenizer.from_pretrained(inside / "out/model")
    assert saved("The quick brown fox")["input_ids"]
    assert not list((inside / "out/model").glob("*.bin"))
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])
    assert "trained already" in capsys.readouterr().out


def test_the_learning_rate_rises_stays_and_falls(inside):
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])
    assert [row["learning_rate"] for row in curve(inside / "out")] == pytest.approx(RATES)


@pytest.mark.parametrize(
    ("more", "falls"),
    [
        ("lr_scheduler_type=cosine", [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]),
        ("lr_scheduler_type=linear run_name=7 max_grad_norm=1", [1 - step / 10 for step in range(10)]),
        ('lr_scheduler_type=cosine_with_min_lr lr_scheduler_kwargs={"min_lr":0.01}', [1] * 10),
        ("lr_scheduler_type=warmup_stable_decay logging_first_step=true", [1] * 8 + [2 / 3, 1 / 3]),
        ("lr_scheduler_type=reduce_lr_on_plateau load_best_model_at_end=true --val_data held_out/*.bin", None),
    ],
)
def test_other_schedules_and_arguments_are_those_of_the_trainer(inside, more, falls):
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out"), "--trainer", *more.split()])
    rates = [row["learning_rate"] for row in curve(inside / "out") if "loss" in row]
    assert rates == pytest.approx([0, 0.005, *(0.01 * share for share in falls)] if falls else [0.01] * STEPS)


def test_small_forward_passes_and_loader_workers_change_nothing(inside, plain):
    flags = [*TRAIN.replace("--num_workers 0", "--num_workers 2").split(), "--device_batch_size", "2"]
    flags += ["--mix", "baseline=3", "selected=7"]
    pretrain.main([*flags, "--out_dir", str(inside / "out")])
    same_as(plain, inside / "out")


def test_the_whole_corpus_and_the_selection_once_more(inside, capsys):
    flags = TRAIN.replace("selected=0.7 baseline=0.3", "corpus+selected")
    pretrain.main(
        [*flags.replace(f"--max_tokens {STEPS * BATCH * SEQ_LEN + 5} ", "").split(), "--out_dir", str(inside)]
    )
    top = pq.read_table("top.parquet").to_pandas()
    sizes = (
        (top.end - top.start).sum(),
        sum(len(ShardReader().open(path).tokens) for path in Path("shards").glob("*.bin")),
    )
    step = SEQ_LEN * BATCH
    trained = sum(sizes) // step * step
    out = capsys.readouterr().out
    for name, size in zip(("selected", "baseline"), sizes, strict=True):
        drawn = re.search(rf"{name}: .* {size:,} tokens; \d+% of the training, ([\d,]+) tokens", out)[1]
        assert abs(int(drawn.replace(",", "")) - trained * size / sum(sizes)) < SEQ_LEN
    assert len(curve(inside)) == trained // step


def test_two_processes_train_as_one(inside, plain):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, ROOT / "pretrain.py", *TRAIN.split(), "--device_batch_size", "2", "--out_dir", inside / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    same_as(plain, inside / "out")
    assert done.stdout.count("wrote ") == 1
    for lost in ("model", "checkpoint-12"):
        shutil.rmtree(inside / "out" / lost)
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])  # one process goes on from step 8 of two
    same_as(plain, inside / "out")


@pytest.mark.parametrize("cut_short", [False, True])
def test_a_stopped_run_goes_on_at_the_next_sequence(inside, plain, monkeypatch, capsys, cut_short):
    flags = [*TRAIN.split(), "--out_dir", str(inside / "out")]
    ended, stop_at = LossCurve.on_step_end, 10

    def stopped(self, args, state, control, **rest):
        ended(self, args, state, control, **rest)
        if state.global_step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(LossCurve, "on_step_end", stopped)
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: pretrain.main(flags))
    assert exit_.value.code == 130
    assert "the same command" in capsys.readouterr().err
    if cut_short:
        (inside / "out/checkpoint-8" / WHOLE).unlink()
        (inside / "out/checkpoint-8/model.safetensors").write_bytes(b"half")
    monkeypatch.setattr(LossCurve, "on_step_end", ended)
    begun, began = [], LossCurve.on_train_begin

    def begin(self, args, state, control, **rest):
        begun.append(state.global_step)
        began(self, args, state, control, **rest)

    monkeypatch.setattr(LossCurve, "on_train_begin", begin)
    pretrain.main(flags)
    assert begun == [4 if cut_short else 8]
    same_as(plain, inside / "out")


def test_a_run_that_is_killed_while_it_writes_a_checkpoint_goes_on(inside, plain):
    command = [sys.executable, ROOT / "pretrain.py", *TRAIN.split(), "--out_dir", inside / "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (inside / "out/checkpoint-8").exists():
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (inside / "out/model").exists()
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])
    same_as(plain, inside / "out")


def test_the_loss_of_held_out_shards_is_that_of_the_model(inside):
    pretrain.main([*TRAIN.split(), "--val_data", "held_out/*.bin", "--out_dir", str(inside / "out")])
    rows = [row for row in curve(inside / "out") if "eval_loss" in row]
    assert [row["step"] for row in rows] == [4, 8, 12]
    source = DocumentStream.of_shards(["held_out/*.bin"])
    model = transformers.AutoModelForCausalLM.from_pretrained(inside / "out/model")
    ids = torch.stack(
        [torch.from_numpy(source.read(n * SEQ_LEN, SEQ_LEN, 0)) for n in range(source.num_tokens // SEQ_LEN)]
    )
    with torch.no_grad():
        assert rows[-1]["eval_loss"] == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), abs=1e-5)


def test_training_goes_on_from_a_checkpoint(inside):
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "one")])
    published = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 0, "transformers_version": transformers.__version__}
    (inside / "one/model/generation_config.json").write_text(json.dumps(published))
    flags = TRAIN.replace("--config config.json", f"--model {inside}/one/model").split()
    pretrain.main([*flags, "--out_dir", str(inside / "two")])
    assert json.loads((inside / "two/model/generation_config.json").read_text()) == published
    assert curve(inside / "two")[0]["loss"] < curve(inside / "one")[0]["loss"] - 0.5


def test_a_model_of_other_settings_is_refused_also_when_its_checkpoints_are_gone(inside, capsys):
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])
    for checkpoint in (inside / "out").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    flags = [*TRAIN.replace("0.01", "0.02").split(), "--out_dir", str(inside / "out")]
    assert "another run's model" in error_of(pretrain, flags, capsys)


def test_a_checkpoint_with_another_tokenizer_is_refused(inside, bytes_folder, capsys):
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(vocab_size=400, **CONFIG))
    model.save_pretrained(inside / "foreign")
    transformers.AutoTokenizer.from_pretrained(bytes_folder).save_pretrained(inside / "foreign")
    flags = TRAIN.replace("--config config.json", f"--model {inside}/foreign").split()
    line = error_of(pretrain, [*flags, "--out_dir", str(inside / "out")], capsys)
    assert "foreign: the shards were tokenized in another way" in line


def test_a_config_that_asks_for_bfloat16_trains_float32_weights(inside, plain):
    (inside / "bf16.json").write_text(json.dumps({**CONFIG, "dtype": "bfloat16"}))
    flags = TRAIN.replace("--config config.json", f"--config {inside}/bf16.json").split()
    pretrain.main([*flags, "--out_dir", str(inside / "out")])
    same_as(plain, inside / "out")


def test_other_settings_are_another_run(inside, capsys):
    pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out")])
    other = [*TRAIN.replace("0.01", "0.02").split(), "--out_dir", str(inside / "out")]
    assert "learning_rate was 0.01, is 0.02" in error_of(pretrain, other, capsys)
    pretrain.main([*other, "--overwrite"])
    assert max(row["learning_rate"] for row in curve(inside / "out")) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("--mix other=1", "'other=1' is not selected=SHARE"),
        ("--mix selected=-1", "-1 is not above 0"),
        ("--seq_len 65", "context of the model holds 64; lower it, or raise max_position_embeddings"),
        ("--batch_size 9 --device_batch_size 2", "no multiple of 2"),
        ("--batch_size 100000", "lower --batch_size"),
        ("--trainer no_such=1", "no such argument"),
        ("--trainer optim=nothing", "--trainer"),
        ("--config nowhere", "nowhere: no such folder"),
        ("--config shards/run.json", "shards/run.json: no such file or folder"),
        ("--selected nowhere.parquet", "nowhere.parquet: not a selection"),
        ("--data nowhere/*.bin", "nowhere/*.bin"),
        ("--tokenizer other", "the shards were tokenized in another way, with tokenizer"),
        ("--mix selected=1 selected=2", "twice"),
        ("--mix corpus+selected baseline=1", "give it alone"),
        ("--val_data shards/*.bin", "so it is trained on"),
        ("--warmup_pct 60 --decay_pct 60", "more than 100 together"),
        ("--trainer max_steps=3", "--trainer max_steps: other flags determine it"),
        ("--selected stale.parquet", "row 1, tokens 1 to 9 are no document of shards/fineweb_train_000001.bin"),
        ("--out_dir .", "is in this folder; give another folder"),
        ("--learning_rate 1e30", "not finite; lower --learning_rate"),
        ("--trainer lr_scheduler_type=nothing", "--trainer lr_scheduler_type: ValueError: nothing is not a valid"),
        ("--trainer lr_scheduler_type=cosine_with_min_lr", "--trainer lr_scheduler_type: ValueError: One of min_lr"),
        ("--trainer lr_scheduler_type=reduce_lr_on_plateau", "--trainer lr_scheduler_type: there is no data"),
        ("--trainer adam_beta1=much", "--trainer adam_beta1: 'much' is no value for it; it takes float"),
        ("--trainer torch_compile=False", "--trainer torch_compile: 'False' is no value for it; it takes bool"),
        ("--trainer save_total_limit=some", "--trainer save_total_limit: 'some' is no value"),
        ("--trainer adam_beta1=0.8 adam_beta2=2", "--trainer adam_beta1, adam_beta2: ValueError: Invalid beta"),
        ("--trainer adam_beta2=0.9 optim=lomo", "--trainer optim: ImportError: You need to install `lomo_optim`"),
        ("--trainer report_to=wandb", "--trainer report_to: RuntimeError: WandbCallback requires wandb"),
        ("--trainer eval_strategy=steps", "--trainer eval_strategy: there is no data to evaluate on; give --val_data"),
        ("--val_data held_out/*.bin --trainer metric_for_best_model=bleu", "only the loss is computed"),
        ("--trainer fsdp=true", "--trainer fsdp: ValueError: Using fsdp only works in distributed training"),
        ("--trainer fsdp=true fsdp_config=nowhere.json", "No such file or directory: 'nowhere.json'"),
        ("--trainer torch_compile_mode=fastest", "--trainer torch_compile_mode: RuntimeError: Unrecognized mode"),
        ("--trainer push_to_hub=true", "--trainer push_to_hub: OfflineModeIsEnabled"),
        ("--trainer hub_token=secret", "--trainer hub_token: run.json would hold it; set HF_TOKEN"),
        ("--trainer save_only_model=true", "--trainer save_only_model: a stopped run could not continue"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2_and_no_model(inside, bytes_folder, changed, says, capsys):
    if not Path("other").exists():
        Path("other").symlink_to(bytes_folder)
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: pretrain.main([*TRAIN.split(), "--out_dir", str(inside / "out"), *changed.split()]))
    assert exit_.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert line.startswith("error: ")
    assert says in line
    assert not (inside / "out/model").exists()
