"""What benchmarks share: timing contenders in turn, peak memory, and the JSON of results for docs/fill_tables.py."""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

RESULTS = Path(os.environ.get("RESULTS") or Path(__file__).parent / "results")


# Flags of the benchmarks that score the sample.
SAMPLE = {
    "base_model": "data/SmolLM2-135M-Instruct",
    "reference_model": "reference-model",
    "data": "data/finewebsample/fineweb_train_*.bin",
}


def flags(doc: str, **defaults: object) -> argparse.Namespace:
    """Read command-line flags of these names, types and defaults; False makes a flag without a value."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", **kind, help="" if default is False else f"(default: {default})")
    return parser.parse_args()


def in_turn(contenders: dict[str, Callable[[], object]], rounds: int, warm: bool = False) -> dict[str, list[float]]:
    """Seconds of each contender in each round. After a warm-up: A B C, A B C, …, so that drift affects all equally.

    Args:
        warm: the contenders need no warm-up.
    """
    seconds = {name: [] for name in contenders}
    for number in range(int(warm), rounds + 1):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken = time.perf_counter() - begin
            if number:
                seconds[name].append(taken)
            print(f"{'warm-up' if not number else f'round {number}'}: {name} {taken:.2f} s", flush=True)
    return seconds


def ratios(seconds: dict[str, list[float]], ours: str) -> dict[str, dict[str, float]]:
    """How many times as fast ours is as each other contender: median, minimum and maximum of the rounds' ratios."""
    found = {}
    for name in seconds:
        if name != ours:
            each = [other / own for other, own in zip(seconds[name], seconds[ours], strict=True)]
            found[name] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return found


def machine() -> dict[str, str]:
    """The processor, the GPU if there is one, and versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = f"{len(names)} cores of {names[0].partition(': ')[2]}" if names else cpu
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    packages = {name: version(name) for name in ("torch", "transformers")}
    return {"cpu": cpu, **gpu, "python": platform.python_version(), **packages, "date": str(date.today())}


def peak_memory_gb() -> float:
    """The peak memory so far of this process or of its largest child, in GB (10^9 bytes); Linux.

    For the process itself `ru_maxrss` is wrong, because it starts with the parent's memory.
    """
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return max(int(line.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024 / 1e9


def save(name: str, result: dict) -> None:
    """Print a result, and write it with the machine's description to <name>.json in results/, or in $RESULTS."""
    result = {**result, "machine": machine()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
