"""Scores in lower precisions against float32: rank correlation (Spearman's) and top fifths, by domain, and time saved.

bash pipeline.sh
bash benchmarks/run.sh precision

bfloat16 runs as users run it. float8 (e4m3, for GPUs) and int8 (for CPUs) are not offered: their linear layers are
emulated here, exactly but slowly, with one scale for each row of the weights and one for each token. On a GPU float32
is compared with the scores of the CPU that pipeline.sh left in data/ as well. --rounds 0 leaves the time out.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from measure import SAMPLE, flags, in_turn, ratios, save
from scoring_cpu import SEQ_LEN, ours, sample

from common.model.attention import decoder_layers
from common.model.checkpoints import Runtime
from common.scoring.pair import Pair, PairOptions, load_pair

TIMED = ["float32", "bfloat16", "bfloat16, compiled"]


def to_float8(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float8_e4m3fn).to(values.dtype)


EMULATED = {"float8": (to_float8, 448), "int8": (torch.round, 127)}  # how to round, and the largest value


def emulate(pair: Pair, to_precision: Callable, largest: int) -> None:
    """Let the decoder's linear layers multiply rounded weights and rounded inputs, in float32."""

    def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values divided by a scale for each row and rounded, and the scales."""
        scale = (values.abs().amax(-1, keepdim=True) / largest).clamp_min(1e-12)
        return to_precision(values / scale), scale

    for layer in decoder_layers(pair.base):
        for linear in [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]:
            weight, weight_scale = rounded(linear.weight.data.float())

            def forward(x, weight=weight, weight_scale=weight_scale, dtype=linear.weight.dtype):
                x, scale = rounded(x.float())
                return ((x @ weight.T) * scale * weight_scale.T).to(dtype)

            linear.forward = forward


def top_fifth(scores: pd.Series) -> set:
    return set(scores.nlargest(-(-len(scores) // 5)).index)


def agreement(table: pd.DataFrame, name: str, expected: str = "float32") -> dict:
    """How well one column's scores agree with another's."""
    domains = [rows for _, rows in table.groupby("domain")]
    shared = [len(top_fifth(rows[name]) & top_fifth(rows[expected])) for rows in domains]
    return {
        "spearman": float(table[expected].corr(table[name], method="spearman")),
        "spearman_by_domain": {
            rows["domain"].iloc[0]: float(rows[expected].corr(rows[name], method="spearman")) for rows in domains
        },
        "top_fifth_shared": sum(shared) / sum(len(top_fifth(rows[expected])) for rows in domains),
        "largest_difference_of_AI_Score": float((table[expected] - table[name]).abs().max()),
    }


def main() -> None:
    args = flags(__doc__, **SAMPLE, every=1, rounds=5, expected="data/ai_scores.parquet", device="auto")
    domains, docs = sample(args.data, args.every)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    table, runs = {"domain": domains}, {}
    for name in [*TIMED, *EMULATED]:
        dtype, _, compiled = name.partition(", ")
        if emulated := dtype in EMULATED:
            dtype = "bfloat16" if device == "cuda" else "float32"
        options = PairOptions(args.base_model, args.reference_model, SEQ_LEN, runtime=Runtime(device, dtype))
        pair = load_pair(replace(options, compiled=bool(compiled)))
        if emulated:
            emulate(pair, *EMULATED[name])
        else:
            runs[name] = partial(ours, pair, docs[::10])
        losses = np.array(ours(pair, docs))
        table[name] = (losses[:, 1] - losses[:, 0]) / losses[:, 0]
    table = pd.DataFrame(table)
    suffix = "" if device == "cpu" else "_gpu"
    result = {
        "what": f"{len(docs)} sample documents, SmolLM2-135M, {device}",
        **{name: agreement(table, name) for name in [*TIMED[1:], *EMULATED]},
    }
    if device != "cpu":
        table["cpu"] = pd.read_parquet(args.expected)["AI_Score"].to_numpy()[:: args.every]
        result["float32 on a CPU"] = agreement(table, "float32", "cpu")
    save(f"precision{suffix}", result)
    if args.rounds:
        seconds = in_turn(runs, args.rounds)
        result = {
            "what": f"{len(docs[::10])} sample documents, SmolLM2-135M, {device}",
            "bfloat16_as_fast_as": ratios(seconds, "bfloat16")["float32"],
            "compile_brings": ratios(seconds, "bfloat16, compiled")["bfloat16"],
            "seconds": seconds,
        }
        save(f"precision_time{suffix}", result)


if __name__ == "__main__":
    main()
