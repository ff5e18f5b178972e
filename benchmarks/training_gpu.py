"""Training with pretrain.py for --seconds, then killed: tokens/s between the first and the last logged step.

    bash benchmarks/run.sh whole_run
    bash benchmarks/run.sh training_gpu

It trains on all documents of the shards of whole_run.py, and makes the shards if they are missing.
"""

import json
import shutil
import subprocess
import sys
import time

import torch
from measure import SAMPLE, flags, save
from whole_run import ROOT, make_shards


def main() -> None:
    args = flags(
        __doc__,
        config="examples/config.json",
        **SAMPLE,
        tokens=20_000_000,
        folder="data/whole_run",
        seq_len=4096,
        batch_size=8,
        device_batch_size=4,
        seconds=60,
        device="auto",
    )
    shards = ROOT / args.folder / f"shards-{args.tokens}"
    make_shards(shards, args.tokens, args.tokens, args)
    out_dir = ROOT / args.folder / "pretrained"
    shutil.rmtree(out_dir, ignore_errors=True)
    names = ("config", "seq_len", "batch_size", "device_batch_size", "device")
    given = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, "pretrain.py", *given, "--mix", "baseline=1", "--data", f"{shards}/*.bin"]
    command += ["--out_dir", str(out_dir), "--log_every", "1", "--save_every", "1000000"]
    print("$", *command[1:], flush=True)
    begin, seen = time.monotonic(), []  # (seconds, line) of each logged step
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and time.monotonic() - begin < args.seconds:
        time.sleep(0.05)
        lines = (out_dir / "loss.jsonl").read_text().split("\n")[:-1] if (out_dir / "loss.jsonl").exists() else []
        seen += [(time.monotonic() - begin, line) for line in lines[len(seen) :]]
    if process.poll():
        raise SystemExit(f"pretrain.py ended with status {process.returncode}")
    process.kill()
    process.wait()
    steps = [(seconds, json.loads(line)) for seconds, line in seen]
    if len(steps) < 4:
        raise SystemExit(f"only {len(steps)} steps in {args.seconds} s: nothing to measure")
    (first, start), (last, end) = steps[2], steps[-1]
    save(
        "training_gpu" if torch.cuda.is_available() and args.device == "auto" else "training_cpu",
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
