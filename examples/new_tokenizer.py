"""Train a tokenizer on exported documents: the kind and the special tokens of another one, a vocabulary of its own.

python examples/new_tokenizer.py --like data/SmolLM2-135M-Instruct --input data/selected --vocab_size 4096
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import transformers


def texts(folder: Path) -> Iterator[list[str]]:
    """The column `text` of all parquet files in a folder, some rows at a time."""
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=["text"]):
            yield batch["text"].to_pylist()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--like", required=True, help="name or folder of a tokenizer")
parser.add_argument("--input", type=Path, default=Path("data/selected"), help="folder of export_selection.py")
parser.add_argument("--vocab_size", type=int, default=32_000)
parser.add_argument("--out", type=Path, default=Path("data/new_tokenizer"))
args = parser.parse_args()
tokenizer = transformers.AutoTokenizer.from_pretrained(args.like)
tokenizer.train_new_from_iterator(texts(args.input), args.vocab_size).save_pretrained(args.out)
print(f"wrote {args.out}")
