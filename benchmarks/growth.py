"""How the cost of scoring grows: tokens/s with document length and with model size, memory with batch size.

    bash benchmarks/run.sh growth

Writes results/growth.json and results/growth.png. Random weights and tokens; on a GPU if there is one.
"""

import os
import subprocess
import sys
import time

import matplotlib
import numpy as np
import torch
from measure import RESULTS, flags, peak_memory_gb, save
from models import fineweb_like_lengths, random_documents, random_model, upper_heads
from scoring import score

from common.scoring.loss import PairScorer

LENGTHS = [128, 256, 512, 1024, 2048, 4096, 8192]
SHAPES = ["30M", "135M", "360M"]
BATCHES = [512, 1024, 2048, 4096, 8192]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def speed(shape: str, lengths: list[int], tokens_per_batch: int | None = None) -> float:
    """Tokens per second over documents of these lengths, the better of two runs after a warm-up."""
    model = random_model(shape, DEVICE, torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    scorer = PairScorer(model, masked=upper_heads(model), tokens_per_batch=tokens_per_batch)
    docs = random_documents(lengths, model.config.vocab_size)
    taken = []
    for documents in (docs[:1], docs, docs):
        begin = time.perf_counter()
        score(scorer, documents, 8192)
        taken.append(time.perf_counter() - begin)
    return sum(lengths) / min(taken[1:])


def memory(tokens_per_batch: int) -> float:
    """Peak memory in GB, of the GPU or of a process of its own."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        speed("135M", [512] * (2 * tokens_per_batch // 512), tokens_per_batch)
        return torch.cuda.max_memory_allocated() / 1e9
    command = [sys.executable, __file__, "--memory_of", str(tokens_per_batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    args = flags(__doc__, tokens=8192, memory_of=0)  # tokens for each point; memory_of is for its own processes
    if args.memory_of:
        speed("135M", [512] * (args.memory_of // 512), args.memory_of)
        print(peak_memory_gb())
        return
    by_length = {n: speed("135M", [n] * max(1, args.tokens // n)) for n in LENGTHS}
    print(by_length, flush=True)
    mixed = [int(n) for n in fineweb_like_lengths(12, 2048)]
    by_shape = {shape: speed(shape, mixed) for shape in SHAPES}
    print(by_shape, flush=True)
    by_batch = {n: memory(n) for n in BATCHES}
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, values, label, unit in (
        (axes[0], by_length, "document length, tokens", "tokens/s"),
        (axes[1], by_shape, "model", "tokens/s"),
        (axes[2], by_batch, "tokens per batch", "peak memory, GB"),
    ):
        axis.plot([str(x) for x in values], list(values.values()), marker="o")
        axis.set(xlabel=label, ylabel=unit, ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.suptitle(f"Scoring, Llama shapes (135M unless named), {DEVICE}, {os.cpu_count()} cores", fontsize=10)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "growth.png", dpi=110)
    slope = float(np.polyfit(BATCHES, list(by_batch.values()), 1)[0] * 1000)
    save(
        "growth",
        {
            "what": f"Llama of 135M unless named, {DEVICE}",
            "tokens_per_second_by_length": by_length,
            "tokens_per_second_by_shape": by_shape,
            "peak_memory_gb_by_tokens_per_batch": by_batch,
            "memory_gb_for_1000_tokens_more": slope,
        },
    )


if __name__ == "__main__":
    main()
