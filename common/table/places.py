"""The places of the documents of a selection: in which shard, and which of its tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import InputError
from common.files import as_path, for_pyarrow
from common.shards.reader import Shard, ShardReader


@dataclass(frozen=True)
class Places:
    """The documents of a selection, in its order.

    Attributes:
        selection: the table that names them.
        shards: the paths of their shards.
        shard_of: for each document, the number of its shard, int32, shape [num_documents].
        spans: for each document, its place in the shard, half-open, in tokens, int64, shape [num_documents, 2].
    """

    selection: str
    shards: list[Path]
    shard_of: np.ndarray
    spans: np.ndarray

    @classmethod
    def read(cls, path: str | Path) -> "Places":
        """Read a selection, the `.parquet` that rank_scores.py writes; InputError if it is none."""
        try:
            table = pq.read_table(for_pyarrow(as_path(path)), columns=["shard", "start", "end"])
            names = table["shard"].combine_chunks().dictionary_encode()
            spans = np.stack([pc.cast(table[name], pa.int64()).to_numpy() for name in ("start", "end")], axis=1)
            shard_of = names.indices.to_numpy().astype(np.int32)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{path}: not a selection ({error}); make it with rank_scores.py") from None
        return cls(str(path), [as_path(name) for name in names.dictionary.to_pylist()], shard_of, spans)

    def open(self, number: int, reader: ShardReader) -> Shard:
        """Open a shard; InputError if it is damaged, or what is selected from it are not its documents."""
        shard = reader.open(self.shards[number])
        rows = np.flatnonzero(self.shard_of == number)
        places = np.searchsorted(shard.spans[:, 0], self.spans[rows, 0]).clip(max=len(shard.spans) - 1)
        wrong = rows[(shard.spans[places] != self.spans[rows]).any(axis=1)] if len(shard.spans) else rows
        if len(wrong):
            start, end = self.spans[wrong[0]]
            raise InputError(
                f"{self.selection}: row {wrong[0] + 1}, tokens {start} to {end} are no document of "
                f"{self.shards[number]}; if the shard was made again since, score and rank again"
            )
        return shard
