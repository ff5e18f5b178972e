"""Scoring with Ray on this machine: a worker with one core, two such workers, one with both, and no Ray at all.

    bash pipeline.sh
    bash benchmarks/run.sh workers

The same documents in turn, each time with new workers. The start of Ray and the loading of the models, which each run
pays once, are measured apart from scoring.
"""

import time
from dataclasses import replace
from functools import partial

from measure import SAMPLE, flags, ratios, save
from ray.cluster_utils import Cluster

from common.files import expand
from common.model.checkpoints import Runtime
from common.scoring.pair import PairOptions
from common.scoring.units import Unit, UnitScorer, cut
from common.shards.reader import ShardReader
from common.workers.team import EngineOptions, workers

TOKENS_PER_UNIT = 500  # small, so that the last units are a small part of this short run


def main() -> None:
    args = flags(__doc__, **SAMPLE, max_tokens=30_000, rounds=3)
    units = []
    for shard in map(ShardReader().open, expand([args.data])):
        units += cut(shard, range(len(shard.spans)), TOKENS_PER_UNIT)
    sizes = [sum(map(len, unit.documents)) for unit in units]
    step = max(1, sum(sizes) // args.max_tokens)
    taken, num_tokens = units[::step], sum(sizes[::step])
    options = PairOptions(args.base_model, args.reference_model, 1024, runtime=Runtime("cpu", "float32"))
    engines = {  # and how many cores Ray may use
        "no Ray": (EngineOptions(), None),
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
            with workers(engine, partial(UnitScorer, options), Unit.rest_after, on_gpu=False) as team:
                while team.num_started < team.num_workers:
                    list(team.run(taken[:1]))  # until the last has started
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
