"""Training on a mixture with transformers' Trainer: its arguments, the order of the data, loss curve, checkpoints."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.dataclasses import type_validator
from torch.utils.data import SequentialSampler
from transformers.trainer_callback import PrinterCallback

from common import cli
from common.errors import InputError
from common.files import flush, remove
from common.pages.pictures import loss_picture, save_picture
from common.training.mixture import Mixture

CHECKPOINT = "checkpoint-*"
WHOLE = "whole"  # the last file written to a checkpoint's folder; a folder without it is incomplete
SCHEDULE = "warmup_stable_decay"
OTHER_FLAGS, ORDER = "other flags determine it (--help)", "the order of the sequences depends only on --seed"
# Arguments that --trainer cannot set, and why.
REFUSED = {
    "gradient_accumulation_steps": OTHER_FLAGS,
    "num_train_epochs": OTHER_FLAGS,
    "resume_from_checkpoint": "the same command continues a stopped run; --model starts from a checkpoint",
    "train_sampling_strategy": ORDER,
    "length_column_name": ORDER,
    "data_seed": ORDER,
    "save_only_model": "a stopped run could not continue",
    "hub_token": "run.json would hold it; set HF_TOKEN",
    "enable_jit_checkpoint": "--save_every says when checkpoints are written",
}
# Arguments, and values of lr_scheduler_type, that ask for a loss of held-out data.
EVALUATING = ("eval_strategy", "eval_on_start", "load_best_model_at_end", "metric_for_best_model")
EVALUATING_SCHEDULES = ("reduce_lr_on_plateau", "greedy")


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


def other_arguments(given: dict[str, str]) -> dict[str, Any]:
    """The values of --trainer as their arguments take them: JSON, a number, or text.

    Raises:
        InputError: there is no such argument, other flags determine it, or it takes no such value.
    """
    fields = {field.name: field for field in dataclasses.fields(transformers.TrainingArguments)}
    for name in given:
        if name not in fields:
            raise InputError(f"--trainer {name}: TrainingArguments of transformers has no such argument")
        if name in REFUSED:
            raise InputError(f"--trainer {name}: {REFUSED[name]}")
    return {name: _value(fields[name], text) for name, text in given.items()}


def _value(field: dataclasses.Field, text: str) -> Any:
    for read in (json.loads, float, str):
        try:
            value = read(text)
            if value is not field.metadata.get("const"):  # what the flag means without a value
                type_validator(field.name, value, field.type)
            return value
        except (TypeError, ValueError):
            continue
    wanted = getattr(field.type, "__name__", field.type)
    raise InputError(f"--trainer {field.name}: {text!r} is no value for it; it takes {wanted}, as JSON")


@contextmanager
def explained(more: dict[str, Any], curve: "LossCurve") -> Iterator[None]:
    """Make an error of the block that ends before the first step is done an InputError that names --trainer.

    Without arguments from --trainer, or after the first step, the error stays as it is.
    """
    try:
        yield
    except InputError:
        raise
    except torch.OutOfMemoryError as error:
        raise InputError(f"out of GPU memory; lower --device_batch_size or --seq_len ({error})") from None
    except Exception as error:  # the packages behind the arguments raise many types
        if not more or curve.begun:
            raise
        names = [name for name in more if name in str(error)] or more
        raise InputError(f"--trainer {', '.join(names)}: {type(error).__name__}: {error}") from None


def training_arguments(
    options: TrainingOptions, folder: Path, validation: Mixture | None
) -> transformers.TrainingArguments:
    """The options in transformers' form.

    Raises:
        InputError: batches do not divide, or arguments of --trainer contradict other flags.
    """
    transformers.logging.disable_progress_bar()  # the bar for written checkpoints
    if options.warmup_pct + options.decay_pct > 100:
        raise InputError("--warmup_pct and --decay_pct are more than 100 together; lower one")
    cpu = options.cpu or not torch.cuda.is_available()
    ours, defaults = _ours(options, folder, cpu), _defaults(options, cpu, validation)
    if taken := options.more.keys() & ours.keys():
        raise InputError(f"--trainer {min(taken)}: {OTHER_FLAGS}")
    for name, value in options.more.items():
        asks = value in EVALUATING_SCHEDULES or (name in EVALUATING and value not in (None, False, "no"))
        if asks and not validation:
            raise InputError(f"--trainer {name}: there is no data to evaluate on; give --val_data")
    if options.more.get("metric_for_best_model") not in (None, "loss", "eval_loss"):
        raise InputError("--trainer metric_for_best_model: only the loss is computed; leave it out")
    made = transformers.TrainingArguments(**{**defaults, **options.more, **ours})
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


def _defaults(options: TrainingOptions, cpu: bool, validation: Mixture | None) -> dict[str, Any]:
    """The arguments that users can change with --trainer."""
    num_decay_steps = round(options.decay_pct / 100 * options.num_steps)
    decay = {"num_decay_steps": num_decay_steps, "decay_type": "linear"}
    return {
        "lr_scheduler_type": SCHEDULE,
        "lr_scheduler_kwargs": decay if options.more.get("lr_scheduler_type", SCHEDULE) == SCHEDULE else None,
        "eval_strategy": "steps" if validation else "no",
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
    curve: "LossCurve",
) -> MixtureTrainer:
    """A trainer that shows its progress in tokens, records the loss curve, and marks complete checkpoints."""
    trainer = MixtureTrainer(model, arguments, train_dataset=mixture, eval_dataset=validation)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(curve)
    return trainer


def _diverged(step: int) -> InputError:
    return InputError(f"step {step}: the loss or a weight is not finite; lower --learning_rate, with --overwrite")


class LossCurve(transformers.TrainerCallback):
    """Shows a progress bar and writes `loss.jsonl` and `loss.png`, in the first process.

    Attributes:
        begun: whether a step is done.
    """

    def __init__(self, tokens_per_step: int):
        self._tokens_per_step = tokens_per_step
        self._bar = None
        self.begun = False

    def close(self) -> None:
        """End the bar's line, also after an error."""
        if self._bar is not None:
            self._bar.close()

    def on_train_begin(self, args, state, control, **_):
        if not state.is_world_process_zero:
            return
        self._folder = Path(args.output_dir)
        with (self._folder / "loss.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(self._line(log) for log in state.log_history)
        self._bar = cli.progress(state.max_steps * self._tokens_per_step, "training")
        cli.skip(self._bar, state.global_step * self._tokens_per_step)

    def on_step_end(self, args, state, control, **_):
        self.begun = True
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
