"""Finding retrieval heads, against one plain forward pass over the same tokens.

    bash benchmarks/run.sh heads                                              SmolLM2-135M's shape on the CPU
    bash benchmarks/run.sh heads --shape 1.3B --probes 800 --compared 100 --tokens 4096 --device cuda --rounds 1

Probes are random tokens, each up to 49 tokens shorter than --tokens: the work does not depend on their content. With
--compared N only the first N are compared with a plain forward pass.
"""

from functools import partial

import numpy as np
import torch
from measure import flags, in_turn, peak_memory_gb, ratios, save
from models import random_model

from common.model.retrieval import EncodedProbe, run_probe

ANSWER_TOKENS = 30
WARM_UP = 5  # probes


def main() -> None:
    args = flags(__doc__, shape="135M", probes=6, tokens=1024, device="cpu", rounds=5, compared=0)
    on_gpu = args.device != "cpu"
    model = random_model(args.shape, args.device, torch.bfloat16 if on_gpu else torch.float32)
    rng = np.random.default_rng(0)
    probes = [
        EncodedProbe(rng.integers(3, 30_000, length).tolist(), length - ANSWER_TOKENS, (100, 130))
        for length in args.tokens - np.arange(args.probes) % 50
    ]

    def find(probes) -> None:
        for probe in probes:
            run_probe(model, probe, watch=True)

    @torch.inference_mode()
    def forward(probes) -> None:
        for probe in probes:
            model(torch.tensor([probe.input_ids], device=model.device), use_cache=False)

    find(probes[:WARM_UP])
    forward(probes[:WARM_UP])
    some = probes[: args.compared or None]
    contenders = {"finding heads": partial(find, some), "plain forward": partial(forward, some)}
    seconds = in_turn(contenders, args.rounds, warm=True)
    all_probes = in_turn({"all probes": partial(find, probes)}, 1, warm=True)["all probes"] if args.compared else None
    memory = {"peak_memory_gb": peak_memory_gb()}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        find(probes[:WARM_UP])
        memory = {"peak_gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
    save(
        f"heads_{'gpu' if on_gpu else 'cpu'}",
        {
            "what": f"{args.probes} probes of {args.tokens} tokens, Llama of {args.shape}",
            "times_as_fast_as": ratios(seconds, "finding heads"),
            "seconds": seconds,
            "seconds_of_all_probes": all_probes or seconds["finding heads"],
            **memory,
        },
    )


if __name__ == "__main__":
    main()
