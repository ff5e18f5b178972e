"""Training on a mixture with transformers' Trainer: its arguments, the order of the data, loss curve, checkpoints."""

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
from common.files import flush, remove
from common.pages.pictures import loss_picture, save_picture
from common.training.mixture import Mixture

CHECKPOINT = "checkpoint-*"
WHOLE = "whole"  # the last file written to a checkpoint's folder; a folder without it is incomplete


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. Batches are counted in sequences, the rest in steps.

    Attributes:
        batch_size: sequences in a step, over all devices.
        device_batch_size: sequences in a forward pass on one device.
        warmup_pct, decay_pct: percent of the steps.
        dtype: float32, bfloat16 (the weights stay float32), or auto: bfloat16 if the device multiplies it faster.
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


def training_arguments(options: TrainingOptions, folder: Path) -> transformers.TrainingArguments:
    """The options in transformers' form; InputError for batches that do not divide, or an unknown argument."""
    transformers.logging.disable_progress_bar()  # the bar for written checkpoints
    if options.warmup_pct + options.decay_pct > 100:
        raise InputError("--warmup_pct and --decay_pct are more than 100 together; lower one")
    cpu = options.cpu or not torch.cuda.is_available()
    ours, defaults = _ours(options, folder, cpu), _defaults(options, cpu)
    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    if unknown := options.more.keys() - known:
        raise InputError(f"--trainer {min(unknown)}: TrainingArguments of transformers has no such argument")
    if taken := options.more.keys() & {*ours, "gradient_accumulation_steps", "num_train_epochs"}:
        raise InputError(f"--trainer {min(taken)}: other flags determine it (--help)")
    try:
        made = transformers.TrainingArguments(**{**defaults, **options.more, **ours})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"--trainer: {error}") from None
    if made.n_gpu > 1:
        raise InputError(
            f"{made.n_gpu} GPUs, but one process: torchrun --nproc_per_node {made.n_gpu} pretrain.py …, or show it one "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    at_once = options.device_batch_size * made.world_size
    if options.batch_size % at_once:
        raise InputError(
            f"--batch_size {options.batch_size} is no multiple of {at_once}, the --device_batch_size on "
            f"{made.world_size} devices; change one of them"
        )
    made.gradient_accumulation_steps = options.batch_size // at_once
    return made


def _ours(options: TrainingOptions, folder: Path, cpu: bool) -> dict[str, Any]:
    """The arguments that follow from the options; users cannot change them."""
    fast_bf16 = torch.cpu._is_amx_tile_supported() if cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "output_dir": str(folder),
        "max_steps": options.num_steps,
        "per_device_train_batch_size": options.device_batch_size,
        "per_device_eval_batch_size": options.device_batch_size,
        "learning_rate": options.learning_rate,
        "warmup_steps": round(options.warmup_pct / 100 * options.num_steps),
        "weight_decay": options.weight_decay,
        "bf16": options.dtype == "bfloat16" or (options.dtype == "auto" and fast_bf16),
        "seed": options.seed,
        "use_cpu": cpu,
        "dataloader_num_workers": options.num_workers,
        "logging_steps": options.log_every,
        "save_steps": options.save_every,
        "eval_steps": options.save_every,
    }


def _defaults(options: TrainingOptions, cpu: bool) -> dict[str, Any]:
    """The arguments that users can change with --trainer."""
    num_decay_steps = round(options.decay_pct / 100 * options.num_steps)
    return {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": num_decay_steps, "decay_type": "linear"},
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


class MixtureTrainer(transformers.Trainer):
    """A Trainer that uses the sequences of a mixture in ascending order, which is already shuffled."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)


def make_trainer(
    model: transformers.PreTrainedModel,
    arguments: transformers.TrainingArguments,
    mixture: Mixture,
    validation: Mixture | None,
    tokens_per_step: int,
) -> MixtureTrainer:
    """A trainer that shows its progress in tokens, records the loss curve, and marks complete checkpoints."""
    if validation:
        arguments.eval_strategy = "steps"
    trainer = MixtureTrainer(model, arguments, train_dataset=mixture, eval_dataset=validation)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LossCurve(tokens_per_step))
    return trainer


def _diverged(step: int) -> InputError:
    return InputError(f"step {step}: the loss or a weight is not finite; lower --learning_rate, with --overwrite")


class LossCurve(transformers.TrainerCallback):
    """Shows a progress bar and writes `loss.jsonl` and `loss.png`, in the first process."""

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
            self._draw()

    def on_train_end(self, args, state, control, **_):
        if self._bar is not None:
            self._bar.close()
            self._draw()

    def _line(self, log: dict) -> str:
        kept = {name: log[name] for name in ("loss", "eval_loss", "learning_rate", "grad_norm") if name in log}
        about = {"step": log["step"], "tokens": log["step"] * self._tokens_per_step}
        return json.dumps(about | kept) + "\n" if kept else ""

    def _draw(self) -> None:
        lines = (self._folder / "loss.jsonl").read_text(encoding="utf-8").splitlines()
        save_picture(loss_picture([json.loads(line) for line in lines]), self._folder / "loss.png", dpi=120)


def whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None; incomplete ones are removed."""
    found = {
        int(path.name.rpartition("-")[2]): path for path in folder.glob(CHECKPOINT) if re.search(r"-\d+$", path.name)
    }
    whole = {step: path for step, path in found.items() if (path / WHOLE).exists()}
    remove(*(found[step] for step in found.keys() - whole.keys()))
    return whole[max(whole)] if whole else None
