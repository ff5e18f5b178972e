"""What users can say to every script that runs a model: the flags, and what they read as."""

import argparse
from dataclasses import dataclass

from common import cli

DEFAULT_MODEL = "hfl/chinese-llama-2-1.3b"


@dataclass(frozen=True)
class Runtime:
    """Where a model runs, and how it is read.

    Attributes:
        device: auto (CUDA if there, else CPU) or a torch device.
        dtype: auto (bfloat16 on CUDA, else float32), checkpoint (as it is stored) or the name of a torch dtype.
        tokenizer: name of the tokenizer, or None for the model's own.
        trust_remote_code: run Python code that the checkpoint brings along.
    """

    device: str = "auto"
    dtype: str = "auto"
    tokenizer: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class PairOptions:
    """Which two models score documents, and how.

    Attributes:
        seq_len: most targets in a window, in tokens.
        tokens_per_batch: most tokens in a forward pass; None takes what suits the device.
        allow_unrelated: take a reference that is no masked copy of the base, as long as it shares the vocabulary.
        compiled: run the models' layers and the loss through torch.compile.
    """

    base_model: str
    reference_model: str
    seq_len: int
    tokens_per_batch: int | None = None
    allow_unrelated: bool = False
    runtime: Runtime = Runtime()
    compiled: bool = False


def add_bad_row_flag(parser: argparse.ArgumentParser) -> None:
    """--on_bad_row, for scripts that read text."""
    parser.add_argument(
        "--on_bad_row",
        choices=["stop", "skip"],
        default="stop",
        help="rows that are not JSON or UTF-8, lack a column or hold no text: stop at one, or skip and count them",
    )


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """--trust_remote_code, off unless asked for."""
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run Python code that the checkpoint brings along"
    )


def add_runtime_flags(parser: argparse.ArgumentParser) -> None:
    """--device, --dtype, --tokenizer and --trust_remote_code."""
    parser.add_argument("--device", default="auto", help="auto (CUDA if there, else CPU), cpu, cuda, cuda:1, …")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="auto is bfloat16 on CUDA and float32 on the CPU",
    )
    parser.add_argument(
        "--tokenizer", help="model name or folder, or tiktoken:gpt2 (default: the tokenizer in the model's folder)"
    )
    add_trust_flag(parser)


def runtime(args: argparse.Namespace) -> Runtime:
    """What `add_runtime_flags` read."""
    return Runtime(args.device, args.dtype, args.tokenizer, args.trust_remote_code)


def add_pair_flags(parser: argparse.ArgumentParser) -> None:
    """The two models, the window, and what `add_runtime_flags` adds."""
    parser.add_argument("--base_model", default=DEFAULT_MODEL, help="model name or folder")
    parser.add_argument("--reference_model", default="reference-model", help="its masked copy from step 3")
    parser.add_argument("--seq_len", type=cli.positive_int, default=4096, help="most tokens in a window")
    parser.add_argument(
        "--tokens_per_batch",
        type=cli.auto_or_positive_int,
        default="auto",
        help="tokens in a forward pass; auto suits the device, and running out of GPU memory halves it",
    )
    parser.add_argument(
        "--allow_unrelated_reference",
        action="store_true",
        help="take a reference that is no masked copy of the base, in two passes",
    )
    add_runtime_flags(parser)


def pair_options(args: argparse.Namespace) -> PairOptions:
    """What `add_pair_flags` read."""
    return PairOptions(
        args.base_model,
        args.reference_model,
        args.seq_len,
        args.tokens_per_batch,
        args.allow_unrelated_reference,
        runtime(args),
    )


def add_separator_flags(parser: argparse.ArgumentParser) -> None:
    """--eot_id and --eot_side, for shards that other programs made."""
    parser.add_argument(
        "--eot_id", type=cli.non_negative_int, help="separator of shards without an index (GPT-2: 50256)"
    )
    parser.add_argument(
        "--eot_side", choices=["first", "last"], default="first", help="where such a separator stands in its document"
    )
