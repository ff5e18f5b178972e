"""Training with pretrain.py for --seconds, then killed: tokens/s between the first and the last logged step.

    bash benchmarks/run.sh whole_run && python rank_scores.py --scores data/whole_run/whole_run.tsv
    bash benchmarks/run.sh training_gpu

The mixture is 70 % the selection from the shards of whole_run.py, 30 % these shards.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measure import flags, save

ROOT = Path(__file__).parents[1]


def main() -> None:
    args = flags(
        __doc__,
        config="examples/config.json",
        selected="data/top20.parquet",
        data="data/whole_run/shards-20000000/*.bin",
        seq_len=4096,
        batch_size=16,
        device_batch_size=4,
        seconds=60,
        out_dir="data/whole_run/pretrained",
        device="auto",
    )
    out_dir = ROOT / args.out_dir
    shutil.rmtree(out_dir, ignore_errors=True)
    names = ("config", "selected", "data", "seq_len", "batch_size", "device_batch_size", "out_dir", "device")
    given = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, "pretrain.py", *given, "--log_every", "1", "--save_every", "1000000"]
    print("$", *command[1:], flush=True)
    begin, seen = time.monotonic(), []  # (seconds, line) of each logged step
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and time.monotonic() - begin < args.seconds:
        time.sleep(0.05)
        lines = (out_dir / "loss.jsonl").read_text().splitlines() if (out_dir / "loss.jsonl").exists() else []
        seen += [(time.monotonic() - begin, line) for line in lines[len(seen) :]]
    process.kill()
    process.wait()
    steps = [(seconds, json.loads(line)) for seconds, line in seen]
    if len(steps) < 4:
        raise SystemExit(f"only {len(steps)} steps in {args.seconds} s: nothing to measure")
    (first, start), (last, end) = steps[2], steps[-1]
    save(
        "training_gpu" if args.device == "auto" else "training_cpu",
        {
            "what": f"{args.config}, batches of {args.batch_size} sequences of {args.seq_len} tokens, one device",
            "seconds_to_the_first_step": steps[0][0],
            "steps": len(steps),
            "tokens_per_second": (end["tokens"] - start["tokens"]) / (last - first),
            "loss": [start["loss"], end["loss"]],
        },
    )


if __name__ == "__main__":
    main()
