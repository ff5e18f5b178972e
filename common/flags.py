"""The flags that several scripts share. `cli.options` turns them into the dataclasses of the other folders."""

import argparse

from common import cli


def add_bad_row_flag(parser: argparse.ArgumentParser) -> None:
    """--on_bad_row, for scripts that read text."""
    parser.add_argument(
        "--on_bad_row",
        choices=["stop", "skip"],
        default="stop",
        help="rows that are not JSON or UTF-8, lack a column or hold no text: stop at the first, or skip and count",
    )


def add_corpus_flags(parser: argparse.ArgumentParser) -> None:
    """--text_column and --moved, for scripts that read the corpus again."""
    parser.add_argument(
        "--text_column", help="column that holds the text (default: as dataset.json beside the shards says, or text)"
    )
    parser.add_argument(
        "--moved",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="files whose path begins with OLD, as the table has it, begin with NEW now; may be given several times",
    )


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """--trust_remote_code, off by default."""
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run Python code that comes with the checkpoint"
    )


def add_runtime_flags(parser: argparse.ArgumentParser) -> None:
    """The fields of `common.model.checkpoints.Runtime`."""
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one, otherwise CPU), cpu, cuda:1, …")
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


def add_pair_flags(parser: argparse.ArgumentParser) -> None:
    """The fields of `PairOptions`, --score_separator, --score_tokens, and what `add_runtime_flags` adds."""
    parser.add_argument(
        "--base_model", help="model name or folder (default: from the record of the scores, or of the reference)"
    )
    parser.add_argument(
        "--reference_model",
        nargs="+",
        metavar="[DOMAIN=]FOLDER",
        help="its masked copy from step 3 (default: from the scores' record, or reference-model); for domains with "
        "heads of their own also default=FOLDER code=FOLDER …",
    )
    parser.add_argument(
        "--seq_len",
        type=cli.positive_int,
        help="most tokens in a window (default: from the scores' record, or 4096, or the model's context if shorter)",
    )
    parser.add_argument(
        "--score_separator",
        type=cli.yes_or_no,
        metavar="yes|no",
        help="whether the token between documents counts in the loss (default: from the scores' record, or yes)",
    )
    parser.add_argument(
        "--score_tokens",
        type=cli.number(int, low=2),
        metavar="N",
        help="of a document longer than 2N tokens, score the first N and N from a random place after them (default: "
        "from the scores' record, or every token)",
    )
    parser.add_argument(
        "--tokens_per_batch",
        type=cli.auto_or_positive_int,
        default="auto",
        help="tokens in a forward pass; auto suits the device, and is halved when GPU memory runs out",
    )
    parser.add_argument(
        "--allow_unrelated_reference",
        action="store_true",
        help="accept a reference that is no masked copy of the base; it runs as a second model",
    )
    add_runtime_flags(parser)


def add_separator_flags(parser: argparse.ArgumentParser) -> None:
    """--eot_id, --eot_side and --token_dtype, for shards that other programs made."""
    parser.add_argument(
        "--eot_id", type=cli.non_negative_int, help="separator in shards without an index (GPT-2: 50256)"
    )
    parser.add_argument(
        "--eot_side",
        choices=["first", "last"],
        default="first",
        help="whether such a separator is the first or the last token of its document",
    )
    parser.add_argument(
        "--token_dtype",
        choices=["uint8", "uint16", "uint32"],
        help="how OLMo-core's .npy without a header store a token (default: by the size of the model's vocabulary)",
    )


def add_data_dir_flag(parser: argparse.ArgumentParser) -> None:
    """--data_dir, for scripts that follow doc_ids to shards."""
    parser.add_argument(
        "--data_dir",
        nargs="+",
        default=["."],
        help="folders that hold the shards of the doc_ids",
    )


def add_engine_flags(parser: argparse.ArgumentParser, num_workers: str) -> None:
    """The fields of `common.workers.team.EngineOptions`; `num_workers` is the help of --num_workers."""
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="local is this process; ray is many, on one machine or a cluster (requirements/ray.txt)",
    )
    parser.add_argument(
        "--ray_address", help="a running cluster's host:port, or auto (default: RAY_ADDRESS, or one started here)"
    )
    parser.add_argument("--num_workers", type=cli.positive_int, help=num_workers)
