"""The formats of trainers: each writes the documents of one shard after another into a folder."""

import gzip
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import cli
from common.errors import InputError
from common.files import is_url
from common.shards.foreign import MEGATRON_DTYPES, MEGATRON_HEADER, MEGATRON_MAGIC
from common.shards.index import ShardInfo

LITDATA_DTYPES = {4: np.dtype("u1"), 5: np.dtype("<u2"), 6: np.dtype("<u4")}
LITDATA_CHUNK_BYTES = 2**26


@dataclass(frozen=True)
class Part:
    """The selected documents of one shard.

    Attributes:
        name: of its outputs, without a suffix.
        path: of the shard.
        spans: of the documents, ascending, half-open, in tokens; int64, shape [num_documents, 2].
        dtype: of the tokens.
        first_byte: where the tokens begin in the shard.
        separator_id: the token between documents, None if it is not known.
        info: how the tokens were made, None if it is not known.
    """

    name: str
    path: Path
    spans: np.ndarray
    dtype: np.dtype
    first_byte: int
    separator_id: int | None
    info: ShardInfo | None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each document, int64, shape [num_documents]."""
        return self.spans[:, 1] - self.spans[:, 0]

    def documents(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """The tokens of each document; the separator is the last, also where it was the first or was missing.

        Args:
            tokens: of the shard.
        """
        tokens, separator = np.asarray(tokens), self.dtype.type(self.separator_id)
        for start, end in self.spans.tolist():
            document = tokens[start:end]
            if document[-1] != separator:
                document = np.append(document[1:] if document[0] == separator else document, separator)
            yield document


class Format:
    """Writes parts into a folder.

    Args:
        folder: where to write.
        shown: the name that the folder gets in the end.

    Attributes:
        copies: whether tokens are copied, each document with the separator as its last token.
    """

    copies = True

    def __init__(self, folder: Path, shown: Path):
        self.folder, self.shown = folder, shown

    def add(self, part: Part, tokens: np.ndarray) -> None:
        """Write a part; `tokens` are those of the whole shard."""
        raise NotImplementedError

    def finish(self, parts: list[Part]) -> str:
        """Write what is about all parts; returns what to paste into a trainer."""
        raise NotImplementedError

    def path(self, part: Part, suffix: str) -> Path:
        """Where a file of a part goes."""
        return self.folder / f"{part.name}{suffix}"


class Megatron(Format):
    """`.idx` files over shards that stay where they are, for Megatron-LM and NeMo.

    Each document is one sequence, and its pointer counts bytes from the beginning of the shard, header included. Next
    to an `.idx` is a link to its shard; a shard in an object store has none.
    """

    copies = False

    def add(self, part, tokens):
        code = next(code for code, dtype in MEGATRON_DTYPES.items() if dtype == part.dtype)
        edges = np.arange(len(part.spans) + 1, dtype="<i8")
        pointers = part.first_byte + part.spans[:, 0] * part.dtype.itemsize
        with self.path(part, ".idx").open("wb") as file:
            file.write(MEGATRON_HEADER.pack(MEGATRON_MAGIC, 1, code, len(part.spans), len(edges)))
            file.write(part.lengths.astype("<i4").tobytes() + pointers.astype("<i8").tobytes() + edges.tobytes())
        if not is_url(part.path):
            self.path(part, ".bin").symlink_to(part.path.resolve())
        elif part.path.suffix != ".bin":
            raise InputError(f"{part.path}: Megatron reads only .bin files; copy it to this machine and score it")

    def finish(self, parts):
        blend, remote = [], {}
        for part in parts:
            place = part.path.with_suffix("") if is_url(part.path) else self.shown / part.name
            blend += [str(part.lengths.sum()), str(place)]
            if is_url(part.path):
                remote[self.shown / f"{part.name}.idx"] = f"{place}.idx"
        copies = [f"aws s3 cp {shlex.quote(str(file))} {shlex.quote(target)}" for file, target in remote.items()]
        return "\n".join([*copies, f"--data-path {shlex.join(blend)}"])


class Olmo(Format):
    """For OLMo-core: `.npy`, the tokens without a header, and `.csv.gz`, the start and end of each document."""

    torn = 0  # documents with a separator inside

    def add(self, part, tokens):
        end = 0
        with (
            self.path(part, ".npy").open("wb") as file,
            gzip.open(self.path(part, ".csv.gz"), "wt", compresslevel=1) as places,
        ):
            for document in part.documents(tokens):
                file.write(document.tobytes())
                places.write(f"{end},{(end := end + len(document))}\n")
                self.torn += bool((document[:-1] == part.separator_id).any())

    def finish(self, parts):
        if self.torn:
            cli.warn(
                f"{self.torn:,} documents hold the separator inside too, and OLMo-core takes each for the end of a "
                "document, unless OLMO_DATA_PREP_USE_ARRAY_IF_LOCAL=false"
            )
        first = parts[0]
        size = first.info.vocab_size if first.info else "VOCABULARY"
        tokenizer = f"TokenizerConfig(vocab_size={size}, eos_token_id={first.separator_id}, pad_token_id=PADDING)"
        return (
            f"NumpyFSLDatasetConfig(paths=[{str(self.shown / '*.npy')!r}], expand_glob=True, "
            f"dtype={first.dtype.name!r}, tokenizer={tokenizer}, sequence_length=SEQUENCE, work_dir=FOLDER)"
        )


class Datatrove(Format):
    """For datatrove and nanotron: `.ds`, the tokens alone, and its `.index`, where each document ends, in tokens."""

    def add(self, part, tokens):
        end, path = 0, self.path(part, ".ds")
        with path.open("wb") as file, path.with_suffix(".ds.index").open("wb") as ends:
            for document in part.documents(tokens):
                file.write(document.tobytes())
                end += len(document)
                ends.write(end.to_bytes(8, "little"))
        tokenizer = part.info.tokenizer if part.info else "Unknown Tokenizer"
        about = f"{tokenizer}|{part.dtype.itemsize}\n{end}\n{end:,} tokens"
        path.with_suffix(".ds.metadata").write_text(about, encoding="utf-8")

    def finish(self, parts):
        return f"DatatroveFolderDataset({str(self.shown)!r}, seq_len=SEQUENCE, token_size={parts[0].dtype.itemsize})"


class LitData(Format):
    """For LitData: `chunk-0-0.bin`, …, documents with their offsets in bytes, and `index.json`."""

    def __init__(self, folder, shown):
        super().__init__(folder, shown)
        self._chunks: list[dict] = []

    def add(self, part, tokens):
        waiting, size = [], 0
        for document in part.documents(tokens):
            if waiting and size + document.nbytes > LITDATA_CHUNK_BYTES:
                self._write(waiting)
                waiting, size = [], 0
            waiting.append(document)
            size += document.nbytes
        self._write(waiting)

    def _write(self, documents: list[np.ndarray]) -> None:
        """A chunk is its number of documents, where each begins and the last ends, and the documents."""
        name, count = f"chunk-0-{len(self._chunks)}.bin", len(documents)
        edges = np.cumsum([4 * (count + 2), *(document.nbytes for document in documents)])
        with (self.folder / name).open("wb") as file:
            file.write(np.array([count, *edges], "<u4").tobytes())
            file.writelines(document.tobytes() for document in documents)
        num_tokens = sum(map(len, documents))
        self._chunks.append({"chunk_bytes": int(edges[-1]), "chunk_size": count, "dim": num_tokens, "filename": name})

    def finish(self, parts):
        code = next(code for code, dtype in LITDATA_DTYPES.items() if dtype == parts[0].dtype)
        config = {
            "chunk_bytes": LITDATA_CHUNK_BYTES,
            "chunk_size": None,
            "compression": None,
            "data_format": [f"no_header_numpy:{code}"],
            "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
            "encryption": None,
            "item_loader": "TokensLoader",
        }
        index = {"chunks": self._chunks, "config": config, "updated_at": "0"}
        (self.folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        return f"StreamingDataset({str(self.shown)!r}, item_loader=TokensLoader(block_size=SEQUENCE))"


FORMATS = {"megatron": Megatron, "olmo": Olmo, "datatrove": Datatrove, "litdata": LitData}
