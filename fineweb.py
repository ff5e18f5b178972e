"""Step 4: tokenize text into shards.

    python fineweb.py --version 10B                       FineWeb's sample of 10B tokens, from the hub
    python fineweb.py --version sample --tokenizer data/SmolLM2-135M-Instruct
    python fineweb.py --input 'corpus/*.jsonl.zst' --domain_column source --out_dir data/mine
    python fineweb.py --input chats.jsonl --chat --tokenizer MODEL          {"messages": [{"role": …, "content": …}, …]}

Reads   FineWeb (10B, 100B, 350B), the sample text, or --input: parquet, JSONL (also .gz, .zst) or text files
Writes  data/fineweb10B/fineweb_val_000000.bin, fineweb_train_000001.bin, …, tokens as llm.c lays them out, and beside
        each the index of its documents, .index.parquet: start, end, id, domain, url

A document ends with the tokenizer's end-of-text token and is never split over two shards. Text is streamed, and text
that spells a special token stays text. Of chats (--chat), which go through the tokenizer's own template, later steps
score the answers alone. A run that was stopped goes on behind its last finished shard.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from common import cli
from common.errors import InputError
from common.files import as_path, claim, read_json, sole_writer, write_json
from common.flags import DEFAULT_MODEL, add_bad_row_flag, add_trust_flag
from common.shards.format import MAX_TOKENS
from common.shards.writer import NAME, DatasetWriter, Spans
from common.text.chat import ChatTemplate
from common.text.corpus import BadRows, Columns, SourceDocument, expand, read_files, read_hub
from common.text.sample import sample_documents
from common.text.tokenization import TextTokenizer, load_tokenizer
from common.workers.engine import EngineOptions, Here, add_engine_flags, engine_options, workers
from common.workers.read_ahead import read_ahead

HUB_NAME = "HuggingFaceFW/fineweb"
HUB_CONFIGS = {"10B": "sample-10BT", "100B": "sample-100BT", "350B": "sample-350BT"}
BYTES_PER_TOKEN = 4  # about, for the time left; compressed files hold more
BATCH_DOCUMENTS, BATCH_CHARS = 1024, 4_000_000
UNITS_AHEAD = 4  # of each worker, in memory at most


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--version", choices=[*HUB_CONFIGS, "sample"], default="10B", help="which text to tokenize")
    parser.add_argument("--input", nargs="+", help="files, globs or URLs (s3://…), in place of --version")
    parser.add_argument("--chat", action="store_true", help="--input holds chats; score the assistant's answers alone")
    parser.add_argument("--text_column", help="column that holds the text (default: text, or messages with --chat)")
    parser.add_argument("--id_column", help="column that holds the source's id (default: id, or file and line)")
    parser.add_argument("--domain_column", help="column that holds the domain (default: all one domain)")
    add_bad_row_flag(parser)
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL, help="model name or folder, or tiktoken:gpt2")
    parser.add_argument("--out_dir", type=as_path, help="where the shards go (default: data/fineweb and the version)")
    parser.add_argument("--shard_size", type=shard_size, default=10**8, help="most tokens in a shard")
    parser.add_argument(
        "--val_tokens", type=cli.non_negative_int, help="tokens set aside first (default: a shard of the hub's, else 0)"
    )
    parser.add_argument("--max_docs", type=cli.positive_int, help="stop after so many documents (default: all)")
    add_engine_flags(parser)
    parser.add_argument(
        "--num_workers",
        type=cli.positive_int,
        help="tokenizing threads (default: one for each core); with --engine ray, workers (one for each machine)",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete what another run left in --out_dir")
    add_trust_flag(parser)
    return parser.parse_args(argv)


def shard_size(text: str) -> int:
    """Argument type: a number of tokens that a shard's header can hold."""
    size = cli.positive_int(text)
    if size > MAX_TOKENS:
        raise argparse.ArgumentTypeError(f"{text} is more than a shard's header can hold, {MAX_TOKENS}")
    return size


def open_source(
    version: str, inputs: list[str] | None, columns: Columns, bad_rows: BadRows
) -> tuple[Iterable[SourceDocument], int | None]:
    """The documents to tokenize, and roughly how many tokens they hold where that is known."""
    if inputs:
        num_bytes = sum(path.stat().st_size for path in expand(inputs))
        return read_files(inputs, columns, bad_rows), num_bytes // BYTES_PER_TOKEN
    if version == "sample":
        documents = list(sample_documents())
        return documents, sum(len(document.text) for document in documents) // BYTES_PER_TOKEN
    documents = read_hub(HUB_NAME, HUB_CONFIGS[version], columns, bad_rows, NAME)
    return documents, int(version.removesuffix("B")) * 10**9


def digest(documents: list[SourceDocument]) -> str:
    """A short hash of the sample text, which follows from the packages that are installed."""
    return hashlib.sha256(repr(documents).encode()).hexdigest()[:16]


def batches(documents: Iterable[SourceDocument]) -> Iterator[list[SourceDocument]]:
    """Cut a stream of documents into lists that are bounded in number and in characters."""
    batch, chars = [], 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


class BatchTokenizer:
    """A worker that encodes documents.

    Yields the token ids of all, in one array that is cheap to send, and of each its length and where its answers lie.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer, self.facts = tokenizer, tokenizer.fingerprint

    def __call__(self, documents: list[SourceDocument]) -> Iterator[tuple[np.ndarray, list[int], list[Spans | None]]]:
        answers: list[Spans | None] = [None] * len(documents)
        if documents[0].answers is None:
            encoded = self._tokenizer.encode_batch([document.text for document in documents])
        else:
            encoded, answers = zip(*map(self._encode_chat, documents), strict=True)
        lengths = [len(token_ids) for token_ids in encoded]
        yield np.fromiter(chain.from_iterable(encoded), np.uint32, sum(lengths)), lengths, answers

    def _encode_chat(self, document: SourceDocument) -> tuple[list[int], Spans]:
        """A token is of the answer that its first character is in."""
        token_ids, offsets = self._tokenizer.encode_with_offsets(document.text, special=True)
        begins = [begin for begin, _ in offsets]
        return token_ids, [tuple(np.searchsorted(begins, span).tolist()) for span in document.answers]


def in_order(team: Here, units: Iterable[list[SourceDocument]]) -> Iterator[tuple[list[SourceDocument], tuple]]:
    """Each unit with what the team made of it, in the order of the units."""
    waiting, following = {}, 0
    for number, unit, piece in team.run(units, max_ahead=UNITS_AHEAD * team.num_workers):
        waiting[number] = unit, piece
        while following in waiting:
            yield waiting.pop(following)
            following += 1
        if team.set_aside:
            break
    for unit, reason in team.set_aside:
        raise InputError(
            f"documents {unit[0].id} to {unit[-1].id}: three workers were lost over them ({reason}); take them out, or "
            "run the same command again"
        )


def nothing_left(_unit: list[SourceDocument], _piece: tuple) -> None:
    """What is left of a unit behind its only piece."""


def tokenize(
    documents: Iterable[SourceDocument], team: Here, writer: DatasetWriter, expected_tokens: int | None
) -> None:
    """Encode the documents behind those that the writer already has, and write them."""
    with cli.progress(expected_tokens, "tokenizing") as bar:
        cli.skip(bar, writer.num_tokens)
        try:
            left = read_ahead(batches(islice(documents, writer.num_documents, None)))
            for batch, (token_ids, lengths, answers) in in_order(team, left):
                ends = np.cumsum(lengths)
                for document, start, end, spans in zip(batch, ends - lengths, ends, answers, strict=True):
                    writer.add(document, token_ids[start:end], spans)
                bar.set_postfix_str(f"{writer.num_documents:,} documents{team.status()}", refresh=False)
                bar.update(len(token_ids) + len(batch))
            writer.close()
        finally:
            writer.discard()


def make_dataset(
    version: str,
    inputs: list[str] | None,
    columns: Columns,
    tokenizer: TextTokenizer,
    engine: EngineOptions,
    out_dir: Path,
    shard_size: int,
    val_tokens: int,
    max_docs: int | None,
    chat: ChatTemplate | None,
    bad_rows: BadRows,
    overwrite: bool,
) -> None:
    """Tokenize the source into `out_dir`, or go on with it, or find that it is complete."""
    if tokenizer.separator_id is None:
        raise InputError(f"{tokenizer.name}: it has no end-of-text token to put between documents; take another")
    documents, expected_tokens = open_source(version, inputs, columns, bad_rows)
    settings = {
        "source": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in expand(inputs)]
        if inputs
        else version,
        "sample": digest(documents) if version == "sample" and not inputs else None,
        "columns": vars(columns),
        "chat": chat and chat.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "shard_size": shard_size,
        "val_tokens": val_tokens,
        "max_docs": max_docs,
    }
    record = out_dir / "dataset.json"
    with sole_writer(record):
        if overwrite:  # what is wrong with the new text should show before the old shards are gone
            documents = iter(documents)
            documents = chain(list(islice(documents, 1)), documents)
        claim(record, settings, overwrite, f"{NAME}_*_[0-9][0-9][0-9][0-9][0-9][0-9].*")
        writer = DatasetWriter(out_dir, tokenizer, shard_size, val_tokens)
        summary_path = out_dir / f"{NAME}_summary.json"
        complete = summary_path.exists() and read_json(summary_path) == writer.counts()
        if not complete:
            documents = islice(documents, max_docs and min(max_docs, sys.maxsize))
            with workers(engine, partial(BatchTokenizer, tokenizer), nothing_left, on_gpu=False) as team:
                tokenize(documents, team, writer, None if max_docs else expected_tokens)
            if not writer.num_documents:
                skipped = (
                    f"{bad_rows.count:,} rows skipped, the first: {bad_rows.first}" if bad_rows.count else "give text"
                )
                raise InputError(f"{' '.join(inputs or [version])}: no documents in it; {skipped}")
            write_json(summary_path, writer.counts())
    amount = "{documents:,} documents, {tokens:,} tokens, {shards} shards".format_map(writer.counts())
    print(f"{'reusing' if complete else 'wrote'} {out_dir}/: {amount}")
    cli.report_skipped(bad_rows)
    print(f"next: python attention_influence_scoring.py --base_model MODEL --data '{out_dir}/{NAME}_train_*.bin'")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.chat and not args.input:
        raise InputError("--chat: the texts of --version are no chats; give your own with --input")
    from_hub = not args.input and args.version in HUB_CONFIGS
    tokenizer = load_tokenizer(args.tokenizer, args.trust_remote_code, args.num_workers)
    chat = ChatTemplate(tokenizer) if args.chat else None
    make_dataset(
        args.version,
        args.input,
        Columns(args.text_column or ("messages" if chat else "text"), args.id_column, args.domain_column),
        tokenizer,
        engine_options(args),
        args.out_dir or Path("data") / (NAME + ("_local" if args.input else args.version)),
        args.shard_size,
        args.val_tokens if args.val_tokens is not None else (args.shard_size if from_hub else 0),
        args.max_docs,
        chat,
        BadRows(args.on_bad_row == "skip", chat),
        args.overwrite,
    )


if __name__ == "__main__":
    cli.run(main)
