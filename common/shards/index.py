"""The index next to a shard: `name.index.parquet`, a row for each document.

The columns are start, end, id, domain, url, text_hash, file and row (of the source, from 0), for chats also answers,
which counts tokens from the document's first, and then the columns that were kept from the source. Older shards lack
text_hash, or file and row. The schema's metadata says how the tokens were made. The header of the shard holds the
digest of its index, so the two cannot be confused, and a damaged index is never parsed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import atomic, for_pyarrow
from common.text.corpus import SourceDocument
from common.text.kept import kept_table

INDEX_SUFFIX = ".index.parquet"
NAMES = [("id", pa.string()), ("domain", pa.string()), ("url", pa.string())]
PLACES = [("start", pa.int64()), ("end", pa.int64())]
# Where a document came from: its text's hash, and the number of its row in a file.
ORIGIN = [*NAMES, ("text_hash", pa.uint64()), ("file", pa.string()), ("row", pa.int64())]
INDEX_SCHEMA = pa.schema([*PLACES, *ORIGIN])
ANSWERS = pa.field("answers", pa.list_(pa.list_(pa.int64(), 2)))
CHAT_INDEX_SCHEMA = INDEX_SCHEMA.append(ANSWERS)
REQUIRED = [name for name, _ in (*PLACES, *NAMES)]  # in older indexes too
METADATA_KEY = b"attention_influence"


@dataclass(frozen=True)
class ShardInfo:
    """How a shard's tokens were made."""

    tokenizer: str
    vocab_size: int
    fingerprint: str
    separator_id: int
    separator_side: str
    num_tokens: int


def write_index(path: Path, rows: list[dict], info: ShardInfo) -> None:
    """Write a shard's index.

    Args:
        rows: as from `sources_of`, with start and end, and only for chats answers.
    """
    metadata = {METADATA_KEY: json.dumps(asdict(info)).encode()}
    schema = CHAT_INDEX_SCHEMA if any("answers" in row for row in rows) else INDEX_SCHEMA
    with atomic(path) as tmp:
        pq.write_table(source_table(rows, schema).replace_schema_metadata(metadata), tmp)


def read_index(path: Path, columns: list[str] | None = None) -> tuple[pa.Table, ShardInfo]:
    """Read a shard's index, or those of some columns that are there; InputError if it is not one."""
    try:
        with pq.ParquetFile(for_pyarrow(path), pre_buffer=False) as file:
            schema = file.schema_arrow
            info = ShardInfo(**json.loads(schema.metadata[METADATA_KEY]))
            table = file.read([name for name in schema.names if name in columns] if columns is not None else None)
        table.validate(full=True)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the index of a shard ({error}); make both again with fineweb.py") from None
    there = [field for field in CHAT_INDEX_SCHEMA if field.name in REQUIRED or field.name in schema.names]
    if not all(field.name in schema.names and schema.field(field.name).type == field.type for field in there):
        raise InputError(f"{path}: columns {schema.names}, expected {INDEX_SCHEMA.names}; make both again")
    return table, info


def sources_of(documents: Sequence[SourceDocument]) -> list[dict]:
    """A row for each document, without its text: the columns of `ORIGIN`, `kept` and `types`."""
    return [
        {name: getattr(document, name) for name in [*(name for name, _ in ORIGIN), "kept", "types"]}
        for document in documents
    ]


def source_table(rows: Sequence[dict], schema: pa.Schema) -> pa.Table:
    """Rows with the columns of a schema and, behind them, those in their `kept`."""
    table = pa.Table.from_pylist(rows, schema=schema)
    kept = kept_table((row.get("kept", {}), row.get("types")) for row in rows)
    for field in kept.schema:
        table = table.append_column(field, kept[field.name])
    return table


def kept_schema(path: Path) -> pa.Schema:
    """The columns in a shard's index that were kept from the source."""
    return pa.schema(
        [field for field in pq.read_schema(for_pyarrow(path)) if field.name not in CHAT_INDEX_SCHEMA.names]
    )


def read_documents(path: Path, tokens: np.ndarray) -> tuple[np.ndarray, list[str], list[np.ndarray | None], ShardInfo]:
    """Read the places of a shard's documents, and check them against its tokens.

    Returns:
        spans (int64, shape [num_documents, 2]), domains, answers (each as in `Document`), and how the tokens were made.
    Raises:
        InputError: it is not an index, or does not belong to these tokens.
    """
    table, info = read_index(path, ["start", "end", "domain", ANSWERS.name])
    if table["domain"].null_count:
        raise InputError(f"{path}: a document without a domain; make shard and index again with fineweb.py")
    domains = table["domain"].to_pylist()
    if not all(map(str.isprintable, set(domains))):
        raise InputError(f"{path}: a domain with a character that would break a row of a table; make both again")
    spans = np.stack([table["start"].to_numpy(), table["end"].to_numpy()], axis=1)
    _check_spans(path, tokens, spans, info)
    return spans, domains, _read_answers(path, table, spans), info


def _check_spans(path: Path, tokens: np.ndarray, spans: np.ndarray, info: ShardInfo) -> None:
    remake = "shard and index do not belong together, make both again with fineweb.py"
    if info.num_tokens != len(tokens) or (len(tokens) and not len(spans)):
        raise InputError(f"{path}: made for {info.num_tokens} tokens, the shard has {len(tokens)}; {remake}")
    edges = np.append(spans[:, 0], len(tokens))
    wrong = np.flatnonzero((spans[:, 1] != edges[1:]) | (spans[:, 0] >= spans[:, 1]))
    if len(spans) and spans[0, 0] != 0:
        wrong = np.array([0])
    if not len(wrong):
        wrong = np.flatnonzero(tokens[spans[:, 1] - 1] != info.separator_id)
    if len(wrong):
        start, end = spans[wrong[0]]
        raise InputError(f"{path}: row {wrong[0]}, document {start}-{end} does not end where the next begins; {remake}")


def _read_answers(path: Path, table: pa.Table, spans: np.ndarray) -> list[np.ndarray | None]:
    if ANSWERS.name not in table.column_names:
        return [None] * len(spans)
    answers = [np.array(each or [], np.int64).reshape(-1, 2) for each in table[ANSWERS.name].to_pylist()]
    for row, (each, (start, end)) in enumerate(zip(answers, spans, strict=True)):
        if not (np.diff(each.ravel(), prepend=0, append=end - start) >= 0).all():
            raise InputError(f"{path}: row {row}, its answers are not in the document; make both again with fineweb.py")
    return answers
