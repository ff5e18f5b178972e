"""Scoring with Ray on this machine: a worker with one core, two such workers, one with both, and no Ray at all.

    bash pipeline.sh
    bash benchmarks/run.sh workers

The same documents in turn, each time with new workers. What every run pays once, starting Ray and loading the models,
is told apart from scoring.
"""

import argparse
import time
from dataclasses import replace
from functools import partial

from measure import ratios, save
from ray.cluster_utils import Cluster

from common.flags import PairOptions, Runtime
from common.scoring.units import Unit, UnitScorer, cut
from common.shards.documents import open_shard
from common.text.corpus import expand
from common.workers.engine import EngineOptions, workers

TOKENS_PER_UNIT = 500  # small, so that the last units of so short a run are a small part of all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="data/SmolLM2-135M-Instruct")
    parser.add_argument("--reference_model", default="reference-model")
    parser.add_argument("--data", nargs="+", default=["data/finewebsample/fineweb_train_*.bin"])
    parser.add_argument("--max_tokens", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    units = []
    for shard in map(open_shard, expand(args.data)):
        units += cut(shard, range(len(shard.spans)), TOKENS_PER_UNIT)
    num_tokens = 0
    taken = []
    for unit in units[:: max(1, sum(len(unit.tokens) for unit in units) // args.max_tokens)]:
        num_tokens += len(unit.tokens)
        taken.append(unit)
    options = PairOptions(args.base_model, args.reference_model, 1024, runtime=Runtime("cpu", "float32"))
    engines = {  # and how many cores Ray may use
        "no Ray": (EngineOptions("local", None, None), None),
        "1 worker, 1 core": (EngineOptions("ray", None, 1), 1),
        "1 worker, 2 cores": (EngineOptions("ray", None, 1), 2),
        "2 workers, 1 core each": (EngineOptions("ray", None, 2), 2),
    }
    seconds = {name: [] for name in engines}
    starting = {name: [] for name in engines}
    for number in range(args.rounds):
        for name, (engine, cores) in engines.items():
            begin = time.perf_counter()
            cluster = Cluster(True, head_node_args={"num_cpus": cores, "include_dashboard": False}) if cores else None
            engine = replace(engine, ray_address=cluster and cluster.address)
            with workers(engine, partial(UnitScorer, options), Unit.behind, on_gpu=False) as team:
                while team.num_started < team.num_workers:
                    list(team.run(taken[:1]))  # until the last has come
                started = time.perf_counter()
                rows = sum(len(piece.scores) for _, _, piece in team.run(taken))
                seconds[name].append(time.perf_counter() - started)
            if cluster:
                cluster.shutdown()
            starting[name].append(started - begin)
            print(f"round {number}: {name} {rows} documents in {seconds[name][-1]:.1f} s", flush=True)
    save(
        "workers",
        {
            "what": f"{num_tokens:,} tokens of the sample in {len(taken)} units, SmolLM2-135M, float32",
            "tokens_per_second": {name: [num_tokens / s for s in each] for name, each in seconds.items()},
            "seconds_to_start": starting,
            "times_as_fast_as": ratios(seconds, "2 workers, 1 core each"),
        },
    )


if __name__ == "__main__":
    main()
