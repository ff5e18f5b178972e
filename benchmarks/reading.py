"""What can be read, measured and written while GPUs compute: a whole run of scoring, its models replaced by nothing.

    bash pipeline.sh
    bash benchmarks/run.sh reading

Shards of whole_run.py, units and batches as large as on a GPU; every loss is 1. The rest is what users run: shards,
checks, units, windows, batches, guards, parts, tables. Each GPU has a process of its own, so the figure of one process
is what one GPU can get.
"""

import resource
import shutil
import time
from pathlib import Path
from unittest import mock

import torch
from measure import SAMPLE, flags, peak_memory_gb, save
from whole_run import ROOT, make_shards

from common.files import expand
from common.model.checkpoints import Runtime
from common.scoring.loss import TOKENS_PER_BATCH, PairScorer
from common.scoring.pair import PairOptions
from common.scoring.plan import make_plan
from common.scoring.run import Job, score_corpus
from common.scoring.units import MAX_UNIT_TOKENS, MIN_UNIT_TOKENS, StepOptions, UnitScorer
from common.shards.reader import ShardReader
from common.workers.team import LocalTeam


def nothing(_scorer, batch, _packs, _quantity) -> torch.Tensor:
    """Losses without a model: 1 for every target under both."""
    return torch.ones(2, len(batch.targets))


def main() -> None:
    args = flags(__doc__, **SAMPLE, tokens=5_000_000, rounds=3)
    folder = ROOT / "data/whole_run"
    shards = folder / f"shards-{args.tokens}"
    make_shards(shards, args.tokens, args.tokens, args)
    batch = TOKENS_PER_BATCH["cuda"]
    options = PairOptions(args.base_model, args.reference_model, 8192, batch, runtime=Runtime("cpu", "float32"))
    worker = UnitScorer(options)
    out, seconds, cores = Path(folder / "reading.tsv"), [], []
    for _ in range(args.rounds):
        shutil.rmtree(out.with_suffix(".parts"), ignore_errors=True)
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        reader = ShardReader()
        plan = make_plan(expand([f"{shards}/*.bin"]), reader, None)
        job = Job(options, StepOptions(), [], plan, reader, out, overwrite=False)
        with mock.patch.object(PairScorer, "_values", nothing), mock.patch.dict(MIN_UNIT_TOKENS, cpu=MAX_UNIT_TOKENS):
            score_corpus(LocalTeam(worker), job)
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds.append(time.perf_counter() - begin)
        cores.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / seconds[-1])
    total = sum(item.num_tokens for item in plan)
    save(
        "reading",
        {
            "what": f"{total} tokens, {sum(item.num_documents for item in plan)} documents, one process",
            "tokens_per_second": [total / each for each in seconds],
            "busy_cores": cores,
            "tokens_per_second_of_a_core": [total / each / busy for each, busy in zip(seconds, cores, strict=True)],
            "peak_memory_gb": peak_memory_gb(),
        },
    )


if __name__ == "__main__":
    main()
