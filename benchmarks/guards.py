"""The cost of measuring repetition and copies, compared with scoring, per token; and the time to find copies.

bash benchmarks/run.sh guards

Every tenth document of the sample is scored by a model of SmolLM2-135M's shape, and measured in the same process but
not at the same time. The script measures in a thread while the model computes, so this is an upper bound of the cost.
Copies are searched among a million documents, a tenth of which share keys with another.
"""

import statistics
import time

import numpy as np
import torch
from measure import flags, in_turn, peak_memory_gb, save
from models import random_model, upper_heads

from common.scoring.loss import PairScorer
from common.table.guards import NUM_KEYS, measure, representatives
from common.text.sample import sample_documents
from common.text.tokenization import load_tokenizer

REPEAT = 20  # the measures take milliseconds
DOCUMENTS = 1_000_000


def main() -> None:
    args = flags(__doc__, rounds=5, tokenizer="data/SmolLM2-135M-Instruct")
    tokenizer = load_tokenizer(args.tokenizer)
    texts = [document.text for document in list(sample_documents())[::10]]
    documents = [np.array(ids) for ids in tokenizer.encode_batch(texts)]
    model = random_model("135M", "cpu", torch.float32)
    scorer = PairScorer(model, masked=upper_heads(model))

    def measures():
        for _ in range(REPEAT):
            for ids in documents:
                measure(ids, tokenizer.decode(ids.tolist()))

    def score():
        list(scorer.stream((number, [ids]) for number, ids in enumerate(documents)))

    seconds = in_turn({"measures": measures, "scoring": score}, args.rounds)
    shares = [one / REPEAT / other for one, other in zip(seconds["measures"], seconds["scoring"], strict=True)]
    num_tokens = sum(map(len, documents))
    rng = np.random.default_rng(0)
    keys = rng.integers(2**63, size=(DOCUMENTS, NUM_KEYS)).astype(np.uint64)
    copies = rng.choice(DOCUMENTS, DOCUMENTS // 10, replace=False)
    keys[copies] = keys[rng.permutation(copies)]
    begin = time.perf_counter()
    representatives(keys.T, np.arange(DOCUMENTS))
    save(
        "guards",
        {
            "tokens": num_tokens,
            "share_of_scoring": {"median": statistics.median(shares), "min": min(shares), "max": max(shares)},
            "measured_tokens_per_second": num_tokens * REPEAT / statistics.median(seconds["measures"]),
            "copies_among_a_million_seconds": time.perf_counter() - begin,
            "peak_memory_gb": peak_memory_gb(),
        },
    )


if __name__ == "__main__":
    main()
