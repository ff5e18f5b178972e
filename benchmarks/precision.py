"""Scores in bfloat16, compiled or not, against float32: rank correlation (Spearman's) on the sample, and time saved.

bash pipeline.sh
bash benchmarks/run.sh precision
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from measure import SAMPLE, flags, in_turn, ratios, save
from scoring_cpu import SEQ_LEN, ours, sample

from common.model.checkpoints import Runtime
from common.scoring.pair import PairOptions, load_pair

CONTENDERS = ["float32", "bfloat16", "bfloat16, compiled"]


def main() -> None:
    args = flags(__doc__, **SAMPLE, every=2, rounds=5)
    domains, docs = sample(args.data, args.every)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table, runs = {"domain": domains}, {}
    for name in CONTENDERS:
        dtype, _, compiled = name.partition(", ")
        options = PairOptions(args.base_model, args.reference_model, SEQ_LEN, runtime=Runtime(device, dtype))
        pair = load_pair(replace(options, compiled=bool(compiled)))
        losses = np.array(ours(pair, docs))
        table[name] = (losses[:, 1] - losses[:, 0]) / losses[:, 0]
        runs[name] = partial(ours, pair, docs[::10])
    table = pd.DataFrame(table)
    seconds = in_turn(runs, args.rounds)
    result = {
        "what": f"{len(docs)} sample documents, and a tenth of them for the time, SmolLM2-135M, {device}",
        "bfloat16_as_fast_as": ratios(seconds, "bfloat16")["float32"],
        "compile_brings": ratios(seconds, "bfloat16, compiled")["bfloat16"],
        "seconds": seconds,
    }
    for name in CONTENDERS[1:]:
        result[name] = {
            "spearman": float(table["float32"].corr(table[name], method="spearman")),
            "spearman_by_domain": {
                domain: float(rows["float32"].corr(rows[name], method="spearman"))
                for domain, rows in table.groupby("domain")
            },
            "largest_difference_of_AI_Score": float((table["float32"] - table[name]).abs().max()),
        }
    save("precision", result)


if __name__ == "__main__":
    main()
