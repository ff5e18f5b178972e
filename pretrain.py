"""Step 7: train a model on a mixture, such as 70 % selected and 30 % baseline tokens, directly from the shards.

    python pretrain.py --config config.json --max_tokens 1_000_000_000
    python pretrain.py --config Qwen/Qwen3-0.6B --mix selected=0.5 baseline=0.5 --data 'data/mine/*.bin'
    python pretrain.py --config Qwen/Qwen3-0.6B --mix corpus+selected        all, and the selection again
    python pretrain.py --model data/SmolLM2-135M-Instruct --learning_rate 1e-5          continue from a checkpoint
    torchrun --nproc_per_node 8 pretrain.py --config config.json --trainer fsdp=true    eight GPUs

Reads   data/top20.parquet and the shards; --config: a name, a folder, or JSON such as
        {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 8}, whose vocabulary is that of the shards
Writes  data/pretrained/: at the end model/, an ordinary checkpoint with its tokenizer; during training loss.jsonl and
        loss.png, a line of {"step", "tokens", "loss", "learning_rate", "grad_norm"} every --log_every steps; run.json
        and checkpoint-*/; the same command continues from the newest of these, at the next sequence

Documents are packed into sequences of --seq_len, in an order that depends only on --seed, on any number of GPUs. The
learning rate rises over --warmup_pct of the steps, stays, and falls to 0 over the last --decay_pct.
"""

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from common import cli, flags
from common.errors import InputError

CORPUS_PLUS_SELECTED = "corpus+selected"  # a mix
# Settings that a later start may change and still continue the run.
SPEED_ONLY = ("device_batch_size", "num_workers", "log_every", "save_every", "cpu")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--config", help="train from scratch: name, folder or JSON file of a config")
    start.add_argument("--model", help="continue from this checkpoint: name or folder")
    data = parser.add_argument_group("what to train on")
    data.add_argument(
        "--selected",
        nargs="+",
        default=["data/top20.parquet"],
        help="selection of step 6; or shards of all that is selected, such as those of an export for another tokenizer",
    )
    data.add_argument("--data", nargs="+", default=["data/fineweb10B/fineweb_train_*.bin"], help="shards of step 4")
    data.add_argument("--val_data", nargs="+", help="shards whose loss is computed at every checkpoint")
    data.add_argument(
        "--allow_other_corpus", action="store_true", help="accept a selection that is not from the shards of --data"
    )
    data.add_argument(
        "--mix",
        nargs="+",
        type=share,
        default=[("selected", 0.7), ("baseline", 0.3)],
        help="shares of the tokens; corpus+selected: all of --data and the selection once more, as in the paper",
    )
    data.add_argument(
        "--max_tokens",
        type=cli.positive_int,
        help="train on this many tokens (default: until a part of the mix ends)",
    )
    data.add_argument("--seq_len", type=cli.positive_int, default=4096, help="tokens in a sequence (the paper: 8192)")
    flags.add_separator_flags(data)
    data.add_argument("--tokenizer", help="saved with the model (default: the one that made the shards)")
    how = parser.add_argument_group("how to train")
    how.add_argument(
        "--batch_size", type=cli.positive_int, default=256, help="sequences in a step, over all GPUs (the paper: 1,024)"
    )
    how.add_argument(
        "--device_batch_size", type=cli.positive_int, default=8, help="sequences in a forward pass of a GPU"
    )
    how.add_argument(
        "--learning_rate", type=cli.positive_float, default=3e-4, help="the highest learning rate (the paper: 4e-4)"
    )
    how.add_argument("--warmup_pct", type=cli.percentage, default=1, help="of the steps (the paper: 0.1)")
    how.add_argument("--decay_pct", type=cli.percentage, default=20, help="of the steps (the paper: 25)")
    how.add_argument("--weight_decay", type=float, default=0.1, help="of AdamW")
    how.add_argument("--seed", type=cli.non_negative_int, default=0, help="of the new weights and of the order")
    how.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 if it is faster here"
    )
    how.add_argument("--num_workers", type=cli.non_negative_int, default=1, help="processes that read, per GPU")
    how.add_argument("--log_every", type=cli.positive_int, default=10, help="steps")
    how.add_argument("--save_every", type=cli.positive_int, help="steps (default: 10 times in all)")
    how.add_argument(
        "--trainer",
        nargs="+",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="other TrainingArguments; a value is JSON or text",
    )
    how.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: CUDA if there is one")
    flags.add_trust_flag(how)
    parser.add_argument("--out_dir", type=Path, default=Path("data/pretrained"), help="where everything goes")
    parser.add_argument("--overwrite", action="store_true", help="delete what another run left in --out_dir")
    return parser.parse_args(argv)


def share(text: str) -> tuple[str, float]:
    """Argument type: `selected=0.7` or `baseline=0.3`, or `corpus+selected`, whose shares the data say."""
    if text == CORPUS_PLUS_SELECTED:
        return text, math.nan
    name, _, value = text.partition("=")
    if name not in ("selected", "baseline"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not selected=SHARE or baseline=SHARE, nor {CORPUS_PLUS_SELECTED}"
        )
    return name, cli.positive_float(value)


def setting(text: str) -> tuple[str, str]:
    """Argument type: `name=value`."""
    name, _, value = text.partition("=")
    return name, value


def steps_of(num_tokens: int, seq_len: int, batch_size: int) -> int:
    """How many whole steps there are in so many tokens; InputError if there is none."""
    num_steps = num_tokens // (seq_len * batch_size)
    if not num_steps:
        raise InputError(
            f"{num_tokens:,} tokens are less than a step of {batch_size} sequences of {seq_len}; lower --batch_size"
        )
    return num_steps


def training_options(args: argparse.Namespace, num_steps: int):
    """The flags as `common.training.trainer.TrainingOptions`."""
    from common.training.trainer import TrainingOptions, other_arguments

    return cli.options(
        TrainingOptions,
        args,
        num_steps=num_steps,
        device_batch_size=min(args.device_batch_size, args.batch_size),
        cpu=args.device == "cpu",
        save_every=args.save_every or max(1, num_steps // 10),
        more=other_arguments(dict(args.trainer)),
    )


def check_out_dir(args: argparse.Namespace) -> None:
    """Raise InputError if an input is in the folder of the outputs."""
    for name in filter(None, (args.config, args.model, *args.selected)):
        if args.out_dir.resolve() in Path(name).resolve().parents:
            raise InputError(f"--out_dir {args.out_dir}: {name} is in this folder; give another folder")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.hub import require_checkpoint
    from common.model.checkpoints import config_settings, model_digest, require_context, vocabulary
    from common.shards.reader import ShardReader
    from common.training import pretraining
    from common.training.mixture import Mixture
    from common.training.models import new_model, trained_model

    mix = dict(args.mix)
    if len(mix) < len(args.mix):
        raise InputError("--mix: selected or baseline twice; give each share once")
    of_data = CORPUS_PLUS_SELECTED in mix
    if of_data and len(mix) > 1:
        raise InputError(f"--mix {CORPUS_PLUS_SELECTED}: says both shares; give it alone")
    check_out_dir(args)
    require_checkpoint(args.config or args.model)
    streams = pretraining.open_streams(
        ["selected", "baseline"] if of_data else mix,
        args.selected,
        args.data,
        args.val_data,
        cli.options(ShardReader, args),
        args.allow_other_corpus,
    )
    made_by = next(iter(streams.values())).made_by
    tokenizer = pretraining.matching_tokenizer(args.tokenizer, made_by)
    if args.config:
        model = new_model(args.config, tokenizer, args.seed, args.trust_remote_code)
    else:
        model = trained_model(args.model, args.trust_remote_code)
        pretraining.matching_tokenizer(args.model, made_by)  # refuses the checkpoint of another tokenizer
    for stream in streams.values():
        stream.require_vocabulary(vocabulary(model))
    require_context(model, args.seq_len, "--seq_len", "lower it, or raise max_position_embeddings in the config")
    held_out = streams.pop(pretraining.VALIDATION, None)
    if of_data:
        mix = {name: stream.num_tokens for name, stream in streams.items()}
    num_tokens = args.max_tokens or Mixture(streams, mix, args.seq_len).num_tokens
    num_steps = steps_of(num_tokens, args.seq_len, args.batch_size)
    mixture = Mixture(streams, mix, args.seq_len, args.seed, num_steps * args.batch_size)
    options = training_options(args, num_steps)
    settings = {
        "start": args.config or model_digest(model),
        "model": config_settings(model),
        "mix": {name: [value, streams[name].digest()] for name, value in mix.items()},
        "validation": held_out and held_out.digest(),
        "seq_len": args.seq_len,
        **{name: value for name, value in asdict(options).items() if name not in SPEED_ONLY},
    }
    run = pretraining.Pretraining(
        model=model,
        tokenizer=tokenizer,
        mixture=mixture,
        validation=pretraining.validation_mixture(held_out, args.seq_len),
        options=options,
        settings=settings,
        out_dir=args.out_dir,
        overwrite=args.overwrite,
    )
    pretraining.pretrain(run)


if __name__ == "__main__":
    cli.run(main)
