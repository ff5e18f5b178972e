"""Scoring the sample on the CPU in float32, against what a user would write or use instead.

    bash pipeline.sh
    bash benchmarks/run.sh scoring_cpu

Contenders, all on the same documents and the same two models: this project; a plain loop over the documents with
`model(input_ids, labels=input_ids)`; batches of length-sorted, padded documents; lm-evaluation-harness'
`loglikelihood_rolling`. The last three run the base and then the reference. --every 20 takes every 20th document.
"""

from functools import partial

import numpy as np
import torch
from measure import SAMPLE, flags, in_turn, ratios, save
from scoring import plain_loop, score

from common.files import expand
from common.model.checkpoints import Runtime
from common.scoring.pair import PairOptions, load_pair
from common.shards.reader import ShardReader

SEQ_LEN = 1024
PADDED_BATCH = 8


def sample(pattern: str, every: int) -> tuple[list[str], list[np.ndarray]]:
    """Domains and token ids of every n-th document of all shards, n being `every`."""
    domains, docs = [], []
    for path in expand([pattern]):
        shard = ShardReader().open(path)
        domains += shard.domains
        docs += [np.array(shard.tokens[start:end], dtype=np.int64) for start, end in shard.spans]
    return domains[::every], docs[::every]


def ours(pair, docs: list[np.ndarray]) -> list[tuple[float, ...]]:
    return score(pair.scorer, docs, SEQ_LEN, pair.tokenizer.bos_id)


@torch.inference_mode()
def padded_batches(models, docs: list[np.ndarray]) -> list[tuple[float, ...]]:
    order = sorted(range(len(docs)), key=lambda row: len(docs[row]))
    losses = {}
    for first in range(0, len(order), PADDED_BATCH):
        rows = order[first : first + PADDED_BATCH]
        longest = max(len(docs[row]) for row in rows)
        input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            input_ids[place, : len(docs[row])] = torch.from_numpy(docs[row])
            mask[place, : len(docs[row])] = 1
        means = []
        for model in models:
            logits = model(input_ids=input_ids, attention_mask=mask).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
            means.append((each * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1))
        losses.update(zip(rows, torch.stack(means, 1).tolist(), strict=True))
    return [tuple(losses[row]) for row in range(len(docs))]


def harness(wrapped, texts: list[str]) -> list[tuple[float, ...]]:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    return list(zip(*(lm.loglikelihood_rolling(requests, disable_tqdm=True) for lm in wrapped), strict=True))


def main() -> None:
    args = flags(__doc__, **SAMPLE, every=20, rounds=5, without_harness=False)
    from transformers import AutoModelForCausalLM

    names = (args.base_model, args.reference_model)
    pair, compiled = (
        load_pair(PairOptions(*names, SEQ_LEN, runtime=Runtime("cpu", "float32"), compiled=flag))
        for flag in (False, True)
    )
    models = [AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval() for name in names]
    _, docs = sample(args.data, args.every)
    contenders = {
        "this project": partial(ours, pair, docs),
        "with --compile": partial(ours, compiled, docs),
        "plain loop": partial(plain_loop, models, docs),
        "padded batches": partial(padded_batches, models, docs),
    }
    if not args.without_harness:
        from lm_eval.models.huggingface import HFLM

        wrapped = [
            HFLM(pretrained=model, tokenizer=pair.tokenizer.hf, batch_size=PADDED_BATCH, max_length=SEQ_LEN)
            for model in models
        ]
        contenders["lm-evaluation-harness"] = partial(harness, wrapped, [pair.tokenizer.decode(ids) for ids in docs])
    expected = np.array(plain_loop(models, docs))
    difference = max(float(np.abs(np.array(ours(each, docs)) - expected).max()) for each in (pair, compiled))
    assert np.abs(np.array(padded_batches(models, docs)) - expected).max() < 1e-3
    seconds = in_turn(contenders, args.rounds)
    num_tokens = sum(map(len, docs))
    save(
        "scoring_cpu",
        {
            "what": f"{len(docs)} documents, {num_tokens} tokens, float32, SmolLM2-135M",
            "tokens_per_second": {name: num_tokens / float(np.median(taken)) for name, taken in seconds.items()},
            "times_as_fast_as": ratios(seconds, "this project"),
            "compile_brings": ratios(seconds, "with --compile")["this project"],
            "largest_difference_to_plain_loop_nats": difference,
            "seconds": seconds,
        },
    )


if __name__ == "__main__":
    main()
