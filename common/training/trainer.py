"""Training on a mixture by transformers' Trainer: its settings, the order of the data, the loss curve, checkpoints."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import SequentialSampler
from transformers.trainer_callback import PrinterCallback

from common import cli
from common.errors import InputError
from common.files import atomic, flush, read_json, remove
from common.flags import Runtime
from common.model.checkpoints import load_model, max_context
from common.text.tokenization import TextTokenizer
from common.training.mixture import Mixture

CHECKPOINT = "checkpoint-*"
WHOLE = "whole"  # the last file in a checkpoint's folder: one without it was cut short


@dataclass(frozen=True)
class Training:
    """What a run does: its length and batches in sequences, its learning rate in steps.

    Attributes:
        batch_size: sequences in a step, over all devices.
        device_batch_size: sequences in a forward pass on one device.
        warmup_pct, decay_pct: of the steps.
        dtype: float32, bfloat16 (the weights stay float32) or auto, bfloat16 where the device multiplies it faster.
        more: any other argument of transformers' TrainingArguments.
    """

    num_steps: int
    batch_size: int
    device_batch_size: int
    learning_rate: float
    warmup_pct: float
    decay_pct: float
    weight_decay: float
    seed: int
    dtype: str
    cpu: bool
    num_workers: int
    log_every: int
    save_every: int
    more: dict[str, Any]


def new_model(
    config: str, tokenizer: TextTokenizer | None, seed: int, trust_remote_code: bool
) -> transformers.PreTrainedModel:
    """A causal language model with random weights, in float32.

    Args:
        config: a Hugging Face name, a folder, or a JSON file. JSON needs `model_type`; what it leaves out is the
            class's default, but the vocabulary is the tokenizer's.
        tokenizer: the one that the data is in; its special tokens become the model's.
    Raises:
        InputError: there is no such config, or it is not of a causal language model.
    """
    special = {}
    if tokenizer:
        special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.separator_id, "pad_token_id": None}
    try:
        if Path(config).is_file():
            vocabulary = {"vocab_size": tokenizer.vocab_size} if tokenizer else {}
            parsed = transformers.AutoConfig.for_model(**{**vocabulary, **special, **read_json(Path(config))})
        else:
            parsed = transformers.AutoConfig.from_pretrained(config, trust_remote_code=trust_remote_code)
            for name, value in special.items():
                setattr(parsed, name, value)
        transformers.set_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(
            parsed, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except InputError:
        raise
    except Exception as error:  # whatever a config's own class may raise
        raise InputError(f"--config {config}: no model can be made of it ({type(error).__name__}: {error})") from None


def trained_model(name: str, trust_remote_code: bool) -> transformers.PreTrainedModel:
    """A checkpoint to train on from, in float32; InputError if it is none."""
    model = load_model(name, Runtime(device="cpu", dtype="float32", trust_remote_code=trust_remote_code))
    model.set_attn_implementation("sdpa")
    return model.train()


def require_context(model: transformers.PreTrainedModel, seq_len: int) -> None:
    """Raise InputError for sequences that are longer than the model takes."""
    if (longest := max_context(model)) and longest < seq_len:
        raise InputError(f"--seq_len {seq_len}: the model takes {longest} (max_position_embeddings in its config)")


def arguments(training: Training, folder: Path) -> transformers.TrainingArguments:
    """The settings as transformers has them; InputError for batches that do not divide, or an unknown setting."""
    transformers.logging.disable_progress_bar()  # of the checkpoints that are written
    cpu = training.cpu or not torch.cuda.is_available()
    fast_bf16 = torch.cpu._is_amx_tile_supported() if cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    warmup, decay = (round(pct / 100 * training.num_steps) for pct in (training.warmup_pct, training.decay_pct))
    if training.warmup_pct + training.decay_pct > 100:
        raise InputError("--warmup_pct and --decay_pct are more than 100 together; lower one")
    ours = {
        "output_dir": str(folder),
        "max_steps": training.num_steps,
        "per_device_train_batch_size": training.device_batch_size,
        "per_device_eval_batch_size": training.device_batch_size,
        "learning_rate": training.learning_rate,
        "warmup_steps": warmup,
        "weight_decay": training.weight_decay,
        "bf16": training.dtype == "bfloat16" or (training.dtype == "auto" and fast_bf16),
        "seed": training.seed,
        "use_cpu": cpu,
        "dataloader_num_workers": training.num_workers,
        "logging_steps": training.log_every,
        "save_steps": training.save_every,
        "eval_steps": training.save_every,
    }
    defaults = {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": decay, "decay_type": "linear"},
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "dataloader_pin_memory": not cpu,
        "logging_nan_inf_filter": False,
        "save_total_limit": 2,
        "prediction_loss_only": True,
        "ddp_find_unused_parameters": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    if unknown := training.more.keys() - known:
        raise InputError(f"--trainer {min(unknown)}: TrainingArguments of transformers has no such argument")
    if taken := training.more.keys() & {*ours, "gradient_accumulation_steps", "num_train_epochs"}:
        raise InputError(f"--trainer {min(taken)}: that follows from the other flags (--help)")
    try:
        made = transformers.TrainingArguments(**{**defaults, **training.more, **ours})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"--trainer: {error}") from None
    if made.n_gpu > 1:
        raise InputError(
            f"{made.n_gpu} GPUs, but one process: torchrun --nproc_per_node {made.n_gpu} pretrain.py …, or show it one "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    at_once = training.device_batch_size * made.world_size
    if training.batch_size % at_once:
        raise InputError(
            f"--batch_size {training.batch_size} is no multiple of {at_once}, the --device_batch_size on "
            f"{made.world_size} devices; change one of them"
        )
    made.gradient_accumulation_steps = training.batch_size // at_once
    return made


class MixtureTrainer(transformers.Trainer):
    """A Trainer that takes the sequences of a mixture as they come, since their order is shuffled already."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)


def trainer_for(
    model: transformers.PreTrainedModel,
    arguments: transformers.TrainingArguments,
    mixture: Mixture,
    validation: Mixture | None,
    tokens_per_step: int,
) -> MixtureTrainer:
    """A trainer that shows its progress in tokens, keeps a loss curve, and marks whole checkpoints."""
    if validation:
        arguments.eval_strategy = "steps"
    trainer = MixtureTrainer(model, arguments, train_dataset=mixture, eval_dataset=validation)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Curve(tokens_per_step))
    return trainer


def _diverged(step: int) -> InputError:
    return InputError(f"step {step}: the loss or a weight is not finite; lower --learning_rate, with --overwrite")


class Curve(transformers.TrainerCallback):
    """A bar, `loss.jsonl` and `loss.png`, on the first of the processes."""

    def __init__(self, tokens_per_step: int):
        self._tokens_per_step = tokens_per_step
        self._bar = None

    def on_train_begin(self, args, state, control, **_):
        if not state.is_world_process_zero:
            return
        self._folder = Path(args.output_dir)
        with (self._folder / "loss.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(self._line(log) for log in state.log_history)
        self._bar = cli.progress(state.max_steps * self._tokens_per_step, "training")
        cli.skip(self._bar, state.global_step * self._tokens_per_step)

    def on_step_end(self, args, state, control, **_):
        if self._bar is not None:
            self._bar.update(self._tokens_per_step)

    def on_log(self, args, state, control, logs=None, **_):
        logs = logs or {}
        if not math.isfinite(logs.get("loss", 0)):
            raise _diverged(state.global_step)
        if self._bar is not None and ("loss" in logs or "eval_loss" in logs):
            with (self._folder / "loss.jsonl").open("a", encoding="utf-8") as file:
                file.write(self._line({**logs, "step": state.global_step}))
            self._bar.set_postfix_str(
                ", ".join(f"{name} {logs[name]:.3f}" for name in ("loss", "eval_loss") if name in logs)
            )

    def on_save(self, args, state, control, model=None, **_):
        if not all(torch.isfinite(weights).all() for weights in model.parameters()):
            raise _diverged(state.global_step)
        if state.is_world_process_zero:
            folder = self._folder / f"checkpoint-{state.global_step}"
            for file in folder.iterdir():
                flush(file)
            (folder / WHOLE).touch()
            draw(self._folder)

    def on_train_end(self, args, state, control, **_):
        if self._bar is not None:
            self._bar.close()
            draw(self._folder)

    def _line(self, log: dict) -> str:
        kept = {name: log[name] for name in ("loss", "eval_loss", "learning_rate", "grad_norm") if name in log}
        return (
            json.dumps({"step": log["step"], "tokens": log["step"] * self._tokens_per_step, **kept}) + "\n"
            if kept
            else ""
        )


def draw(folder: Path) -> None:
    """Draw `loss.jsonl` as `loss.png`."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (folder / "loss.jsonl").read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["tokens"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if name == "eval_loss" else None)
    axes.set(xlabel="tokens", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic(folder / "loss.png") as path:
        figure.savefig(path, format="png", dpi=120)


def whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; those that were not are removed."""
    found = {
        int(path.name.rpartition("-")[2]): path for path in folder.glob(CHECKPOINT) if re.search(r"-\d+$", path.name)
    }
    whole = {step: path for step, path in found.items() if (path / WHOLE).exists()}
    remove(*(found[step] for step in found.keys() - whole.keys()))
    return whole[max(whole)] if whole else None
