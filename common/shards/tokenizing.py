"""Turns documents into a folder of shards: workers encode them, and they are written in the order of the corpus."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa

from common import cli
from common.errors import InputError
from common.files import claim, read_json, remove, sole_writer, write_json
from common.shards.index import ORIGIN, source_table, sources_of
from common.shards.writer import NAME, DatasetWriter, Spans
from common.text.corpus import RowReader, SourceDocument, few_domains
from common.text.fineweb import Corpus
from common.text.kept import CANNOT_CONVERT, as_schema, as_text
from common.text.tokenization import TextTokenizer
from common.workers.read_ahead import read_ahead
from common.workers.team import EngineOptions, Team, workers

BATCH_DOCUMENTS, BATCH_CHARS = 1024, 4_000_000
RECORD = "dataset.json"  # in the folder of shards: the settings of its run
BATCHES_AHEAD = 4  # most batches in memory, for each worker


@dataclass(frozen=True)
class DatasetOptions:
    """A folder of shards.

    Attributes:
        shard_size: most tokens in a shard.
        val_tokens: most tokens in the validation shard, 0 for none.
        max_docs: most documents, None for all.
        overwrite: delete the shards of another run first.
    """

    out_dir: Path
    shard_size: int
    val_tokens: int
    max_docs: int | None
    overwrite: bool


class BatchTokenizer:
    """A worker that encodes documents.

    For a batch it yields the token ids of all documents as one array, and for each document its number of tokens and
    the spans of its answers.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer, self.description = tokenizer, tokenizer.fingerprint

    def __call__(self, documents: list[SourceDocument]) -> Iterator[tuple[np.ndarray, list[int], list[Spans | None]]]:
        answers: list[Spans | None] = [None] * len(documents)
        if documents[0].answers is None:
            encoded = self._encode(documents)
        else:
            encoded, answers = zip(*map(self._encode_chat, documents), strict=True)
        lengths = [len(token_ids) for token_ids in encoded]
        yield np.fromiter(chain.from_iterable(encoded), np.uint32, sum(lengths)), lengths, answers

    def _encode(self, documents: list[SourceDocument]) -> list[list[int]]:
        """Token ids of each document; InputError names one that the tokenizer cannot encode."""
        try:
            return self._tokenizer.encode_batch([document.text for document in documents])
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of Rust
                raise
            if len(documents) == 1:
                raise InputError(
                    f"document {documents[0].id}: {self._tokenizer.name} cannot encode it ({error}); take it out"
                ) from None
            for document in documents:
                self._encode([document])
            raise

    def _encode_chat(self, document: SourceDocument) -> tuple[list[int], Spans]:
        """Token ids and answers; a token belongs to the answer that holds its first character."""
        token_ids, offsets = self._tokenizer.encode_with_offsets(document.text, special=True)
        begins = [begin for begin, _ in offsets]
        return token_ids, [tuple(np.searchsorted(begins, span).tolist()) for span in document.answers]


def make_dataset(
    corpus: Corpus, reader: RowReader, tokenizer: TextTokenizer, options: DatasetOptions, engine: EngineOptions
) -> None:
    """Tokenize a corpus into a folder of shards, or continue a stopped run; a complete folder is left as it is.

    Args:
        reader: what the documents of the corpus are read with.
    Raises:
        InputError: the tokenizer has no end-of-text token, another run wrote the folder, or there are no documents.
    """
    if tokenizer.separator_id is None:
        raise InputError(
            f"{tokenizer.name}: it has no end-of-text token to put between documents; name one: --separator"
        )
    print(f"separator: {tokenizer.decode([tokenizer.separator_id])}, token {tokenizer.separator_id}")
    settings = {
        "prefilter": None,
        **corpus.identity,
        "columns": vars(reader.columns),
        "keep_columns": list(reader.keep) or None,
        "chat": reader.chat and reader.chat.fingerprint,
        "chat_date": reader.chat and reader.chat.date,
        "tokenizer": tokenizer.fingerprint,
        "separator": tokenizer.separator_id,
        "shard_size": options.shard_size,
        "val_tokens": options.val_tokens,
        "max_docs": options.max_docs,
    }
    record, summary_path = options.out_dir / RECORD, options.out_dir / f"{NAME}_summary.json"
    most = options.max_docs and min(options.max_docs, sys.maxsize)
    with sole_writer(record):
        documents = few_domains(islice(corpus.documents, most), reader.columns)
        if options.overwrite:  # read one document first: an error in the new text must show before the old shards go
            documents = chain(list(islice(documents, 1)), documents)
        known = settings if options.overwrite else settings | _grown(record, settings)
        claim(record, known, options.overwrite, f"{NAME}_*_[0-9][0-9][0-9][0-9][0-9][0-9].*")
        writer = DatasetWriter(options.out_dir, tokenizer, options.shard_size, options.val_tokens)
        unchanged = known == settings
        complete = summary_path.exists() and read_json(summary_path) == writer.counts() and unchanged
        if not complete:
            rest = _after(documents, writer, options.out_dir, unchanged, bool(settings["prefilter"]))
            remove(summary_path)
            write_json(record, settings)
            with workers(engine, partial(BatchTokenizer, tokenizer), _no_rest, on_gpu=False) as team:
                _tokenize(rest, team, writer, None if options.max_docs else corpus.expected_tokens)
            if not writer.num_documents:
                skipped = f"{reader.num_skipped:,} rows skipped, the first: {reader.first_skipped}"
                raise InputError(f"{corpus.name}: no documents in it; {skipped if reader.num_skipped else 'give text'}")
            write_json(summary_path, writer.counts())
    amount = "{documents:,} documents, {tokens:,} tokens, {shards} shards".format_map(writer.counts())
    print(f"{'reusing' if complete else 'wrote'} {options.out_dir}/: {amount}")


def files_read_before(out_dir: Path) -> list[str]:
    """The files that an earlier run into this folder has read or would read, in order."""
    record = out_dir / RECORD
    sources = read_json(record).get("source") if record.exists() else None
    names = [each[0] for each in sources if isinstance(each, list) and each] if isinstance(sources, list) else []
    return names if all(isinstance(name, str) for name in names) else []


def _grown(record: Path, settings: dict) -> dict:
    """Settings that grow with files, as an earlier run recorded them, if each of its files is still among the sources.

    They are the sources, and of a prefilter what it kept of them and what is known of its pilot. Whether those files
    hold the same documents as before is seen when they are read again.
    """
    before, now = files_read_before(record.parent), settings["source"]
    if not (isinstance(now, list) and before and before == [name for name, *_ in now[: len(before)]]):
        return {}
    old, prefilter = read_json(record), settings["prefilter"]
    chosen = {name: value for name, value in (prefilter or {}).items() if name not in ("domains", "pilot", "in_part")}
    grown = old.get("prefilter") if isinstance(old.get("prefilter"), dict) else {}
    return {"source": old["source"], "prefilter": prefilter and grown | chosen}


def _after(
    documents: Iterator[SourceDocument], writer: DatasetWriter, folder: Path, same_files: bool, filtered: bool
) -> Iterator[SourceDocument]:
    """The documents after those that the writer has; InputError if one of those differs from its row in the index.

    Args:
        same_files: no file has changed, which is relied upon where older shards do not know the texts.
        filtered: a prefilter keeps the documents; for the message.
    """
    if not writer.num_documents:
        return documents
    with cli.progress(writer.num_documents, "reading what is tokenized", unit="documents") as bar:
        for before in writer.sources():
            found = list(islice(documents, len(before)))
            now = source_table(sources_of(found), pa.schema(ORIGIN))
            with suppress(*CANNOT_CONVERT):  # else a value has another type, and differs
                now = as_schema(now, before.schema)
            known = same_files or "text_hash" in before.column_names
            text = {field.name for field in before.schema if pa.types.is_string(field.type)} - {*dict(ORIGIN)}
            for row, (old, new) in enumerate(zip_longest(before.to_pylist(), now.to_pylist())):
                if new:  # text may be values of several types: its neighbours change what they become, so ask the value
                    new |= {name: found[row].kept.get(name) for name in text}
                if not known or not new or any(as_text(old[name]) != as_text(new.get(name)) for name in old):
                    changed = f"document {found[row].id}" if new else "one of the files"
                    since = "since, or the prefilter keeps others (new files move its cut)" if filtered else "since"
                    raise InputError(
                        f"{folder} holds the work of another run: {changed} has changed {since}; give another output, "
                        "or --overwrite"
                    )
            bar.update(len(before))
    return documents


def _no_rest(_batch: list[SourceDocument], _piece: tuple) -> None:
    """The rest of a batch after its piece: None, because a batch has one piece."""


def _tokenize(
    documents: Iterable[SourceDocument], team: Team, writer: DatasetWriter, expected_tokens: int | None
) -> None:
    """Encode the documents that the writer does not have yet, and write them."""
    with cli.progress(expected_tokens, "tokenizing") as bar:
        cli.skip(bar, writer.num_tokens)
        try:
            batches = read_ahead(_batches(documents))
            for batch, (token_ids, lengths, answers) in _in_order(team, batches):
                ends = np.cumsum(lengths)
                for document, start, end, spans in zip(batch, ends - lengths, ends, answers, strict=True):
                    writer.add(document, token_ids[start:end], spans)
                bar.set_postfix_str(f"{writer.num_added:,} documents{team.status()}", refresh=False)
                bar.update(len(token_ids) + len(batch))
            writer.close()
        finally:
            writer.discard()


def _batches(documents: Iterable[SourceDocument]) -> Iterator[list[SourceDocument]]:
    """Cut a stream of documents into lists of limited length and number of characters."""
    batch, chars = [], 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _in_order(team: Team, batches: Iterable[list[SourceDocument]]) -> Iterator[tuple[list[SourceDocument], tuple]]:
    """Each batch with the result of the team, in the order of the batches."""
    waiting, following = {}, 0
    for number, batch, piece in team.run(batches, max_ahead=BATCHES_AHEAD * team.num_workers):
        waiting[number] = batch, piece
        while following in waiting:
            yield waiting.pop(following)
            following += 1
        if team.set_aside:
            break
    for batch, reason in team.set_aside:
        raise InputError(
            f"documents {batch[0].id} to {batch[-1].id}: three workers were lost while they encoded them ({reason}); "
            "take these documents out, or run the same command again"
        )
