"""What a scored token costs on paper, at the rates that scoring_gpu.py measured, next to what it took.

    bash benchmarks/run.sh scoring_gpu
    bash benchmarks/run.sh roofline

Floating-point operations and bytes of each kind of operation for the Llama of 1.3B, heads masked in its upper half. The
bytes of small operations are those of one kernel for each operation of transformers' Llama (eager), and of the kernels
that torch.compile made (compiled); the embedding, the last norm and the copy at the first masked layer are left out. A
floor is the longer of operations at the matmul rate and bytes at the copy rate.
"""

import json

import numpy as np
from measure import RESULTS, save
from models import SHAPES, fineweb_like_lengths

SMALL = ("others", "fused by torch.compile", "copies")


def costs(lengths: np.ndarray) -> list[dict]:
    """Of each kind of operation: FLOPs, and bytes when eager and when compiled, for each token."""
    layers, hidden, _, _, inner, vocabulary, _ = SHAPES["1.3B"]
    upper = layers // 2  # from here on, each token has two rows
    rows = upper + 2 * (layers - upper)
    attended = float((lengths**2).sum() / lengths.sum()) / 2  # positions that a token attends to, on average
    weights = 4 * hidden**2 + 3 * hidden * inner
    products = 2 * (4 * 2 * hidden + 3 * hidden + 3 * inner)  # inputs and outputs of seven products, 2 bytes each
    both = {"flops": 0, "compiled": 0, "eager": 0}
    kinds = {
        "products of the layers": {"flops": rows * 2 * weights, "compiled": rows * products, "eager": rows * products},
        "logits": {"flops": 2 * 2 * hidden * vocabulary, "compiled": 4 * vocabulary, "eager": 4 * vocabulary},
        "attention": {"flops": rows * 4 * attended * hidden, "compiled": rows * 8 * hidden, "eager": rows * 8 * hidden},
        "two norms": {"eager": rows * 72 * hidden, "compiled": rows * 10 * hidden},
        "rotary embedding": {"eager": rows * 40 * hidden, "compiled": rows * 8 * hidden},
        "SiLU and product": {"eager": rows * 10 * inner, "compiled": rows * 6 * inner},
        "two residual sums": {"eager": rows * 12 * hidden, "compiled": rows * 8 * hidden},
        "masked queries": dict.fromkeys(("eager", "compiled"), 2 * (layers - upper) * 4 * hidden),
        "loss": {"eager": 2 * 30 * vocabulary, "compiled": 2 * 4 * vocabulary},
    }
    return [{"operation": name, **both, **cost} for name, cost in kinds.items()]


def main() -> None:
    measured = json.loads((RESULTS / "scoring_gpu.json").read_text())
    num_documents = int(measured["what"].split()[0])
    lengths = fineweb_like_lengths(num_documents).astype(float)
    flops, traffic = measured["matmul_tflops"] * 1e12, measured["copy_tb_per_second"] * 1e12
    rows = costs(lengths)
    for row in rows:
        for how in ("eager", "compiled"):
            row[f"{how} floor"] = max(row["flops"] / flops, row[how] / traffic) * 1e9
    took = {}
    for how, contender in (("eager", "without --compile"), ("compiled", "this project")):
        seconds = measured["profile"][contender]["seconds"]
        groups = {
            "matrix products": seconds["matrix products"],
            "attention": seconds["attention"],
            "all else": sum(seconds.get(kind, 0) for kind in SMALL),
        }
        groups["idle"] = sum(groups.values()) * (1 / (1 - measured["profile"][contender]["idle"]) - 1)
        took[how] = {name: each / lengths.sum() * 1e9 for name, each in groups.items()}
    save("roofline", {"what": measured["what"], "gpu": measured["machine"]["gpu"], "costs": rows, "nanoseconds": took})


if __name__ == "__main__":
    main()
