"""Exports a selection as text: the rows of the corpus with their scores, or documents decoded from their tokens."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from common import cli
from common.errors import InputError
from common.export.sources import Counts, moved_path, source_files
from common.export.writers import Add, json_writer, parquet_writer
from common.files import atomic, claim, file_digest, is_unclaimed, read_json, refuse_url, remove, scratch, write_json
from common.shards.index import CHAT_INDEX_SCHEMA, INDEX_SUFFIX, read_index
from common.shards.reader import Shard, ShardReader
from common.table.by_source import BySource, by_source
from common.table.schema import TABLE_SCHEMA
from common.text.originals import Rows, column_of, have_texts, originals
from common.text.tokenization import TextTokenizer, load_tokenizer

# In the folder: the files, what was exported, and what the finished files hold. Readers of folders skip dotted names.
PARTS, RECORD, DONE = "part-*", ".export.json", ".parts.json"
DECODED_AT_ONCE = 256  # documents


@dataclass(frozen=True)
class TextSource:
    """Where the texts of a table's documents are.

    Attributes:
        selection: the table.
        text_column: as in `source_files`.
        moved: as in `moved_path`.
        from_tokens: decode the tokens, do not read the corpus.
        tokenizer: that decodes; None for the one that each shard names.
    """

    selection: Path
    text_column: str | None
    moved: list[tuple[str, str]]
    from_tokens: bool
    tokenizer: str | None
    trust_remote_code: bool


@dataclass(frozen=True)
class TextOptions(TextSource):
    """How a selection is exported as text.

    Attributes:
        format: `parquet`, or `jsonl`, also with `.gz` or `.zst`.
        rows_per_file: documents of the selection for each file.
        overwrite: delete another export first.
    """

    format: str
    out_dir: Path
    rows_per_file: int
    overwrite: bool


def export_text(options: TextOptions, reader: ShardReader) -> None:
    """Write the documents of a selection, by file and row; a stopped export goes on after its last finished file.

    Call it as the sole writer of the folder.

    Raises:
        InputError: it is no selection, a file is not there or damaged, or the folder has other things in it.
        SystemExit: with status 3 in the end, if documents have changed since they were scored.
    """
    out_dir, size = options.out_dir, options.rows_per_file
    _refuse_others(out_dir)
    if not options.selection.exists():
        raise InputError(f"{options.selection}: no such file; make it with rank_scores.py")
    with scratch(out_dir) as folder, by_source(options.selection, folder, options.from_tokens) as table:
        source = _source(table, options, reader)
        done = _claimed(options, source.states)
        pieces = _Cut(source.pieces(len(done) * size))
        with cli.progress(len(table), "writing", unit="documents") as bar:
            cli.skip(bar, min(len(done) * size, len(table)))
            while (left := len(table) - len(done) * size) > 0:
                counts, name = Counts(), _name(len(done), options)
                with atomic(out_dir / name) as tmp, _writer(tmp, options.format, folder) as add:
                    for piece in pieces.take(min(size, left)):
                        counts.add(source.write(piece, add))
                        bar.update(len(piece.numbers))
                if not counts.documents:  # a file without rows would have no columns of the corpus
                    remove(out_dir / name)
                done[name] = vars(counts)
                write_json(out_dir / DONE, done)
    total = Counts()
    for counts in done.values():
        total.add(Counts(**counts))
    print(f"wrote {total.documents:,} documents to {out_dir}/{PARTS}")
    total.report()


def scored_texts(
    source: TextSource, reader: ShardReader, folder: Path, total: Counts
) -> Iterator[tuple[list[str], pa.Table]]:
    """The texts of a score table's documents and their rows in it, some at a time, by file and row.

    Args:
        folder: an empty folder.
        total: counts the documents; those that have changed since they were scored are left out.
    Raises:
        InputError: as in `export_text`; or a document is a chat.
    """
    found = []
    with (
        by_source(source.selection, folder, source.from_tokens) as table,
        cli.progress(len(table), "reading texts", unit="documents") as bar,
    ):
        documents = _source(table, source, reader)
        for piece in documents.pieces(0):
            total.add(documents.write(piece, lambda rows, scores: found.append((rows, scores))))
            bar.update(len(piece.numbers))
            for rows, scores in found:
                yield list(_strings(rows, "text" if source.from_tokens else piece.source.text, piece)), scores
            found.clear()


def _strings(rows: Rows, column: str, piece: "_Piece") -> Iterator[str]:
    texts, place = column_of(rows, column), getattr(piece.source, "path", piece.source)
    if texts is None:
        raise InputError(f"{place}: no column {column!r}; name the right one with --text_column")
    for text in texts.to_pylist() if isinstance(texts, pa.ChunkedArray) else texts:
        if not isinstance(text, str):
            raise InputError(
                f"{place}: the column {column!r} is not text; take the texts from the shards: --from_tokens"
            )
        yield text


def _source(table: BySource, options: TextSource, reader: ShardReader) -> "_Originals | _Decoded":
    return _Decoded(table, options, reader) if options.from_tokens else _Originals(table, options)


def _refuse_others(out_dir: Path) -> None:
    refuse_url(out_dir)
    for path in sorted(out_dir.iterdir()) if out_dir.exists() else ():
        if path.name[0] != "." and not path.match(PARTS):
            raise InputError(f"{path}: not of an export as text; give another --out_dir")


def _name(number: int, options: TextOptions) -> str:
    return f"part-{number:05d}.{options.format}"


def _claimed(options: TextOptions, states: list) -> dict[str, dict]:
    """Bind the folder to this export; the counts of its finished files."""
    record, done = options.out_dir / RECORD, options.out_dir / DONE
    names = ("format", "rows_per_file", "text_column", "from_tokens", "tokenizer")
    settings = {
        "selection": str(options.selection),
        "digest": file_digest(options.selection).hex(),
        **{name: getattr(options, name) for name in names},
        "sources": states,
    }
    claiming = record, settings, options.overwrite, PARTS
    is_new = is_unclaimed(*claiming)
    claim(*claiming)
    if is_new:
        remove(done)
    before, finished = read_json(done) if done.exists() else {}, {}
    while (counts := before.get(name := _name(len(finished), options))) and (
        (options.out_dir / name).exists() or not counts["documents"]
    ):
        finished[name] = counts
    remove(*(path for path in options.out_dir.glob(PARTS) if path.name not in finished))
    return finished


def _writer(path: Path, kind: str, folder: Path) -> AbstractContextManager[Add]:
    return parquet_writer(path, folder) if kind == "parquet" else json_writer(path, kind.removeprefix("jsonl"))


@dataclass(frozen=True)
class _Piece:
    """Documents that follow each other in one file or shard.

    Attributes:
        source: the file or shard.
        numbers: of their rows in the file.
        rows: those rows, None if the file does not have them.
        scores: their rows in the selection.
    """

    source: object
    numbers: np.ndarray
    rows: Rows | None
    scores: pa.Table

    def part(self, begin: int, end: int | None) -> "_Piece":
        """Some of them."""
        rows = None if self.rows is None else self.rows[begin:end]
        return _Piece(self.source, self.numbers[begin:end], rows, self.scores[begin:end])


class _Cut:
    """Pieces cut to wanted numbers of documents."""

    def __init__(self, pieces: Iterator[_Piece]):
        self._pieces = pieces
        self._rest: _Piece | None = None

    def take(self, count: int) -> Iterator[_Piece]:
        """The next documents."""
        while count:
            piece = self._rest or next(self._pieces)
            self._rest = piece.part(count, None) if len(piece.numbers) > count else None
            yield (piece := piece.part(0, count))
            count -= len(piece.numbers)


class _Originals:
    """The documents as they are in the corpus; what has changed since it was scored is left out."""

    def __init__(self, table: BySource, options: TextSource):
        self._table = table
        self._files = source_files(table.places, options.moved, options.text_column)
        self.states = [file.state for file in self._files]

    def pieces(self, first: int) -> Iterator[_Piece]:
        """The documents from a row of the ordered table on."""
        for file in self._files:
            begin, done = max(first, file.place.begin), 0
            if begin < file.place.end:
                numbers, scores = (
                    self._table.spans(begin, file.place.end)[:, 0],
                    self._table.rows(begin, file.place.end),
                )
                for rows in originals(file.path, file.text, numbers):
                    yield _Piece(file, numbers[done : done + len(rows)], rows, scores.take(len(rows)))
                    done += len(rows)
                if len(gone := numbers[done:]):
                    yield _Piece(file, gone, None, scores.take(len(gone)))

    def write(self, piece: _Piece, add: Add) -> Counts:
        """Write the documents that are as they were."""
        file, scores = piece.source, piece.scores
        if piece.rows is None:
            return Counts.gone(file.place.name, piece.numbers)
        same = have_texts(file.path, piece.rows, file.text, scores["text_hash"])
        if same.any():
            ours = [*TABLE_SCHEMA.names, *self._table.more]
            add(_chosen(piece.rows, same), scores.select(ours).filter(same))
        return Counts.compared(file.place.name, piece.numbers, same)


def _chosen(rows: Rows, mask: np.ndarray) -> Rows:
    return rows.filter(mask) if isinstance(rows, pa.Table) else [rows[row] for row in np.flatnonzero(mask)]


class _Decoded:
    """The documents as their tokens say, with what the index of each shard knows of them."""

    def __init__(self, table: BySource, options: TextSource, reader: ShardReader):
        self._table, self._options, self._reader = table, options, reader
        self._load = cache(lambda name: load_tokenizer(name, options.trust_remote_code))
        self._paths = [moved_path(place.name, options.moved) for place in table.places]
        self.states = [[str(path), reader.open(path).digest()] for path in self._paths]

    def pieces(self, first: int) -> Iterator[_Piece]:
        """The documents from a row of the ordered table on."""
        for path, place in zip(self._paths, self._table.places, strict=True):
            shard = self._reader.open(path)
            tokenizer, known = self._tokenizer(path, shard), _known(path, shard)
            for begin in range(max(first, place.begin), place.end, DECODED_AT_ONCE):
                end = min(begin + DECODED_AT_ONCE, place.end)
                spans = self._table.spans(begin, end)
                rows = np.searchsorted(shard.spans[:, 0], spans[:, 0]).clip(max=len(shard.spans) - 1)
                if (wrong := (shard.spans[rows] != spans).any(axis=1)).any():
                    start, last = spans[np.argmax(wrong)]
                    raise InputError(
                        f"{self._options.selection}: tokens {start} to {last} are no document of {path}; if the shard "
                        "was made again since, score and rank again"
                    )
                texts = pa.array([_text(shard, row, tokenizer) for row in rows.tolist()], pa.string())
                table = known.take(rows).add_column(0, "text", texts)
                yield _Piece(path, spans[:, 0], table, self._table.rows(begin, end).take(end - begin))

    def write(self, piece: _Piece, add: Add) -> Counts:
        """Write all the documents."""
        add(piece.rows, piece.scores.select([*TABLE_SCHEMA.names, *self._table.more]))
        same = have_texts(piece.source, piece.rows, "text", piece.scores["text_hash"])
        return Counts(documents=len(same), unlike=int((~same).sum()))

    def _tokenizer(self, path: Path, shard: Shard) -> TextTokenizer:
        """The tokenizer that made a shard; InputError if that is not known, or another was named."""
        name = self._options.tokenizer or (shard.info and shard.info.tokenizer)
        if not name:
            raise InputError(f"{path}: does not say which tokenizer made it; name it with --tokenizer")
        tokenizer = self._load(name)
        if shard.info and shard.info.fingerprint != tokenizer.fingerprint:
            raise InputError(f"{path}: tokenized with {shard.info.tokenizer}, and {name} cuts text differently")
        return tokenizer


def _text(shard: Shard, row: int, tokenizer: TextTokenizer) -> str:
    start, end = shard.spans[row].tolist()
    tokens = shard.tokens[start:end]
    first, last = (int(tokens[place] == shard.separator_id) for place in (0, -1))
    return tokenizer.decode(tokens[first : len(tokens) - last].tolist())


def _known(path: Path, shard: Shard) -> pa.Table:
    """What the index of a shard knows of its documents: id, url and what was kept."""
    if shard.info is None:
        return pa.table({"id": pa.nulls(len(shard.spans), pa.string())})
    table, _ = read_index(path.with_suffix(INDEX_SUFFIX))
    ours = {*CHAT_INDEX_SCHEMA.names} - {"id", "url"}
    return table.select([name for name in table.column_names if name not in ours])
