"""The sources and texts of the documents of a table, read from their shards and indexes."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError, one_line, visible
from common.files import as_path
from common.shards.doc_id import ARRAY, parse_doc_id, require_inside
from common.shards.format import check_vocabulary
from common.shards.index import INDEX_SUFFIX, read_index
from common.shards.reader import ShardReader
from common.table.tables import with_slices

HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?(?P<host>[^/?#:]+)"
FIRST_PART = r"^(?P<first>[^/:]+|/[^:]+)[/:]"
INDEXES_HELD = 4  # in memory; few, because tables are in the order of their shards


def source_names(index: pa.Table) -> pa.Array:
    """The source of each document of an index: the host of its URL, or else the beginning of its id.

    The beginning ends before the first `/` or `:`, and in an absolute path before the `:`. An id without either is the
    source itself; without an id the source is empty.
    """
    urls, ids = (pc.fill_null(index[name], "") for name in ("url", "id"))
    host = pc.utf8_lower(pc.struct_field(pc.extract_regex(urls, HOST), "host"))
    first = pc.struct_field(pc.extract_regex(ids, FIRST_PART), "first")
    return pa.concat_arrays(pc.coalesce(host, first, ids).chunks or [pa.array([], pa.string())])


class Origins:
    """Sources of documents by the rows of a table, shard by shard.

    Args:
        folders: the folders in which shards may be.
    """

    def __init__(self, folders: Sequence[Path]):
        self._folders = folders
        self._index = lru_cache(INDEXES_HELD)(self._read_index)

    def _read_index(self, path: Path) -> tuple[np.ndarray, pa.Array] | None:
        """The starts of a shard's documents, and their sources; None for a shard without an index."""
        if not path.exists():
            raise InputError(f"{path}: no such file, but the score table names documents in it")
        index_path = path.with_suffix(INDEX_SUFFIX)
        if path.suffix == ARRAY or not index_path.exists():
            return None
        index = read_index(index_path)[0]
        return (index["start"].to_numpy(), source_names(index)) if len(index) else None

    def of(self, table: pa.Table) -> pa.Array:
        """The source of each row of a score table, as a dictionary array of strings; "" if it is not known.

        Raises:
            InputError: a doc_id is malformed, leads outside the folders, or to no shard.
        """
        slices = with_slices(table.select(["doc_id"]))
        shards = slices["shard"].combine_chunks().dictionary_encode()
        starts, shard_of = slices["start"].to_numpy(), shards.indices.to_numpy()
        rows, found = [], []
        for number, shard in enumerate(shards.dictionary.to_pylist()):
            here = np.flatnonzero(shard_of == number)
            doc_id, path = table["doc_id"][int(here[0])].as_py(), as_path(shard)
            require_inside(doc_id, path, self._folders)
            rows.append(here)
            found.append(self._names(path, starts[here]))
        order = np.argsort(np.concatenate(rows), kind="stable")
        return pa.concat_arrays(found).take(pa.array(order)).dictionary_encode()

    def _names(self, path: Path, starts: np.ndarray) -> pa.Array:
        index = self._index(path)
        if index is None:
            return pa.array([""] * len(starts), pa.string())
        known, names = index
        places = np.searchsorted(known, starts, side="right") - 1
        return names.take(pa.array(np.maximum(places, 0)))


def texts(doc_ids: Sequence[str], reader: ShardReader) -> Iterator[tuple[int, str, str, str]]:
    """The documents' texts, one shard after another.

    The tokens of a shard are not compared with their checksum, because that reads the whole corpus for few documents.

    Args:
        reader: with the tokenizer of the shards.
    Yields:
        (place in `doc_ids`, text with control characters as escapes and without the separator, source id, url)
    Raises:
        InputError: a shard is missing or damaged, was made with another tokenizer, or has no such document.
    """
    places = [parse_doc_id(doc_id) for doc_id in doc_ids]
    tokenizer = reader.model_tokenizer
    by_shard: dict[Path, list[int]] = {}
    for number, (path, *_) in enumerate(places):
        by_shard.setdefault(path, []).append(number)
    for path, numbers in by_shard.items():
        shard = reader.open(path)
        index = read_index(path.with_suffix(INDEX_SUFFIX))[0] if shard.info else None
        for number in numbers:
            _, start, end = places[number]
            row = shard.row_of(start, end)
            token_ids = shard.tokens[start:end]
            check_vocabulary(path, token_ids, tokenizer.vocabulary)
            text = visible(tokenizer.decode(token_ids[token_ids != shard.separator_id].tolist()))
            about = [one_line(index[name][row].as_py() or "") for name in ("id", "url")] if index else ["", ""]
            yield number, text, *about
