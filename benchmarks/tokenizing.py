"""Tokenizing a JSONL corpus, against `datasets.map(batched=True)` and datatrove's document tokenizer.

    bash benchmarks/run.sh tokenizing

The corpus is text of the running Python installation (sources, documentation), cut to --megabytes in two files, so
that datatrove can use two processes. Each contender is its own process, including start and imports, and writes its
result to disk. Memory is the peak of the largest process, for the corpus and for a fifth of it.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path

from measure import flags, in_turn, peak_memory_gb, ratios, save

ROOT = Path(__file__).parents[1]
FILES = 2


def write_corpus(folder: Path, megabytes: float) -> int:
    """Write the corpus as `FILES` JSONL files; returns the bytes of text in it."""
    folder.mkdir(parents=True)
    paths = (
        path for end in (".py", ".md", ".rst", ".txt") for path in Path(sysconfig.get_path("stdlib")).rglob("*" + end)
    )
    written, limit = 0, megabytes * 10**6
    with (folder / "0.jsonl").open("w") as first, (folder / "1.jsonl").open("w") as second:
        for number, path in enumerate(sorted(paths)):
            text = path.read_text(encoding="utf-8", errors="ignore")[:20_000]
            if written >= limit:
                return written
            (first, second)[number % FILES].write(json.dumps({"text": text, "id": str(number)}) + "\n")
            written += len(text.encode())
    raise SystemExit(f"this Python installation has only {written} bytes of text")


def with_datasets(corpus: Path, tokenizer: str, out: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(tokenizer)
    files = [str(path) for path in sorted(corpus.glob("*.jsonl"))]
    data = load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    data.map(lambda rows: {"input_ids": tok(rows["text"])["input_ids"]}, batched=True, remove_columns=data.column_names)


def with_datatrove(corpus: Path, tokenizer: str, out: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    steps = [
        JsonlReader(str(corpus), glob_pattern="*.jsonl"),
        DocumentTokenizer(
            str(out / "tokens"), f"{tokenizer}/tokenizer.json", eos_token="<|im_end|>", shuffle_documents=False
        ),
    ]
    LocalPipelineExecutor(steps, tasks=FILES, workers=FILES, logging_dir=str(out / "logs")).run()


def with_fineweb(corpus: Path, tokenizer: str, out: Path) -> None:
    sys.path.insert(0, str(ROOT))
    import fineweb

    fineweb.main(["--input", f"{corpus}/*.jsonl", "--tokenizer", tokenizer, "--out_dir", str(out / "shards")])


CONTENDERS = {"this project": with_fineweb, "datasets.map": with_datasets, "datatrove": with_datatrove}


def in_a_process(name: str, corpus: Path, tokenizer: str, peaks: dict[str, float]) -> None:
    """Run one contender in a new process and an empty folder; keep its peak memory in GB."""
    with tempfile.TemporaryDirectory() as out:
        own = ["--run", name, "--corpus", str(corpus), "--tokenizer", tokenizer, "--out", out]
        command = [sys.executable, __file__, *own]
        child = subprocess.run(command, capture_output=True, text=True)
        if child.returncode:
            raise SystemExit(f"{name} failed: {' '.join(command)}\n{child.stderr}")
        peaks[name] = max(peaks.get(name, 0), float(child.stdout.splitlines()[-1]))


def main() -> None:
    # --run, --corpus and --out are for its own processes
    args = flags(
        __doc__, tokenizer="data/SmolLM2-135M-Instruct", megabytes=50.0, rounds=5, run="", corpus=Path(), out=Path()
    )
    if args.run:
        CONTENDERS[args.run](args.corpus, args.tokenizer, args.out)
        print(peak_memory_gb())
        return
    work = Path(tempfile.mkdtemp())
    try:
        size = write_corpus(work / "whole", args.megabytes)
        write_corpus(work / "fifth", args.megabytes / 5)
        peaks, small_peaks = {}, {}
        run = partial(in_a_process, tokenizer=args.tokenizer)
        for name in CONTENDERS:
            run(name, work / "fifth", peaks=small_peaks)
        contenders = {name: partial(run, name, work / "whole", peaks=peaks) for name in CONTENDERS}
        seconds = in_turn(contenders, args.rounds)
    finally:
        shutil.rmtree(work)
    save(
        "tokenizing",
        {
            "what": f"{size / 1e6:.0f} MB of JSONL text, SmolLM2's tokenizer, whole processes",
            "times_as_fast_as": ratios(seconds, "this project"),
            "peak_memory_gb": peaks,
            "peak_memory_gb_on_a_fifth": small_peaks,
            "seconds": seconds,
        },
    )


if __name__ == "__main__":
    main()
