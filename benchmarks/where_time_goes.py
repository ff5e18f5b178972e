"""How the time of scoring divides, by torch's profiler: this project and the plain loop, on the same documents.

bash pipeline.sh
bash benchmarks/run.sh where_time_goes
"""

from collections import defaultdict
from functools import partial

import torch
from measure import SAMPLE, flags, save
from scoring import plain_loop
from scoring_cpu import SEQ_LEN, ours, sample
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from common.model.checkpoints import Runtime
from common.scoring.pair import PairOptions, load_pair

KINDS = {
    "matrix products": ("mm", "linear", "bmm", "gemm"),
    "attention": ("scaled_dot_product", "flash", "attn"),
    "loss": ("softmax", "nll_loss", "exp", "logaddexp", "amax", "sub_", "gather", "logsumexp"),
}


def shares(run) -> dict[str, float]:
    """Seconds by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    seconds = defaultdict(float)
    for event in profiler.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "all else")
        seconds[kind] += event.self_cpu_time_total / 1e6
    return dict(seconds)


def main() -> None:
    args = flags(__doc__, **SAMPLE, every=20)
    names = (args.base_model, args.reference_model)
    pair = load_pair(PairOptions(*names, SEQ_LEN, runtime=Runtime("cpu", "float32")))
    models = [AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval() for name in names]
    _, docs = sample(args.data, args.every)
    runs = {"plain loop": partial(plain_loop, models, docs), "this project": partial(ours, pair, docs)}
    for run in runs.values():
        run()
    save(
        "where_time_goes",
        {
            "what": f"{len(docs)} sample documents, {sum(map(len, docs))} tokens, SmolLM2-135M, CPU, float32",
            "seconds": {name: shares(run) for name, run in runs.items()},
        },
    )


if __name__ == "__main__":
    main()
