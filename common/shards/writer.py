"""A folder of shards, written document by document; a stopped run continues after its last finished shard."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from common.shards.format import ShardWriter, token_dtype
from common.shards.index import ANSWERS, INDEX_SUFFIX, PLACES, ShardInfo, read_index, sources_of, write_index
from common.shards.reader import ShardReader
from common.text.corpus import SourceDocument
from common.text.kept import PREDICTED
from common.text.tokenization import TextTokenizer

NAME = "fineweb"
NOT_ABOUT = {*(name for name, _ in PLACES), ANSWERS.name, PREDICTED}  # columns that do not say what a document is
SOURCES_AT_ONCE = 1024  # documents
Spans = list[tuple[int, int]]


class DatasetWriter:
    """Fills `fineweb_val_000000.bin` (if asked for), `fineweb_train_000001.bin`, … with whole documents.

    A shard ends before the document that would make it longer than `shard_size`; a document longer than that has a
    shard of its own. A shard gets its final name only when it and its index are complete.

    Args:
        val_tokens: size of the validation shard, the first; 0 for none.

    Attributes:
        num_documents, num_tokens, num_shards: in finished shards, including those of an earlier run.
    """

    def __init__(self, folder: Path, tokenizer: TextTokenizer, shard_size: int, val_tokens: int):
        self.folder, self.tokenizer = folder, tokenizer
        self.shard_size, self.val_tokens = shard_size, val_tokens
        self.num_documents = self.num_tokens = self.num_shards = 0
        self._rows: list[dict] = []
        self._shard: ShardWriter | None = None
        self._found: list[Path] = []
        while (path := self._path()).exists():
            shard = ShardReader().open(path)
            self._found.append(path)
            self._count(len(shard.spans), len(shard.tokens))

    def sources(self) -> Iterator[pa.Table]:
        """The index of each document of an earlier run, some rows at a time, without its place and answers."""
        for path in self._found:
            table, _ = read_index(path.with_suffix(INDEX_SUFFIX))
            about = [name for name in table.column_names if name not in NOT_ABOUT]
            for batch in table.select(about).to_batches(SOURCES_AT_ONCE):
                yield pa.Table.from_batches([batch])

    @property
    def num_added(self) -> int:
        """Documents in finished shards and in the current one."""
        return self.num_documents + len(self._rows)

    def add(self, document: SourceDocument, token_ids: Sequence[int], answers: Spans | None = None) -> None:
        """Append a document and then the separator; `answers` (for a chat) are spans of tokens."""
        length = len(token_ids) + 1
        limit = self.val_tokens if self._is_validation() else self.shard_size
        if self._shard and self._shard.num_tokens + length > limit:
            self.close()
        if not self._shard:
            self._shard = ShardWriter(self._path(), token_dtype(self.tokenizer.vocab_size))
        start = self._shard.num_tokens
        self._shard.append(token_ids)
        self._shard.append([self.tokenizer.separator_id])
        self._rows.append(
            {
                "start": start,
                "end": start + length,
                **sources_of([document])[0],
                **({} if answers is None else {"answers": answers}),
            }
        )

    def close(self) -> None:
        """Finish the current shard, its index first, so that there is never a `.bin` without its index."""
        if not self._shard:
            return
        tokenizer, num_tokens = self.tokenizer, self._shard.num_tokens
        info = ShardInfo(
            tokenizer.name, tokenizer.vocab_size, tokenizer.fingerprint, tokenizer.separator_id, "last", num_tokens
        )
        index = self._shard.path.with_suffix(INDEX_SUFFIX)
        write_index(index, self._rows, info)
        self._shard.close(index)
        self._count(len(self._rows), num_tokens)
        self._shard, self._rows = None, []

    def discard(self) -> None:
        """Drop the current, unfinished shard."""
        if self._shard:
            self._shard.discard()

    def counts(self) -> dict[str, int]:
        """Documents, tokens and shards in finished shards."""
        return {"documents": self.num_documents, "tokens": self.num_tokens, "shards": self.num_shards}

    def _is_validation(self) -> bool:
        return self.val_tokens > 0 and self.num_shards == 0

    def _path(self) -> Path:
        split = "val" if self._is_validation() else "train"
        number = self.num_shards + (self.val_tokens == 0)
        return self.folder / f"{NAME}_{split}_{number:06d}.bin"

    def _count(self, num_documents: int, num_tokens: int) -> None:
        self.num_documents += num_documents
        self.num_tokens += num_tokens
        self.num_shards += 1
