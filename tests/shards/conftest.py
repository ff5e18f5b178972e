"""What tests of shards share: shards of given tokens, with an index and without."""

import numpy as np

from common.shards.format import ShardWriter
from common.shards.index import ShardInfo, write_index


def write_shard(path, tokens, dtype="<u2", index=None):
    writer = ShardWriter(path, np.dtype(dtype))
    writer.append(tokens)
    writer.close(index)
    return path


def write_pair(folder, tokens, spans, **info):
    """A shard and its index, in which `info` may be wrong."""
    rows = [
        {"start": start, "end": end, "id": f"id{start}", "domain": f"d{i % 2}", "url": ""}
        for i, (start, end) in enumerate(spans)
    ]
    made = {"tokenizer": "t", "vocab_size": 400, "fingerprint": "f", "separator_id": 9, "separator_side": "last"}
    write_index(folder / "x.index.parquet", rows, ShardInfo(**{**made, "num_tokens": len(tokens), **info}))
    return write_shard(folder / "x.bin", tokens, index=folder / "x.index.parquet")
