"""A corpus, its shards, and a table with scores of all its documents."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

import fineweb
from common.shards.index import read_index
from common.table.schema import SCHEMA, SLICES

COMPRESS = {".gz": gzip.compress, ".zst": zstd.compress}


def write_lines(path: Path, rows: list[dict]) -> None:
    """JSON lines, compressed as the name says."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS.get(path.suffix, bytes)(lines))


def scored(tokenizer: str, flags: str) -> pa.Table:
    """Tokenize into `shards`; a table of random scores, in the order of the corpus, also as `scores.parquet`."""
    fineweb.main(["--tokenizer", tokenizer, "--out_dir", "shards", "--shard_size", "4000", *flags.split()])
    tables = []
    for path in sorted(Path("shards").glob("*.bin")):
        index, _ = read_index(path.with_suffix(".index.parquet"))
        spans = list(zip(*(index[name].to_pylist() for name in ("start", "end")), strict=True))
        score = np.random.default_rng(len(tables)).random(len(index))
        ids = [f"{path.with_suffix('')}:{start}-{end}" for start, end in spans]
        lengths = [end - start for start, end in spans]
        ours = pa.table([ids, index["domain"], lengths, np.ones(len(index)), 1 + score, score], schema=SCHEMA)
        places = pa.table([[str(path)] * len(index), index["start"], index["end"]], schema=SLICES)
        known = index.drop_columns(["start", "end", "domain"])
        tables.append(
            pa.table(
                [*ours.columns, *known.columns, *places.columns], [*SCHEMA.names, *known.column_names, *SLICES.names]
            )
        )
    table = pa.concat_tables(tables, promote_options="permissive")
    pq.write_table(table.drop_columns(SLICES.names), "scores.parquet")
    return table


@pytest.fixture
def selected(tmp_path, monkeypatch, bytes_folder):
    """Tokenize and select a third of the documents, `top.parquet`; the numbers of the selected documents, ascending."""
    monkeypatch.chdir(tmp_path)

    def make(flags: str = "--input corpus", keep=lambda number: number % 3 == 1) -> list[int]:
        shutil.rmtree("shards", ignore_errors=True)
        table = scored(bytes_folder, flags)
        numbers = [number for number in range(len(table)) if keep(number)]
        pq.write_table(table.take(np.random.default_rng(0).permutation(numbers)), "top.parquet")
        return numbers

    return make
