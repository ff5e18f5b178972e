"""Whole runs of attention_influence_scoring.py, as a user starts them: tokens/s, what the GPU idles, and a kill.

    bash pipeline.sh
    bash benchmarks/run.sh whole_run --kill                   SmolLM2-135M: killed with SIGKILL, then resumed
    bash benchmarks/run.sh whole_run --engine ray             the same shards; the table must be the same
    bash benchmarks/run.sh whole_run --shape 1.3B --tokens 5000000

The shards are made of the sample's tokens: documents of FineWeb-like lengths, each from a random place of its domain.
The GPU counts as idle for the share of time in which nvidia-smi sees no kernel, between the first kernel and the last.
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import torch
from measure import SAMPLE, flags, save
from models import fineweb_like_lengths, random_model, upper_heads
from scoring_cpu import sample

from common.files import read_json
from common.model.checkpoints import save_checkpoint
from common.model.masking import mask_heads
from common.shards.writer import DatasetWriter
from common.text.corpus import SourceDocument
from common.text.tokenization import load_tokenizer

ROOT = Path(__file__).parents[1]
SMI = "nvidia-smi --query-gpu=utilization.gpu,memory.used,power.draw --format=csv,noheader,nounits --loop-ms=200"
SCORES = ["L_base", "L_ref", "AI_Score"]


def make_shards(folder: Path, num_tokens: int, shard_size: int, args) -> None:
    """Shards of about `num_tokens` tokens; an earlier call's are kept."""
    if folder.exists():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    domains, docs = sample(args.data, 1)
    text = {
        name: np.concatenate([ids for own, ids in zip(domains, docs, strict=True) if own == name]) for name in domains
    }
    names = sorted(text)
    rng = np.random.default_rng(0)
    writer = DatasetWriter(unfinished, load_tokenizer(args.base_model), shard_size, 0)
    lengths = fineweb_like_lengths(num_tokens // 300)
    for number, length in enumerate(lengths[: int(np.searchsorted(lengths.cumsum(), num_tokens)) + 1]):
        domain = names[number % len(names)]
        start = rng.integers(len(text[domain]))
        ids = np.take(text[domain], range(start, start + length), mode="wrap")
        writer.add(SourceDocument("", str(number), domain), ids)
    writer.close()
    unfinished.rename(folder)


def make_pair(folder: Path, shape: str, tokenizer) -> tuple[str, str]:
    """Folders of a random model of this shape with the sample's vocabulary, and of its masked copy."""
    names = str(folder / f"base-{shape}"), str(folder / f"reference-{shape}")
    if not Path(names[1], "config.json").exists():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = random_model(shape, device, torch.bfloat16, vocab_size=tokenizer.vocab_size)
        save_checkpoint(model, tokenizer, Path(names[0]))
        masked = upper_heads(model)
        mask_heads(model, masked.heads, masked.kind)
        save_checkpoint(model, tokenizer, Path(names[1]))
        del model
        torch.cuda.empty_cache()
    return names


class Sampled:
    """What nvidia-smi says, five times a second, while the block runs."""

    def __enter__(self) -> "Sampled":
        self.rows: list[list[float]] = []
        self._smi = None
        if shutil.which("nvidia-smi"):
            self._smi = subprocess.Popen(SMI.split(), stdout=subprocess.PIPE, text=True)
            Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        for line in self._smi.stdout:
            self.rows.append([float(text) if re.fullmatch(r"[\d. ]+\n?", text) else np.nan for text in line.split(",")])

    def __exit__(self, *_error) -> None:
        if self._smi:
            self._smi.kill()

    def summary(self) -> dict:
        """From the first kernel to the last."""
        rows = np.array(self.rows).reshape(-1, 3)
        busy = np.flatnonzero(rows[:, 0] > 0)
        if not len(busy):
            return {}
        rows = rows[busy[0] : busy[-1] + 1]
        return {
            "gpu_idle": float(1 - rows[:, 0].mean() / 100),
            "gpu_memory_gb": float(rows[:, 1].max() * 2**20 / 1e9),
            "watts": float(rows[:, 2].mean()),
        }


def run(command: list[str], parts: Path, kill: bool) -> dict:
    """Run the command; with `kill`, end it at once a second after its first part is saved."""
    print("$", *command, flush=True)
    begin = time.monotonic()
    with Sampled() as sampled:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
        while process.poll() is None:
            time.sleep(0.1)
            if kill and list(parts.glob("*.parquet")):
                time.sleep(1)
                process.kill()
                process.wait()
                break
    status = process.returncode
    assert status == (-9 if kill else 0), f"exit status {status}"
    return {"seconds": time.monotonic() - begin, "killed": kill, **sampled.summary()}


def main() -> None:
    defaults = {"shape": "", "tokens": 20_000_000, "engine": "local", "device": "auto", "kill": False, "folder": ""}
    args = flags(__doc__, **SAMPLE, **defaults, seq_len=8192, shard_size=10_000_000, more="")
    folder = Path(args.folder or ROOT / "data/whole_run")
    shards = folder / f"shards-{args.tokens}"
    make_shards(shards, args.tokens, args.shard_size, args)
    names = args.base_model, args.reference_model
    if args.shape:
        names = make_pair(folder, args.shape, load_tokenizer(args.base_model))
    name = "_".join(filter(None, ("whole_run", args.shape, args.engine if args.engine != "local" else "")))
    out = folder / f"{name}.tsv"
    command = ["attention_influence_scoring.py", "--base_model", names[0], "--reference_model", names[1]]
    command += ["--data", f"{shards}/*.bin", "--seq_len", str(args.seq_len), "--device", args.device]
    command += ["--engine", args.engine, "--out", str(out), *args.more.split()]
    parts = out.with_suffix(".parts")
    for old in parts.glob("*"):
        old.unlink()
    runs = [run(command, parts, kill) for kill in ([True, False] if args.kill else [False])]
    record = read_json(out.with_suffix(".json"))
    result = {
        "what": f"{args.tokens} tokens, {record['num_documents']} documents, {args.shape or 'SmolLM2-135M'}, "
        f"{record['device']}, {record['dtype']}, --engine {args.engine} {args.more}".strip(),
        "tokens": record["num_tokens"],
        "tokens_per_second_of_the_process": record["num_tokens"] / sum(each["seconds"] for each in runs),
        "tokens_per_second_of_scoring": record["scoring"]["tokens"] / record["scoring"]["seconds"],
        "runs": runs,
    }
    other = folder / f"{name.removesuffix('_' + args.engine)}.parquet"
    if args.engine != "local" and other.exists():
        ours, theirs = (pd.read_parquet(path).set_index("doc_id") for path in (out.with_suffix(".parquet"), other))
        difference = (ours[SCORES] - theirs.loc[ours.index, SCORES]).abs().to_numpy()
        result["rows_equal_to_those_of_the_local_run"] = float((difference.max(1) == 0).mean())
        result["largest_difference_nats"] = float(difference[:, :2].max())
    save(name if record["device"] == "cuda" else f"{name}_{record['device']}", result)


if __name__ == "__main__":
    main()
