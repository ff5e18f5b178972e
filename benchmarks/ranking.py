"""Ranking tables of 10 and 100 million random rows in 8 domains: time, peak memory of the whole process, and disk.

bash benchmarks/run.sh ranking
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import save

from common.table.schema import SOURCE, TABLE_SCHEMA

ROOT = Path(__file__).parents[1]
ROWS_PER_SHARD = 500_000
KEPT = [("language_score", pa.float64()), ("edu_score", pa.float64()), ("int_score", pa.int64())]


def write_table(path: Path, num_rows: int, num_domains: int) -> None:
    """Write random lengths, losses, sources and scores of classifiers; fixed seed."""
    rng = np.random.default_rng(0)
    names = np.array([f"domain{number}" for number in range(num_domains)])
    schema = pa.schema([*TABLE_SCHEMA, *SOURCE, *KEPT])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, num_rows, ROWS_PER_SHARD):
            count = min(ROWS_PER_SHARD, num_rows - first)
            lengths = rng.lognormal(6.2, 0.9, count).astype(int) + 2
            ends = lengths.cumsum()
            shard = f"data/fineweb10B/fineweb_train_{first // ROWS_PER_SHARD:06d}"
            ids = [f"{shard}:{start}-{end}" for start, end in zip(ends - lengths, ends, strict=True)]
            base = rng.normal(2.5, 0.4, count).clip(0.5)
            rise = rng.gamma(2, 0.1, count)
            copies = np.where(rng.random(count) < 0.05, ids[0], "")  # a twentieth of the documents
            measures = [lengths, rng.beta(1, 9, count), np.zeros(count, int), np.full(count, 0.5), copies, copies]
            hashes = rng.integers(0, 2**63, count).astype(np.uint64)
            source = [
                [f"<urn:uuid:{number:032x}>" for number in hashes.tolist()],
                [f"https://www.site{number % 9973}.example/{number:x}" for number in hashes.tolist()],
                [f"s3://commoncrawl/fineweb/{first // ROWS_PER_SHARD:05d}.parquet"] * count,
                np.arange(count),
                hashes,
            ]
            edu = rng.normal(2, 0.8, count)
            columns = [ids, names[rng.integers(0, num_domains, count)], lengths, *2 * [base, base * (1 + rise), rise]]
            kept = [rng.random(count), edu, edu.round().astype(int)]
            writer.write_table(pa.table([*columns, *measures, *source, *kept], schema=schema))


def rank(table: Path, out: Path, flags: list[str]) -> dict[str, float]:
    """Seconds of the clock and of all cores, peak memory of the process, and the most disk that it used, in GB."""
    command = [sys.executable, str(ROOT / "rank_scores.py"), "--scores", str(table), "--out", str(out), *flags]
    before, most, begin = used(out.parent), 0, time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (done := os.wait4(process.pid, os.WNOHANG))[0]:
        most = max(most, used(out.parent) - before)
        time.sleep(0.2)
    if done[1]:
        raise SystemExit("rank_scores.py failed")
    seconds, memory = time.perf_counter() - begin, done[2].ru_maxrss * 1024 / 1e9
    cpu_seconds = done[2].ru_utime + done[2].ru_stime  # tells other work on the machine from our own
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_memory_gb": memory, "peak_disk_gb": most / 1e9}


def used(folder: Path) -> int:
    """Bytes on the disk of a folder."""
    return shutil.disk_usage(folder).used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--flags", default="", help="more flags of rank_scores.py")
    args = parser.parse_args()
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "scores.parquet"
        for num_rows in args.rows:
            write_table(table, num_rows, 8)
            measured = rank(table, Path(folder) / "top.tsv", args.flags.split())
            sizes.append({"rows": num_rows, "table_gb": table.stat().st_size / 1e9, **measured})
            print(sizes[-1], flush=True)
    first, last = sizes[0], sizes[-1]
    millions = (last["rows"] - first["rows"]) / 1e6
    slope = {key: (last[key] - first[key]) / millions if millions else None for key in ("seconds", "peak_memory_gb")}
    save(
        "ranking",
        {
            "what": "8 domains, the best 20 %, 19 columns, parquet in, TSV and parquet out, one run each",
            "flags": args.flags,
            "sizes": sizes,
            "more_for_each_million_rows": slope,
        },
    )


if __name__ == "__main__":
    main()
