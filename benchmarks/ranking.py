"""Ranking tables of 10 and 100 million random rows in 8 domains: time and peak memory of the whole process.

bash benchmarks/run.sh ranking
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import save

from common.table.schema import TABLE_SCHEMA

ROOT = Path(__file__).parents[1]
ROWS_PER_SHARD = 500_000


def write_table(path: Path, num_rows: int, num_domains: int) -> None:
    """Write scores with random lengths and losses; fixed seed."""
    rng = np.random.default_rng(0)
    names = np.array([f"domain{number}" for number in range(num_domains)])
    with pq.ParquetWriter(path, TABLE_SCHEMA) as writer:
        for first in range(0, num_rows, ROWS_PER_SHARD):
            count = min(ROWS_PER_SHARD, num_rows - first)
            lengths = rng.lognormal(6.2, 0.9, count).astype(int) + 2
            ends = lengths.cumsum()
            shard = f"data/fineweb10B/fineweb_train_{first // ROWS_PER_SHARD:06d}"
            ids = [f"{shard}:{start}-{end}" for start, end in zip(ends - lengths, ends, strict=True)]
            base = rng.normal(2.5, 0.4, count).clip(0.5)
            rise = rng.gamma(2, 0.1, count)
            copies = np.where(rng.random(count) < 0.05, ids[0], "")  # a twentieth of the documents
            measures = [rng.beta(1, 9, count), np.zeros(count, int), np.full(count, 0.5), copies, copies]
            columns = [ids, names[rng.integers(0, num_domains, count)], lengths, *2 * [base, base * (1 + rise), rise]]
            writer.write_table(pa.table([*columns, *measures], schema=TABLE_SCHEMA))


def rank(table: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak memory in GB of the whole process."""
    command = [sys.executable, str(ROOT / "rank_scores.py"), "--scores", str(table), "--out", str(out)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("rank_scores.py failed")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    args = parser.parse_args()
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "scores.parquet"
        for num_rows in args.rows:
            write_table(table, num_rows, 8)
            seconds, memory = rank(table, Path(folder) / "top.tsv")
            sizes.append({"rows": num_rows, "seconds": seconds, "peak_memory_gb": memory})
            print(sizes[-1], flush=True)
    first, last = sizes[0], sizes[-1]
    millions = (last["rows"] - first["rows"]) / 1e6
    slope = {key: (last[key] - first[key]) / millions if millions else None for key in ("seconds", "peak_memory_gb")}
    save(
        "ranking",
        {
            "what": "8 domains, the best 20 %, parquet in, TSV and parquet out, one run each",
            "sizes": sizes,
            "more_for_each_million_rows": slope,
        },
    )


if __name__ == "__main__":
    main()
