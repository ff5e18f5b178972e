"""Ranking a table of 10 million made-up rows in 8 domains: time and peak memory of the whole process.

bash benchmarks/run.sh ranking
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import peak_memory_gb, save

from common.scores import SCHEMA

ROOT = Path(__file__).parents[1]
ROWS_PER_SHARD = 500_000


def write_table(path: Path, num_rows: int, num_domains: int) -> None:
    """Write scores with lengths and losses drawn at random; fixed seed."""
    rng = np.random.default_rng(0)
    names = np.array([f"domain{number}" for number in range(num_domains)])
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for first in range(0, num_rows, ROWS_PER_SHARD):
            count = min(ROWS_PER_SHARD, num_rows - first)
            lengths = rng.lognormal(6.2, 0.9, count).astype(int) + 2
            ends = lengths.cumsum()
            shard = f"data/fineweb10B/fineweb_train_{first // ROWS_PER_SHARD:06d}"
            ids = [f"{shard}:{start}-{end}" for start, end in zip(ends - lengths, ends, strict=True)]
            base = rng.normal(2.5, 0.4, count).clip(0.5)
            rise = rng.gamma(2, 0.1, count)
            columns = [ids, names[rng.integers(0, num_domains, count)], lengths, base, base * (1 + rise), rise]
            writer.write_table(pa.table(columns, schema=SCHEMA))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "scores.parquet"
        write_table(table, args.rows, 8)
        for _round in range(args.rounds):
            command = [
                sys.executable,
                str(ROOT / "rank_scores.py"),
                "--scores",
                str(table),
                "--out",
                f"{folder}/top.tsv",
            ]
            begin = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - begin)
    save(
        "ranking",
        {
            "what": f"{args.rows:,} rows, 8 domains, parquet in, TSV and parquet out",
            "seconds": seconds,
            "peak_memory_gb": peak_memory_gb(),
        },
    )


if __name__ == "__main__":
    main()
