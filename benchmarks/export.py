"""A fifth of the rows of parquet files as text, against pyarrow's own filter-and-write of the same rows; peak memory.

bash benchmarks/run.sh export
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from measure import flags, in_turn, ratios, save

from common.table.schema import SCHEMA
from common.text.corpus import hash_of

ROOT = Path(__file__).parents[1]
SIZE = 3000  # mean bytes of a text
GROUP = 10_000  # rows


def write_corpus(folder: Path, num_files: int, num_rows: int) -> pa.Table:
    """Write files of random words; returns a selection of a fifth of the rows, in random order."""
    rng, tables = np.random.default_rng(0), []
    words = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(2, 10)))) for _ in range(20_000)])
    for number in range(num_files):
        path = folder / f"{number}.parquet"
        texts = [" ".join(rng.choice(words, count)) for count in rng.geometric(6.5 / SIZE, num_rows)]
        ids = [f"{number}-{row}" for row in range(num_rows)]
        pq.write_table(pa.table({"text": texts, "id": ids, "language_score": rng.random(num_rows)}), path, GROUP)
        rows = np.sort(rng.choice(num_rows, num_rows // 5, replace=False))
        doc_ids = [f"data/x:{row}-{row + 1}" for row in rows]
        ones = np.ones(len(rows))
        ours = pa.table([doc_ids, ["d"] * len(rows), ones.astype(int), ones, ones, ones], schema=SCHEMA)
        hashes = pa.array([hash_of(texts[row].encode()) for row in rows], pa.uint64())
        source = {"file": [str(path)] * len(rows), "row": rows, "text_hash": hashes, "key": [ids[row] for row in rows]}
        tables.append(pa.table({**dict(zip(SCHEMA.names, ours.columns, strict=True)), **source}))
    table = pa.concat_tables(tables)
    return table.take(rng.permutation(len(table)))


def main() -> None:
    args = flags(__doc__, files=4, rows=50_000, rounds=5)
    from common.export.text import TextOptions, export_text
    from common.shards.reader import ShardReader

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        selection = write_corpus(folder / "corpus", args.files, args.rows)
        pq.write_table(selection.drop_columns("key"), folder / "top.parquet")
        size = sum(path.stat().st_size for path in (folder / "corpus").iterdir())
        only = pa.compute.field("id").isin(selection["key"].combine_chunks())

        def ours() -> None:
            options = TextOptions(
                folder / "top.parquet", "parquet", folder / "ours", 10**6, None, [], False, None, False, True
            )
            export_text(options, ShardReader())

        def peer() -> None:
            rows = pa.dataset.dataset(folder / "corpus").scanner(filter=only)
            pa.dataset.write_dataset(
                rows, folder / "peer", format="parquet", existing_data_behavior="overwrite_or_ignore"
            )

        seconds = in_turn({"export": ours, "pyarrow": peer}, args.rounds)
        wanted, found = (pq.read_table(folder / each, columns=["id"])["id"] for each in ("peer", "ours"))
        assert sorted(found.to_pylist()) == sorted(wanted.to_pylist())
        memory = peak_memory_gb(f"--selection {folder}/top.parquet --format parquet --out_dir {folder}/again")
    save(
        "export",
        {
            "what": f"{args.files} files of {args.rows:,} rows, {size / 1e9:.2f} GB, a fifth of the rows",
            "seconds": seconds,
            "times_as_fast_as": ratios(seconds, "export"),
            "peak_memory_gb": memory,
        },
    )


def peak_memory_gb(arguments: str) -> float:
    """The peak memory of export_selection.py with these flags, in GB (10^9 bytes); Linux."""
    run = "import sys, export_selection; export_selection.main(sys.argv[1:]); print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", run, *arguments.split()]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    [line] = [line for line in said.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
