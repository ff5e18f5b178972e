"""Scores in bfloat16, compiled or not, against float32: rank correlation (Spearman's) on the sample, and time saved.

bash pipeline.sh
bash benchmarks/run.sh precision
"""

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from measure import in_turn, ratios, save
from scoring_cpu import SEQ_LEN, ours, sample

from common.flags import PairOptions, Runtime
from common.scoring.pair import load_pair

CONTENDERS = ["float32", "bfloat16", "bfloat16, compiled"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="data/SmolLM2-135M-Instruct")
    parser.add_argument("--reference_model", default="reference-model")
    parser.add_argument("--data", default="data/finewebsample/fineweb_train_*.bin")
    parser.add_argument("--every", type=int, default=2, help="take every so many-th document")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
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
