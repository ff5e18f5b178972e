"""Step 7: train a model on the mixed diet, say 70 % selected and 30 % baseline tokens, straight from the shards.

    python pretrain.py --config config.json --max_tokens 1_000_000_000
    python pretrain.py --config Qwen/Qwen3-0.6B --mix selected=0.5 baseline=0.5 --data 'data/mine/*.bin'
    python pretrain.py --model data/SmolLM2-135M-Instruct --learning_rate 1e-5          go on from a checkpoint
    torchrun --nproc_per_node 8 pretrain.py --config config.json --trainer fsdp=true    eight GPUs

Reads   data/top20.parquet and the shards; --config: a name, a folder, or JSON such as
        {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 8}, whose vocabulary is that of the shards
Writes  data/pretrained/: model/ in the end, an ordinary checkpoint with its tokenizer; loss.jsonl and loss.png while it
        trains, a line of {"step", "tokens", "loss", "learning_rate", "grad_norm"} every --log_every steps; run.json and
        checkpoint-*/, from the newest of which the same command goes on, at the very next sequence

Documents are packed into sequences of --seq_len, in an order that follows from --seed alone, on however many GPUs. The
learning rate rises over --warmup_pct of the steps, stays, and falls to 0 over the last --decay_pct.
"""

import argparse
import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import transformers

from common import cli
from common.errors import InputError
from common.files import atomic, claim, read_json, refuse_folder, remove, sole_writer, write_json
from common.flags import add_trust_flag
from common.model.checkpoints import model_digest
from common.model.checkpoints import settings as checkpoint_settings
from common.shards.documents import ShardInfo
from common.text.corpus import expand
from common.text.tokenization import TextTokenizer, load_tokenizer
from common.training.mixture import Mixture, Source
from common.training.trainer import (
    CHECKPOINT,
    Training,
    arguments,
    new_model,
    require_context,
    trained_model,
    trainer_for,
    whole_checkpoint,
)

SELECTED, BASELINE, VALIDATION = "selected", "baseline", "validation"
RECORD = "pretraining.json"  # in the model's folder: how it was trained
VALIDATION_TOKENS = 1_000_000  # at most, of --val_data
# What a later start may change without becoming another run.
SPEED_ONLY = ("device_batch_size", "num_workers", "log_every", "save_every", "cpu")


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--config", help="train from scratch: name, folder or JSON file of a config")
    start.add_argument("--model", help="train on from this checkpoint: name or folder")
    data = parser.add_argument_group("what to train on")
    data.add_argument("--selected", type=Path, default=Path("data/top20.parquet"), help="selection of step 6")
    data.add_argument("--data", nargs="+", default=["data/fineweb10B/fineweb_train_*.bin"], help="shards of step 4")
    data.add_argument("--val_data", nargs="+", help="shards whose loss is taken at every checkpoint")
    data.add_argument(
        "--mix", nargs="+", type=share, default=[(SELECTED, 0.7), (BASELINE, 0.3)], help="shares of the tokens"
    )
    data.add_argument(
        "--max_tokens", type=cli.positive_int, help="train on so many (default: until a source is used up)"
    )
    data.add_argument("--seq_len", type=cli.positive_int, default=4096, help="tokens in a sequence")
    data.add_argument("--eot_id", type=cli.non_negative_int, help="separator of shards without an index")
    data.add_argument("--tokenizer", help="saved with the model (default: the one that made the shards)")
    how = parser.add_argument_group("how to train")
    how.add_argument("--batch_size", type=cli.positive_int, default=256, help="sequences in a step, over all GPUs")
    how.add_argument(
        "--device_batch_size", type=cli.positive_int, default=8, help="sequences in a forward pass of a GPU"
    )
    how.add_argument("--learning_rate", type=cli.positive_float, default=3e-4, help="its highest")
    how.add_argument("--warmup_pct", type=cli.percentage, default=1, help="of the steps")
    how.add_argument("--decay_pct", type=cli.percentage, default=20, help="of the steps")
    how.add_argument("--weight_decay", type=float, default=0.1, help="of AdamW")
    how.add_argument("--seed", type=cli.non_negative_int, default=0, help="of the new weights and of the order")
    how.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bf16 where it pays"
    )
    how.add_argument("--num_workers", type=cli.non_negative_int, default=1, help="processes that read, per GPU")
    how.add_argument("--log_every", type=cli.positive_int, default=10, help="steps")
    how.add_argument("--save_every", type=cli.positive_int, help="steps (default: 10 times in all)")
    how.add_argument(
        "--trainer", nargs="+", type=setting, default=[], metavar="NAME=VALUE", help="any other of its args"
    )
    how.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: CUDA if there is one")
    add_trust_flag(how)
    parser.add_argument("--out_dir", type=Path, default=Path("data/pretrained"), help="where everything goes")
    parser.add_argument("--overwrite", action="store_true", help="delete what another run left in --out_dir")
    return parser.parse_args(argv)


def share(text: str) -> tuple[str, float]:
    """Argument type: `selected=0.7` or `baseline=0.3`."""
    name, _, value = text.partition("=")
    if name not in (SELECTED, BASELINE):
        raise argparse.ArgumentTypeError(f"{text!r} is not {SELECTED}=SHARE or {BASELINE}=SHARE")
    return name, cli.positive_float(value)


def setting(text: str) -> tuple[str, object]:
    """Argument type: `name=value`, the value as JSON or else as it stands."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def open_sources(
    mix: dict[str, float], selected: Path, data: list[str], val_data: list[str] | None, eot_id: int | None
) -> dict[str, Source]:
    """The sources of the mix, and `validation` if there is one; InputError if they have other tokens, or overlap."""
    if val_data and (both := {*expand(val_data)} & {*expand(data)}):
        raise InputError(f"--val_data {min(both)}: trained on too (--data); give shards that are not")
    sources = {}  # in this order, whatever the order of --mix: the sequences follow from it
    if SELECTED in mix:
        sources[SELECTED] = Source.of_selection(selected, eot_id)
    if BASELINE in mix:
        sources[BASELINE] = Source.of_shards(data, eot_id)
    if val_data:
        sources[VALIDATION] = Source.of_shards(val_data, eot_id)
    if len({source.made_by and source.made_by.fingerprint for source in sources.values()}) > 1:
        raise InputError("the shards of --data, --selected and --val_data were tokenized in different ways")
    return sources


def matching_tokenizer(name: str | None, made_by: ShardInfo | None) -> TextTokenizer | None:
    """The shards' tokenizer, by name if one is given; None for shards that do not say. InputError if it is another."""
    if name is None and made_by is None:
        cli.warn("the shards do not say how they were tokenized; the model is saved without a tokenizer (--tokenizer)")
        return None
    tokenizer = load_tokenizer(name or made_by.tokenizer)
    if made_by and tokenizer.fingerprint != made_by.fingerprint:
        raise InputError(f"{tokenizer.name}: the shards were tokenized in another way, with {made_by.tokenizer}")
    return tokenizer


def pretrain(
    model: transformers.PreTrainedModel,
    tokenizer: TextTokenizer | None,
    mixture: Mixture,
    validation: Mixture | None,
    training: Training,
    settings: dict,
    out_dir: Path,
    overwrite: bool,
) -> None:
    """Train, from the newest checkpoint if there is one, and save the model with its tokenizer."""
    args = arguments(training, out_dir)
    first, trained = args.process_index == 0, out_dir / "model"
    with sole_writer(out_dir) if first else nullcontext():
        with args.main_process_first(local=False):
            if first:
                refuse_folder(trained, RECORD)
                if overwrite:
                    remove(trained / RECORD, trained)
                claim(out_dir / "run.json", settings, overwrite, CHECKPOINT)
            checkpoint = whole_checkpoint(out_dir)
        if trained.exists():
            if read_json(trained / RECORD) != json.loads(json.dumps(settings)):
                raise InputError(f"{trained}: another run's model; give another --out_dir, or --overwrite")
            if first:
                print(f"{trained}/ is trained already; --overwrite trains anew")
            return
        trainer = trainer_for(model, args, mixture, validation, training.batch_size * mixture.seq_len)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        with atomic(trained, RECORD) if first else nullcontext(trained) as folder:
            trainer.save_model(str(folder))
            if first:
                finish(folder, tokenizer, settings)
    if first:
        print(f"wrote {trained}/ after {mixture.num_tokens:,} tokens; its curve: {out_dir / 'loss.png'}, loss.jsonl")
        print(f"next: python evaluate.py --models {trained}")


def finish(folder: Path, tokenizer: TextTokenizer | None, settings: dict) -> None:
    """Complete what the Trainer saved: an ordinary checkpoint with its tokenizer and how it was trained."""
    if not list(folder.glob("*.safetensors")):
        raise InputError("the Trainer saved no whole weights; leave the state dict's type out of --trainer")
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    if tokenizer:
        tokenizer.save(folder)
    write_json(folder / RECORD, settings)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    mix = dict(args.mix)
    if len(mix) < len(args.mix):
        raise InputError(f"--mix: {SELECTED} or {BASELINE} twice; give each share once")
    for name in filter(None, (args.config, args.model, args.selected)):
        if args.out_dir.resolve() in Path(name).resolve().parents:
            raise InputError(f"--out_dir {args.out_dir}: {name} lies in it; give another folder")
    sources = open_sources(mix, args.selected, args.data, args.val_data, args.eot_id)
    made_by = next(iter(sources.values())).made_by
    tokenizer = matching_tokenizer(args.tokenizer, made_by)
    if args.config:
        model = new_model(args.config, tokenizer, args.seed, args.trust_remote_code)
    else:
        model = trained_model(args.model, args.trust_remote_code)
        matching_tokenizer(args.model, made_by)
    for source in sources.values():
        source.check_vocabulary(model.config.vocab_size)
    require_context(model, args.seq_len)
    validation = sources.pop(VALIDATION, None)
    num_tokens = args.max_tokens or Mixture(sources, mix, args.seq_len).num_tokens
    num_steps = num_tokens // (args.seq_len * args.batch_size)
    if not num_steps:
        raise InputError(
            f"{num_tokens:,} tokens are less than a step of {args.batch_size} sequences of {args.seq_len}; lower "
            "--batch_size"
        )
    mixture = Mixture(sources, mix, args.seq_len, args.seed, num_steps * args.batch_size)
    held_out = None
    if validation:
        count = max(1, min(validation.num_tokens, VALIDATION_TOKENS) // args.seq_len)
        held_out = Mixture({VALIDATION: validation}, {VALIDATION: 1}, args.seq_len, num_sequences=count)
    training = Training(
        num_steps=num_steps,
        batch_size=args.batch_size,
        device_batch_size=min(args.device_batch_size, args.batch_size),
        learning_rate=args.learning_rate,
        warmup_pct=args.warmup_pct,
        decay_pct=args.decay_pct,
        weight_decay=args.weight_decay,
        seed=args.seed,
        dtype=args.dtype,
        cpu=args.device == "cpu",
        num_workers=args.num_workers,
        log_every=args.log_every,
        save_every=args.save_every or max(1, num_steps // 10),
        more=dict(args.trainer),
    )
    settings = {
        "start": args.config or model_digest(model),
        "model": checkpoint_settings(model),
        "mix": {name: [value, sources[name].digest()] for name, value in mix.items()},
        "validation": validation and validation.digest(),
        "seq_len": args.seq_len,
        **{name: value for name, value in asdict(training).items() if name not in SPEED_ONLY},
    }
    pretrain(model, tokenizer, mixture, held_out, training, settings, args.out_dir, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
