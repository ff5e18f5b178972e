"""Step 4: tokenize text into shards.

    python fineweb.py --version 10B                       FineWeb's sample of 10B tokens, from the hub
    python fineweb.py --version sample --tokenizer data/SmolLM2-135M-Instruct
    python fineweb.py --input 'corpus/*.jsonl.zst' --domain_column source --out_dir data/mine
    python fineweb.py --input 'fineweb-edu/**/*.parquet' --keep_columns all --out_dir data/edu
    python fineweb.py --input corpus --prefilter data/prefilter              only what prefilter_scores.py apply kept
    python fineweb.py --input chats.jsonl --chat --tokenizer MODEL          {"messages": [{"role": …, "content": …}, …]}

Reads   FineWeb (10B, 100B, 350B), the sample text, a data set of the hub (--hub), or --input: files or folders of
        parquet, Arrow (also from datasets.save_to_disk), JSON, JSONL or text (also .gz, .zst)
Writes  data/fineweb10B/fineweb_val_000000.bin, fineweb_train_000001.bin, …, tokens in the format of llm.c, and next to
        each the index of its documents, .index.parquet: start, end, id, domain, url, text_hash, file and row of the
        source, and the columns of --keep_columns

A column in another is written with a dot: meta.source. Folders named column=value are a column of the rows in them.

A document ends with an end-of-text token (--separator) and is never split over two shards. Text is streamed. Text that
spells a special token stays text. Chats (--chat) go through the tokenizer's own template; later steps score only the
answers in them. Some templates print today's date: give --chat_date, so that the same command goes on tomorrow. The
same command continues a stopped run after its last finished shard.
"""

import argparse
from datetime import date
from pathlib import Path

from common import cli, flags
from common.errors import InputError
from common.files import as_path
from common.hub import DEFAULT_MODEL


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--version", choices=["10B", "100B", "350B", "sample"], default="10B", help="text to tokenize")
    own = parser.add_mutually_exclusive_group()
    own.add_argument("--input", nargs="+", help="files, folders, globs or URLs (s3://…), in place of --version")
    own.add_argument("--hub", metavar="NAME", help="a data set of the Hugging Face hub, in place of --version")
    parser.add_argument("--hub_config", metavar="NAME", help="its configuration (default: its first)")
    parser.add_argument("--hub_split", metavar="NAME", help="its split (default: train)")
    parser.add_argument("--chat", action="store_true", help="--input holds chats; score only the assistant's answers")
    parser.add_argument(
        "--chat_date",
        type=iso_date,
        help="date for a chat template that prints today's, as 2024-07-26: every run makes the same shards then",
    )
    parser.add_argument("--text_column", help="column that holds the text (default: text, or messages with --chat)")
    parser.add_argument("--id_column", help="column that holds the source's id (default: id, or file and line)")
    parser.add_argument("--domain_column", help="column that holds the domain (default: all one domain)")
    parser.add_argument(
        "--keep_columns",
        type=column_names,
        default=[],
        metavar="A,B,C",
        help="columns that stay with each document, in the index, the scores and the selection; all: every column",
    )
    parser.add_argument(
        "--prefilter", type=as_path, help="folder of prefilter_scores.py apply: tokenize only the documents it kept"
    )
    flags.add_bad_row_flag(parser)
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL, help="model name or folder, or tiktoken:gpt2")
    parser.add_argument(
        "--separator",
        help="special token that ends each document (default: the end of text in pretraining, such as <|endoftext|>)",
    )
    parser.add_argument("--out_dir", type=as_path, help="where the shards go (default: data/fineweb and the version)")
    parser.add_argument(
        "--shard_size", type=shard_size, help="most tokens in a shard (default: 100_000_000, of the sample 30_000)"
    )
    parser.add_argument(
        "--val_tokens",
        type=cli.non_negative_int,
        help="tokens set aside first (default: FineWeb one shard, others 0)",
    )
    parser.add_argument("--max_docs", type=cli.positive_int, help="stop after this many documents (default: all)")
    flags.add_engine_flags(
        parser, "tokenizing threads (default: one per core); with --engine ray, workers (default: one per machine)"
    )
    parser.add_argument("--overwrite", action="store_true", help="delete another run's shards in --out_dir")
    flags.add_trust_flag(parser)
    return parser.parse_args(argv)


def iso_date(text: str) -> date:
    """Argument type: a date."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date; write it as 2024-07-26") from None


def column_names(text: str) -> list[str]:
    """Argument type: names with commas between them, or `all`."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names) or (len(names) > 1 and "all" in names):
        raise argparse.ArgumentTypeError(f"{text!r}: give names with commas between them, each once, or all alone")
    return names


def shard_size(text: str) -> int:
    """Argument type: a number of tokens that the header of a shard can hold."""
    from common.shards.format import MAX_TOKENS

    size = cli.positive_int(text)
    if size > MAX_TOKENS:
        raise argparse.ArgumentTypeError(f"{text} is more than the header of a shard can hold, {MAX_TOKENS}")
    return size


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.reference import base_of
    from common.scoring.known import REFERENCE
    from common.shards.tokenizing import DatasetOptions, files_read_before, make_dataset
    from common.shards.writer import NAME
    from common.text.chat import ChatTemplate
    from common.text.corpus import Columns, RowReader
    from common.text.fineweb import HUB_CONFIGS, kept_by, open_files, open_hub, open_version
    from common.text.prefiltered import Prefilter
    from common.text.tokenization import load_tokenizer, use_threads
    from common.workers.team import EngineOptions

    if (args.hub_config or args.hub_split) and not args.hub:
        raise InputError("--hub_config and --hub_split are of a data set of the hub; name it with --hub")
    own = args.input or args.hub
    if args.chat and not own:
        raise InputError("--chat: the texts of --version are no chats; give your own with --input or --hub")
    if args.keep_columns and args.version == "sample" and not own:
        raise InputError("--keep_columns: the sample text has no columns; leave it out")
    if args.prefilter and not args.input:
        raise InputError("--prefilter: it lists files; give those with --input, or leave it out")
    if args.chat_date and not args.chat:
        raise InputError("--chat_date: only the template of chats prints a date; give --chat too, or leave it out")
    engine = cli.options(EngineOptions, args)
    version = None if own else args.version
    args.shard_size = args.shard_size or (30_000 if version == "sample" else 10**8)
    use_threads(args.num_workers)
    tokenizer = load_tokenizer(args.tokenizer, args.trust_remote_code)
    if args.separator is not None:
        tokenizer.use_separator(args.separator)
    chat = ChatTemplate(tokenizer, args.chat_date) if args.chat else None
    columns = Columns(args.text_column or ("messages" if chat else "text"), args.id_column, args.domain_column)
    reader = RowReader(columns, args.on_bad_row == "skip", chat, args.keep_columns)
    options = cli.options(
        DatasetOptions,
        args,
        out_dir=args.out_dir or Path("data") / (NAME + (version or f"_{(args.hub or 'local').replace('/', '_')}")),
        val_tokens=(args.shard_size if version in HUB_CONFIGS else 0) if args.val_tokens is None else args.val_tokens,
    )
    if args.hub:
        corpus = open_hub(args.hub, args.hub_config, args.hub_split or "train", reader)
    elif args.input:
        corpus = open_files(args.input, reader, files_read_before(options.out_dir))
    else:
        corpus = open_version(args.version, reader)
    prefilter = args.prefilter and Prefilter(args.prefilter)
    corpus = kept_by(prefilter, corpus, args.max_docs) if prefilter else corpus
    make_dataset(corpus, reader, tokenizer, options, engine)
    reader.report()
    if prefilter:
        prefilter.report()
    of_tiktoken, masked = args.tokenizer.startswith("tiktoken:"), base_of(REFERENCE)
    model = f"{'--tokenizer' if of_tiktoken else '--base_model'} {args.tokenizer}"
    if masked is None or (not of_tiktoken and masked != args.tokenizer):
        model += " --reference_model ITS_MASKED_COPY"
    out = f" --out {options.out_dir}/ai_scores.tsv" if own else ""
    shards = f"{options.out_dir}/{NAME}_train_*.bin"
    print(f"next: python attention_influence_scoring.py {model} --data '{shards}'{out}")


if __name__ == "__main__":
    cli.run(main)
