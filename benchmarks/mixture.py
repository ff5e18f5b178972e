"""Drawing training sequences from shards on one core: tokens per second, against the simplest reader.

bash benchmarks/run.sh mixture

Documents of FineWeb-like lengths (log-normal, mean about 700 tokens) in two shards of 50 million tokens; a selection of
every fifth. Both readers make int64 tensors [8, 4096] from a warm file, in a DataLoader without worker processes:

mixture     common/training/mixture.py: 70 % from the selection, 30 % from the shards, whole documents, shuffled, packed
crops       random parts of one memory-mapped file, as in nanoGPT: no documents, no mixture
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measure import flags, in_turn, ratios, save

from common.shards.format import ShardWriter, token_dtype
from common.shards.index import INDEX_SUFFIX, ShardInfo, write_index
from common.shards.reader import ShardReader
from common.training.mixture import DocumentStream, Mixture

SEQ_LEN, BATCH_SIZE = 4096, 8
TOKENS_PER_SHARD, SEPARATOR, VOCABULARY = 50_000_000, 0, 50_257


def write_shard(path: Path, rng: np.random.Generator) -> None:
    """Random tokens in documents, in the format of fineweb.py."""
    shard, rows = ShardWriter(path, token_dtype(VOCABULARY)), []
    while shard.num_tokens < TOKENS_PER_SHARD:
        length = int(rng.lognormal(6.2, 0.9)) + 2
        start = shard.num_tokens
        shard.append([*rng.integers(1, VOCABULARY, length - 1).tolist(), SEPARATOR])
        rows.append({"start": start, "end": start + length, "id": str(start), "domain": "default", "url": ""})
    index = path.with_suffix(INDEX_SUFFIX)
    write_index(index, rows, ShardInfo("made up", VOCABULARY, "0", SEPARATOR, "last", shard.num_tokens))
    shard.close(index)


class Crops(torch.utils.data.Dataset):
    """Parts of a file that begin anywhere."""

    def __init__(self, tokens: np.ndarray):
        self._tokens = tokens

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        start = int(np.random.default_rng(number).integers(len(self._tokens) - SEQ_LEN))
        tokens = torch.from_numpy(self._tokens[start : start + SEQ_LEN].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    args = flags(__doc__, rounds=7, sequences=8000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        paths = [folder / f"fineweb_train_{number:06d}.bin" for number in (1, 2)]
        for path in paths:
            write_shard(path, rng)
        spans = [(str(path), *map(int, span)) for path in paths for span in ShardReader().open(path).spans[::5]]
        columns = [list(column) for column in zip(*spans, strict=True)]
        pq.write_table(pa.table(columns, names=["shard", "start", "end"]), folder / "top20.parquet")
        streams = {
            "selected": DocumentStream.of_selection(folder / "top20.parquet"),
            "baseline": DocumentStream.of_shards([str(folder / "*.bin")]),
        }
        mixture = Mixture(streams, {"selected": 0.7, "baseline": 0.3}, SEQ_LEN, num_sequences=args.sequences)
        crops = Crops(ShardReader().open(paths[0]).tokens)

        def read(dataset):
            sampler = range(args.sequences)
            return lambda: sum(1 for _ in torch.utils.data.DataLoader(dataset, BATCH_SIZE, sampler=sampler))

        seconds = in_turn({"mixture": read(mixture), "crops": read(crops)}, args.rounds)
    num_tokens = args.sequences * SEQ_LEN
    save(
        "mixture",
        {
            "tokens": num_tokens,
            "tokens_per_second": {name: num_tokens / statistics.median(taken) for name, taken in seconds.items()},
            "times_as_fast_as": ratios(seconds, "mixture"),
        },
    )


if __name__ == "__main__":
    main()
