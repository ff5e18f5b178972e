"""Documents inside token shards: where they lie, what they are called, how they are cut into windows.

Beside a shard of ours, `name.bin`, lies its index `name.index.parquet`: a row per document (start, end, id, domain,
url; of a chat also where the answers lie, in tokens from its first) and, in the schema's metadata, what was used to
make it. The shard's header holds the digest of its index, so that
the two cannot be mixed up, and no damaged index is ever parsed. A shard of llm.c or modded-nanogpt has no index; there
the documents are found by the separator's id.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import as_path, atomic, is_url, source
from common.shards.format import Digests, file_digest, read_shard
from common.text.corpus import DEFAULT_DOMAIN
from common.text.tokenization import TextTokenizer

INDEX_SCHEMA = pa.schema(
    [("start", pa.int64()), ("end", pa.int64()), ("id", pa.string()), ("domain", pa.string()), ("url", pa.string())]
)
ANSWERS = pa.field("answers", pa.list_(pa.list_(pa.int64(), 2)))
CHAT_INDEX_SCHEMA = INDEX_SCHEMA.append(ANSWERS)
INDEX_SUFFIX = ".index.parquet"
DOC_ID_PATTERN = r"^(?P<shard>.+?)(?:\.bin)?:(?P<start>[0-9]{1,18})-(?P<end>[0-9]{1,18})$"
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


@dataclass(frozen=True)
class Shard:
    """A shard with its documents.

    Attributes:
        name: path without suffix, the first half of a doc_id.
        tokens: shape [num_tokens], memory-mapped.
        spans: int64, shape [num_documents, 2], half-open token offsets.
        domains: one per document.
        answers: one per document: which of its tokens alone are scored, from its first token on, int64, shape
            [num_answers, 2]; None for all of them.
        separator_id: the token between documents.
        info: how it was made, or None for a shard without an index.
        digests: of its tokens and its index, or None for a shard of another maker.
    """

    name: str
    tokens: np.ndarray
    spans: np.ndarray
    domains: Sequence[str]
    answers: Sequence[np.ndarray | None]
    separator_id: int
    info: ShardInfo | None
    digests: Digests | None

    def verified(self) -> "Shard":
        """The shard, after reading all its tokens; InputError when they are not those that were written."""
        if self.digests and hashlib.sha256(self.tokens).digest() != self.digests.tokens:
            raise InputError(
                f"{self.name}.bin: its tokens are not those that were written (by the checksum in its header); copy it "
                "anew, or make it anew with fineweb.py"
            )
        return self

    def doc_id(self, start: int, end: int) -> str:
        """`path/of/shard:start-end`."""
        return f"{self.name}:{start}-{end}"

    def digest(self) -> str:
        """A short hash of tokens, documents' places and domains; without digests, of 64 stretches of 1,024 tokens."""
        if self.digests:
            return hashlib.sha256(b"".join(self.digests)).hexdigest()[:16]
        digest = hashlib.sha256(self.spans.tobytes() + "\0".join(self.domains).encode())
        for start in range(0, len(self.tokens), max(1024, len(self.tokens) // 64)):
            digest.update(self.tokens[start : start + 1024].tobytes())
        return digest.hexdigest()[:16]


def write_index(path: Path, rows: list[dict], info: ShardInfo) -> None:
    """Write a shard's index: `rows` of start, end, id, domain, url, and of chats answers."""
    metadata = {METADATA_KEY: json.dumps(asdict(info)).encode()}
    schema = CHAT_INDEX_SCHEMA if any("answers" in row for row in rows) else INDEX_SCHEMA
    with atomic(path) as tmp:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata)), tmp)


def read_index(path: Path) -> tuple[pa.Table, ShardInfo]:
    """Read a shard's index; InputError when it is not one."""
    try:
        table = pq.read_table(source(path))
        table.validate(full=True)
        info = ShardInfo(**json.loads(table.schema.metadata[METADATA_KEY]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not an index of a shard ({error}); make both anew with fineweb.py") from None
    if not any(map(table.schema.equals, (INDEX_SCHEMA, CHAT_INDEX_SCHEMA))):
        raise InputError(f"{path}: columns {table.schema.names}, expected {INDEX_SCHEMA.names}; make both anew")
    return table, info


def open_shard(path: Path, eot_id: int | None = None, eot_side: str = "first") -> Shard:
    """Open a `.bin` shard and find its documents, by its index or else by the separator.

    Args:
        eot_id: the separator of a shard that has no index.
        eot_side: `first` if the separator opens a document (llm.c, modded-nanogpt), `last` if it closes it.
    Raises:
        InputError: the shard is damaged, disagrees with its index, or has neither index nor `eot_id`.
    """
    path = as_path(path)
    if path.suffix != ".bin":
        raise InputError(f"{path}: a shard's name ends with .bin, and doc_ids leave that out; rename the file")
    name = str(path.with_suffix(""))
    if not name.isprintable():
        raise InputError(f"{path}: its name holds a character that would break a table's row; rename the file")
    tokens, digests = read_shard(path)
    index_path = path.with_suffix(INDEX_SUFFIX)
    if not index_path.exists():
        if eot_id is None:
            raise InputError(
                f"{path}: no index {index_path.name} beside it; if it comes from llm.c or modded-nanogpt, give the id "
                "of the token between documents with --eot_id (50256 for GPT-2)"
            )
        if len(tokens) and not (tokens == eot_id).any():
            raise InputError(f"{path}: token {eot_id} of --eot_id never occurs in it; give the id that parts documents")
        spans = separated_spans(tokens, eot_id, eot_side)
        no_answers = [None] * len(spans)
        return Shard(name, tokens, spans, [DEFAULT_DOMAIN] * len(spans), no_answers, eot_id, None, None)
    if not digests or digests.index != file_digest(index_path):
        raise InputError(
            f"{index_path}: damaged, or not the index of the shard beside it (by the checksum in the shard's header); "
            "copy both anew, or make both anew with fineweb.py"
        )
    table, info = read_index(index_path)
    if table["domain"].null_count:
        raise InputError(f"{index_path}: a document without a domain; make shard and index anew with fineweb.py")
    domains = table["domain"].to_pylist()
    if not all(map(str.isprintable, set(domains))):
        raise InputError(f"{index_path}: a domain with a character that would break a table's row; make both anew")
    spans = np.stack([table["start"].to_numpy(), table["end"].to_numpy()], axis=1)
    _check_index(index_path, tokens, spans, info)
    answers = _answers(index_path, table, spans)
    return Shard(name, tokens, spans, domains, answers, info.separator_id, info, digests)


def separated_spans(tokens: np.ndarray, separator_id: int, side: str) -> np.ndarray:
    """Half-open spans that cut `tokens` at the separators, each separator inside the document it opens or closes.

    What stands before the first opening separator, or behind the last closing one, is a document too: the part that
    this shard holds of a document that straddles two shards.

    >>> separated_spans(np.array([9, 5, 6, 9, 7]), 9, "first")
    array([[0, 3], [3, 5]])
    >>> separated_spans(np.array([5, 6, 9, 7, 9]), 9, "last")
    array([[0, 3], [3, 5]])
    """
    cuts = np.flatnonzero(tokens == separator_id) + (side == "last")
    edges = np.unique(np.concatenate([[0], cuts, [len(tokens)]])).astype(np.int64)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _check_index(path: Path, tokens: np.ndarray, spans: np.ndarray, info: ShardInfo) -> None:
    remake = "shard and index do not belong together, make both anew with fineweb.py"
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


def _answers(path: Path, table: pa.Table, spans: np.ndarray) -> list[np.ndarray | None]:
    """Where the answers of each document lie, from an index that may have none."""
    if ANSWERS.name not in table.column_names:
        return [None] * len(spans)
    answers = [np.array(each or [], np.int64).reshape(-1, 2) for each in table[ANSWERS.name].to_pylist()]
    for row, (each, (start, end)) in enumerate(zip(answers, spans, strict=True)):
        if not (np.diff(each.ravel(), prepend=0, append=end - start) >= 0).all():
            raise InputError(
                f"{path}: row {row}, its answers do not lie in the document; make both anew with fineweb.py"
            )
    return answers


def require_inside(doc_id: str, path: Path, folders: Sequence[Path]) -> None:
    """Raise InputError when the shard's path, as it is spelled, leads outside all the folders.

    A link inside a folder counts as the folder's own.
    """
    for inside in (*folders, *(Path.cwd() / folder for folder in folders if not is_url(folder))):
        if path.is_relative_to(inside) and ".." not in path.relative_to(inside).parts:
            return
    raise InputError(
        f"doc_id {doc_id!r}: leads outside of {', '.join(map(str, folders))}; if that shard is to be read, name its "
        "folder with --data_dir"
    )


def parse_doc_id(doc_id: str) -> tuple[Path, int, int]:
    """Split `path/of/shard:start-end` into the `.bin` path and the token offsets.

    Raises:
        InputError: it is not of that form, or start is not below end.
    """
    match = re.fullmatch(DOC_ID_PATTERN, doc_id)
    if not match or int(match["start"]) >= int(match["end"]):
        raise InputError(f"doc_id {doc_id!r}: expected path/of/shard:start-end with start below end")
    return as_path(match["shard"] + ".bin"), int(match["start"]), int(match["end"])


def find_document(shard: Shard, start: int, end: int) -> int:
    """Row of the document that holds tokens [start, end).

    Raises:
        InputError: outside the shard, or across a document's edge.
    """
    doc_id = shard.doc_id(start, end)
    if end > len(shard.tokens):
        raise InputError(f"doc_id {doc_id}: the shard ends at token {len(shard.tokens)}; paste an id from a table")
    row = int(np.searchsorted(shard.spans[:, 0], start, side="right")) - 1
    if end > shard.spans[row, 1]:
        first, last = shard.spans[row]
        raise InputError(
            f"doc_id {doc_id}: crosses the edge of a document, which is {shard.doc_id(first, last)}; paste an id "
            "from a table"
        )
    return row


def check_tokenizer(shard: Shard, tokenizer: TextTokenizer) -> None:
    """Raise InputError when the shard was made with another tokenizer; a shard without an index cannot tell."""
    if shard.info and (shard.info.fingerprint, shard.info.vocab_size) != (tokenizer.fingerprint, tokenizer.vocab_size):
        raise InputError(
            f"{shard.name}.bin: tokenized with {shard.info.tokenizer} ({shard.info.vocab_size} tokens), but the "
            f"model's tokenizer {tokenizer.name} ({tokenizer.vocab_size} tokens) cuts text differently; "
            f"make the shards with fineweb.py --tokenizer {tokenizer.name}"
        )


def windows(token_ids: np.ndarray, seq_len: int, bos_id: int | None) -> Iterator[np.ndarray]:
    """Cut one document into windows of one context token and up to `seq_len` targets.

    In each window the first token is context and all others are targets. Every token of the document is a target
    exactly once, except the first where nothing precedes it.

    Args:
        token_ids: the document with its separator, shape [num_tokens].
        bos_id: the BOS that the tokenizer itself adds, or None. With one, it opens every window; without, the first
            window opens with the document's first token and each later one with the token before it.

    >>> [w.tolist() for w in windows(np.array([5, 6, 7, 8, 0]), 2, bos_id=1)]
    [[1, 5, 6], [1, 7, 8], [1, 0]]
    >>> [w.tolist() for w in windows(np.array([5, 6, 7, 8, 0]), 2, bos_id=None)]
    [[5, 6, 7], [7, 8, 0]]
    """
    token_ids = np.asarray(token_ids, dtype=np.int64)
    if bos_id is None or token_ids[:1].tolist() == [bos_id]:
        first, targets = token_ids[:1], token_ids[1:]
    else:
        first, targets = np.array([bos_id], dtype=np.int64), token_ids
    for start in range(0, len(targets), seq_len):
        context = first if start == 0 or bos_id is not None else targets[start - 1 : start]
        yield np.concatenate([context, targets[start : start + seq_len]])


def is_scorable(token_ids: np.ndarray, separator_id: int, answers: np.ndarray | None = None) -> bool:
    """Whether a document has at least two tokens besides its separator, and an answer if only answers are scored."""
    if answers is not None and not len(scored_targets(1, len(token_ids), answers)):
        return False
    return int(np.count_nonzero(token_ids != separator_id)) >= 2


def scored_targets(first: int, last: int, answers: np.ndarray | None) -> np.ndarray:
    """Those of the tokens [first, last) of a document that are scored.

    >>> scored_targets(1, 9, np.array([[0, 3], [5, 7]]))
    array([1, 2, 5, 6])
    """
    places = np.arange(first, last)
    if answers is None:
        return places
    return places[((places >= answers[:, :1]) & (places < answers[:, 1:])).any(0)]
