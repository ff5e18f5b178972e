"""Shards with their documents: found by the index next to a shard, or by the separator if there is no index.

Shards of llm.c and modded-nanogpt have no index; there the id of the separator shows where documents begin or end.
Those of Megatron and OLMo-core are in foreign.py.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import InputError, few
from common.files import as_path, file_digest
from common.shards.doc_id import ARRAY, format_doc_id, shard_name, shard_path
from common.shards.documents import Document, token_hash
from common.shards.foreign import ForeignTokens, is_megatron, read_megatron, read_npy
from common.shards.format import HEADER_BYTES, Digests, read_shard
from common.shards.index import INDEX_SUFFIX, ShardInfo, read_documents
from common.text.corpus import DEFAULT_DOMAIN
from common.text.tokenization import TextTokenizer


@dataclass(frozen=True)
class Shard:
    """A shard with its documents.

    Attributes:
        name: path without `.bin`, the first half of a doc_id.
        tokens: shape [num_tokens], memory-mapped.
        first_byte: where the tokens begin in the file.
        spans: where its documents are, half-open, in tokens; int64, shape [num_documents, 2].
        domains: one per document.
        answers: one per document, as in `Document`.
        separator_id: the token between documents; None if that is not known, in shards of other programs.
        score_separator: whether it counts in a document's loss.
        score_tokens: how much of a longer document the models read, as in `Document.in_part`; None is all.
        info: how it was made, or None for a shard without an index.
        digests: of its tokens and its index, or None for a shard of another program.
    """

    name: str
    tokens: np.ndarray
    first_byte: int
    spans: np.ndarray
    domains: Sequence[str]
    answers: Sequence[np.ndarray | None]
    separator_id: int | None
    score_separator: bool
    info: ShardInfo | None
    digests: Digests | None
    score_tokens: int | None = None

    def document(self, row: int) -> Document:
        """The document in a row."""
        start, end = map(int, self.spans[row])
        tokens, answers = self.tokens[start:end], self.answers[row]
        document = Document(self.name, start, tokens, self.separator_id, self.domains[row], answers)
        if self.score_tokens and answers is None:
            document = document.in_part(self.score_tokens)
        if self.score_separator or answers is not None:  # a chat's separator is in no answer
            return document
        begins, ends = (int(tokens[place] == self.separator_id) for place in (0, -1))
        return document.within(begins, len(document) - ends)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each document, int64, shape [num_documents]."""
        return self.spans[:, 1] - self.spans[:, 0]

    @property
    def lengths_read(self) -> np.ndarray:
        """Tokens of each document that the models read, int64; a chat is read whole, for its answers."""
        if not self.score_tokens:
            return self.lengths
        chats = np.array([answers is not None for answers in self.answers], bool)
        return np.where(chats, self.lengths, self.lengths.clip(max=2 * self.score_tokens))

    def hashes(self) -> np.ndarray:
        """`token_hash` of each document, int64, shape [num_documents]."""
        tokens = np.asarray(self.tokens)  # slices of a memory map are slow
        return np.array([token_hash(tokens[start:end], self.separator_id) for start, end in self.spans.tolist()], int)

    def only(self, rows: np.ndarray) -> "Shard":
        """The shard with some of its documents, by row; `row_of` needs all of them."""
        domains, answers = ([each[row] for row in rows.tolist()] for each in (self.domains, self.answers))
        return replace(self, spans=self.spans[rows], domains=domains, answers=answers)

    def row_of(self, start: int, end: int) -> int:
        """The row of the document that holds the tokens [start, end).

        Raises:
            InputError: they are outside the shard, or cross the edge of a document.
        """
        doc_id = format_doc_id(self.name, start, end)
        if end > len(self.tokens):
            raise InputError(f"doc_id {doc_id}: the shard ends at token {len(self.tokens)}; paste an id from a table")
        row = int(np.searchsorted(self.spans[:, 0], start, side="right")) - 1
        if end > self.spans[row, 1]:
            raise InputError(
                f"doc_id {doc_id}: crosses the edge of a document, which is {self.document(row).doc_id}; paste an id "
                "from a table"
            )
        return row

    def verified(self) -> "Shard":
        """The shard, after a check of all its tokens; InputError if they are not those that were written."""
        if self.digests and hashlib.sha256(self.tokens).digest() != self.digests.tokens:
            raise InputError(
                f"{shard_path(self.name)}: its tokens are not those that were written (by the checksum in its header); "
                "copy it again, or make it again with fineweb.py"
            )
        return self

    def digest(self) -> str:
        """A short hash of tokens, documents' places and domains; without digests, of 64 stretches of 1,024 tokens."""
        if self.digests:
            return hashlib.sha256(b"".join(self.digests)).hexdigest()[:16]
        digest = hashlib.sha256(self.spans.tobytes() + "\0".join(self.domains).encode())
        for start in range(0, len(self.tokens), max(1024, len(self.tokens) // 64)):
            digest.update(self.tokens[start : start + 1024].tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ShardReader:
    """Opens shards.

    Attributes:
        eot_id: the separator of shards that have no index; for those of Megatron and OLMo-core, by default that of
            `model_tokenizer`.
        eot_side: `first` if the separator is the first token of its document (llm.c, modded-nanogpt), `last` if it is
            the last. In arrays it is always the last, as OLMo-core has it.
        token_dtype: how arrays without a header store a token, `uint16` for example; by default, as OLMo-core has it,
            the smallest type that holds the vocabulary of `model_tokenizer`.
        score_separator: whether the separator counts in a document's loss.
        score_tokens: as in `Shard`.
        model_tokenizer: shards of another tokenizer are refused; None accepts all.
    """

    eot_id: int | None = None
    eot_side: str = "first"
    token_dtype: str | None = None
    score_separator: bool = True
    score_tokens: int | None = None
    model_tokenizer: TextTokenizer | None = None

    def open(self, path: Path) -> Shard:
        """Open a shard, `.bin` or `.npy`, and find its documents.

        Raises:
            InputError: the shard is damaged, disagrees with its index, has neither index nor `eot_id`, or was made
                with another tokenizer.
        """
        path = as_path(path)
        if path.suffix not in (".bin", ARRAY):
            raise InputError(f"{path}: the name of a shard ends with .bin or {ARRAY}; rename the file")
        name = shard_name(path)
        if not name.isprintable():
            raise InputError(f"{path}: its name holds a character that would break a row of a table; rename the file")
        if path.suffix == ARRAY:
            return self._foreign(name, path, read_npy(path, self._token_dtype()), side="last")
        if is_megatron(path):
            return self._foreign(name, path, read_megatron(path), side="last")
        tokens, digests = read_shard(path)
        index_path = path.with_suffix(INDEX_SUFFIX)
        if not index_path.exists():
            return self._foreign(name, path, ForeignTokens(tokens, HEADER_BYTES, None), self.eot_side)
        if not digests or digests.index != file_digest(index_path):
            raise InputError(
                f"{index_path}: damaged, or not the index of the shard next to it (by the checksum in the shard's "
                "header); copy both again, or make both again with fineweb.py"
            )
        spans, domains, answers, info = read_documents(index_path, tokens)
        self._check_tokenizer(path, info)
        return Shard(
            name=name,
            tokens=tokens,
            first_byte=HEADER_BYTES,
            spans=spans,
            domains=domains,
            answers=answers,
            separator_id=info.separator_id,
            score_separator=self.score_separator,
            info=info,
            digests=digests,
            score_tokens=self.score_tokens,
        )

    def require_domains(self, domains: Iterable[str], paths: Iterable[Path], flag: str) -> None:
        """Raise InputError for a domain, named by a flag, that no document of the shards has."""
        missing, found = {*domains}, set()
        for path in paths:
            if missing:
                found |= {*self.open(path).domains}
                missing -= found
        if missing:
            raise InputError(
                f"{flag}: no document of the shards has the domain {min(missing)!r}; there are {few(sorted(found))}"
            )

    def _foreign(self, name: str, path: Path, found: ForeignTokens, side: str) -> Shard:
        """A shard of another program, with the documents that it has or that separators delimit."""
        separator_id, spans = self.eot_id, found.spans
        if separator_id is None and (path.suffix == ARRAY or spans is not None):  # llm.c's is asked for
            separator_id = self.model_tokenizer and self.model_tokenizer.separator_id
        if spans is None:
            spans = _separated(path, found.tokens, separator_id, side)
        return Shard(
            name=name,
            tokens=found.tokens,
            first_byte=found.first_byte,
            spans=spans,
            domains=[DEFAULT_DOMAIN] * len(spans),
            answers=[None] * len(spans),
            separator_id=separator_id,
            score_separator=self.score_separator,
            info=None,
            digests=None,
            score_tokens=self.score_tokens,
        )

    def _token_dtype(self) -> np.dtype | None:
        """Of arrays without a header: as given, or as OLMo-core takes it from the vocabulary; None if not known."""
        if self.token_dtype:
            return np.dtype(self.token_dtype).newbyteorder("<")
        tokenizer = self.model_tokenizer
        return np.min_scalar_type(tokenizer.vocab_size - 1).newbyteorder("<") if tokenizer else None

    def _check_tokenizer(self, path: Path, info: ShardInfo) -> None:
        tokenizer = self.model_tokenizer
        if tokenizer and (info.fingerprint, info.vocab_size) != (tokenizer.fingerprint, tokenizer.vocab_size):
            raise InputError(
                f"{path}: tokenized with {info.tokenizer} ({info.vocab_size} tokens), but the model's tokenizer "
                f"{tokenizer.name} ({tokenizer.vocab_size} tokens) cuts text differently; make the shards with "
                f"fineweb.py --tokenizer {tokenizer.name}"
            )


def _separated(path: Path, tokens: np.ndarray, separator_id: int | None, side: str) -> np.ndarray:
    if separator_id is None:
        raise InputError(
            f"{path}: no index {path.with_suffix(INDEX_SUFFIX).name} next to it; if it comes from another program, "
            "give the id of the token between documents with --eot_id (50256 for GPT-2)"
        )
    if len(tokens) and not (tokens == separator_id).any():
        raise InputError(f"{path}: no token {separator_id} (--eot_id) in it; give the id that separates documents")
    return separated_spans(tokens, separator_id, side)


def separated_spans(tokens: np.ndarray, separator_id: int, side: str) -> np.ndarray:
    """Half-open spans of the documents that separators delimit, int64, shape [num_documents, 2].

    A document includes its separator, as its first or last token. The tokens before the first separator (`first`), or
    after the last one (`last`), are a document too: the part of a document that continues in another shard.

    >>> separated_spans(np.array([9, 5, 6, 9, 7]), 9, "first")
    array([[0, 3],
           [3, 5]])
    >>> separated_spans(np.array([5, 6, 9, 7, 9]), 9, "last").tolist()
    [[0, 3], [3, 5]]
    """
    cuts = np.flatnonzero(tokens == separator_id) + (side == "last")
    edges = np.unique(np.concatenate([[0], cuts, [len(tokens)]])).astype(np.int64)
    return np.stack([edges[:-1], edges[1:]], axis=1)
