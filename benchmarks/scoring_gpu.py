"""Scoring on one GPU in bfloat16: a 1.3B Llama shape, its masked heads in the upper half, FineWeb-like lengths.

    bash benchmarks/run.sh scoring_gpu

Against a plain loop and length-sorted padded batches, each with two models, and against the GPU's own matmul rate in
the same run (8192³ in bfloat16): floating-point operations per second, and the time of two full passes at that rate.
Also without --compile, without varlen_attn, and with batches twice as large; and by torch's profiler, what the GPU does
in that time. Weights and tokens are random; the work does not depend on them. --device cpu is only a check, in small.
"""

import time
from collections import defaultdict
from functools import partial
from unittest import mock

import numpy as np
import torch
from measure import flags, in_turn, ratios, save
from models import fineweb_like_lengths, random_documents, random_model, upper_heads
from scoring import plain_loop, score

from common.model import attention
from common.model.attention import decoder_layers
from common.model.masking import mask_heads
from common.scoring.loss import PairScorer

SEQ_LEN = 8192
PADDED_TOKENS = 16384
TOLERANCE = 0.02  # nats of a document's mean loss: both sides compute logits in bfloat16


def matmul_rate(device: str) -> float:
    """Floating-point operations per second of a bfloat16 matmul of 8192³ (of 1024³ on a CPU)."""
    size = 8192 if device != "cpu" else 1024
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    seconds = in_turn({"matmul": lambda: [a @ b for _ in range(20)]}, 5)["matmul"]
    return 20 * 2 * size**3 / min(seconds)


def copy_rate(device: str) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones(2**28 if device != "cpu" else 2**20, dtype=torch.float32, device=device)
    copy = torch.empty_like(source)
    seconds = in_turn({"copy": lambda: [copy.copy_(source) for _ in range(20)]}, 5)["copy"]
    return 20 * 2 * source.nbytes / min(seconds)


KINDS = {
    "attention": ("flash", "fmha", "attention"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma"),
    "fused by torch.compile": ("triton",),
    "copies": ("memcpy", "memset"),
}


def profiled(run) -> dict:
    """Seconds of the GPU by kind of kernel, the longest kernels, and the share of the time in which none ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken = time.perf_counter() - begin
    seconds, kernels = defaultdict(float), {}
    for event in profiler.key_averages():
        if own := event.self_device_time_total / 1e6:
            kind = next((kind for kind, words in KINDS.items() if any(w in event.key.lower() for w in words)), "others")
            seconds[kind] += own
            before, count = kernels.get(event.key[:90], (0, 0))
            kernels[event.key[:90]] = [before + own, count + event.count]
    longest = dict(sorted(kernels.items(), key=lambda item: -item[1][0])[:25])
    return {"seconds": dict(seconds), "idle": 1 - sum(seconds.values()) / taken, "seconds_and_count": longest}


def operations(model, lengths, first_masked: int) -> tuple[float, float]:
    """Floating-point operations of the shared trunk and of two full passes, over documents of these lengths."""
    layers, config = len(decoder_layers(model)), model.config
    per_layer = sum(p.numel() for p in decoder_layers(model)[0].parameters() if p.ndim == 2)
    head = config.hidden_size * config.vocab_size
    lengths = np.asarray(lengths, dtype=float)
    # causal attention: two products of length² / 2 for each of the layer's channels
    attention = float((lengths**2).sum()) * config.hidden_size * 2
    layer = 2 * per_layer * float(lengths.sum()) + attention
    heads = 2 * 2 * head * float(lengths.sum())
    return (2 * layers - first_masked) * layer + heads, 2 * layers * layer + heads


def score_without_varlen(scorer: PairScorer, docs) -> None:
    """With one call of attention for each document of a batch, as on the CPU."""
    with mock.patch.object(attention, "FLASH_MAX_HEAD_DIM", 0):
        score(scorer, docs, SEQ_LEN)


@torch.inference_mode()
def padded_batches(models, docs) -> None:
    docs, device = sorted(docs, key=len), models[0].device
    while docs:
        size = next((n for n in range(len(docs), 0, -1) if n * len(docs[n - 1]) <= PADDED_TOKENS), 1)
        batch, docs = docs[:size], docs[size:]
        rows = [torch.tensor(ids, device=device) for ids in batch]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        for model in models:
            logits = model(input_ids=input_ids, attention_mask=mask).logits[:, :-1].flatten(0, 1).float()
            each = torch.nn.functional.cross_entropy(logits, input_ids[:, 1:].flatten(), reduction="none")
            each = each.view_as(mask[:, 1:])
            ((each * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)).cpu()


def main() -> None:
    args = flags(__doc__, shape="1.3B", documents=100, rounds=2, device="cuda")
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: this row is not measured")
    name = "scoring_gpu" if args.device != "cpu" else "scoring_gpu_cpu"
    base, reference = (random_model(args.shape, args.device, torch.bfloat16) for _ in range(2))
    masked = upper_heads(base)
    mask_heads(reference, masked.heads, masked.kind)
    lengths = fineweb_like_lengths(args.documents)
    docs = random_documents(lengths, base.config.vocab_size)
    scorers = {
        "this project": PairScorer(base, masked=masked, compiled=True),
        "batches of twice the tokens": PairScorer(base, masked=masked, tokens_per_batch=65536, compiled=True),
        "without --compile": PairScorer(base, masked=masked),
    }
    expected, difference = np.array(plain_loop([base, reference], docs[:20])), {}
    for contender, scorer in scorers.items():
        difference[contender] = float(np.abs(np.array(score(scorer, docs[:20], SEQ_LEN)) - expected).max())
    assert max(difference.values()) < TOLERANCE, difference
    rate = matmul_rate(args.device)
    result = {
        "what": f"{args.documents} documents, {int(lengths.sum())} tokens, bfloat16, Llama of {args.shape}",
        "matmul_tflops": rate / 1e12,
        "copy_tb_per_second": copy_rate(args.device) / 1e12,
        "tokens_per_batch": scorers["this project"].tokens_per_batch,
        "largest_difference_to_plain_loop_nats": difference,
    }
    contenders = {name: partial(score, scorer, docs, SEQ_LEN) for name, scorer in scorers.items()}
    if args.device != "cpu":
        contenders["this project"]()
        torch.cuda.reset_peak_memory_stats()  # includes both models
        contenders["this project"]()
        result["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        result["profile"] = {name: profiled(contenders[name]) for name in ("this project", "without --compile")}
        save(f"{name}_part", result)  # in case the time ends before the rest
    contenders |= {
        "without varlen_attn": partial(score_without_varlen, scorers["without --compile"], docs),
        "plain loop": partial(plain_loop, [base, reference], docs),
        "padded batches": partial(padded_batches, [base, reference], docs),
    }
    many = random_documents(fineweb_like_lengths(10 * args.documents), base.config.vocab_size)
    alone = in_turn({"alone": partial(score, scorers["this project"], many, SEQ_LEN)}, 1, warm=True)["alone"]
    result["tokens_per_second_of_a_longer_run"] = sum(map(len, many)) / alone[0]
    first_pass = in_turn(contenders, 1, warm=True)  # torch plans attention for each length that is new
    seconds = in_turn(contenders, args.rounds, warm=True)
    executed, two_passes = operations(base, lengths, min(head.layer for head in masked.heads))
    ours = float(np.median(seconds["this project"]))
    result |= {
        "tokens_per_second": {name: float(lengths.sum() / np.median(taken)) for name, taken in seconds.items()},
        "times_as_fast_as": ratios(seconds, "this project"),
        "varlen_brings": ratios(seconds, "without --compile")["without varlen_attn"],
        "share_of_matmul_rate": executed / ours / rate,
        "share_of_two_passes_at_matmul_rate": two_passes / rate / ours,
        "seconds": seconds,
        "seconds_of_the_first_pass": first_pass,
    }
    save(name, result)


if __name__ == "__main__":
    main()
