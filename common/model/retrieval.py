"""Retrieval scores: how often each head copies the answer of a probe (Wu et al. 2024, arXiv 2404.15574)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from common.errors import InputError
from common.model.attention import watch_heads
from common.model.checkpoints import require_context
from common.model.probes import Probe
from common.text.tokenization import TextTokenizer


@dataclass(frozen=True)
class EncodedProbe:
    """A probe as token ids.

    Attributes:
        input_ids: BOS (if the tokenizer adds one), prompt and answer.
        answer_start: index of the answer's first token.
        span: half-open token span of the answer in the context.
    """

    input_ids: list[int]
    answer_start: int
    span: tuple[int, int]


def encode_probes(probes: Sequence[Probe], tokenizer: TextTokenizer, model: PreTrainedModel) -> list[EncodedProbe]:
    """Encode probes for a model; InputError for a probe that does not fit its tokenizer or its context."""
    encoded = []
    for probe in probes:
        encoded.append(_encode_probe(probe, tokenizer))
        fix = "make probes with generate_retrieval_probes.py --max_tokens {}"
        require_context(model, len(encoded[-1].input_ids), f"probe {probe.id}", fix)
    return encoded


def _encode_probe(probe: Probe, tokenizer: TextTokenizer) -> EncodedProbe:
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    prompt_ids = tokenizer.encode(probe.prompt)
    input_ids, offsets = tokenizer.encode_with_offsets(probe.prompt + probe.answer)
    if input_ids[: len(prompt_ids)] != prompt_ids:
        raise InputError(
            f"probe {probe.id}: the prompt's tokens are not a prefix of prompt and answer under {tokenizer.name}; "
            "make probes with this model's tokenizer"
        )
    start = probe.prompt.index(probe.answer)
    end = start + len(probe.answer)
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    span = len(bos) + inside[0], len(bos) + inside[-1] + 1
    return EncodedProbe(bos + input_ids, len(bos) + len(prompt_ids), span)


@torch.inference_mode()
def run_probe(model: PreTrainedModel, probe: EncodedProbe, watch: bool) -> tuple[np.ndarray, np.ndarray]:
    """Run one teacher-forced forward pass over a probe's prompt and answer.

    Args:
        watch: whether to watch the heads; without, only the accuracy is computed.
    Returns:
        copied: bool, shape [layers, heads, answer tokens]: in the row that predicts the answer token (the row of the
            token before it), the position with the head's highest attention is in the answer's span in the context and
            holds the same token. Empty without `watch`.
        correct: bool, shape [answer tokens]: the model's most likely token is the answer's.
    """
    ids = torch.tensor(probe.input_ids, device=model.device)
    answer = ids[probe.answer_start :]
    rows = torch.arange(probe.answer_start - 1, len(ids) - 1, device=model.device)
    with watch_heads(model, rows) if watch else nullcontext() as seen:
        logits = model(ids[None], use_cache=False, logits_to_keep=rows).logits[0]
    correct = (logits.argmax(-1) == answer).cpu().numpy()
    if not watch:
        return np.empty(0, dtype=bool), correct
    positions = torch.stack([seen.most_attended[layer][0] for layer in sorted(seen.most_attended)])
    inside = (positions >= probe.span[0]) & (positions < probe.span[1])
    return (inside & (ids[positions] == answer)).cpu().numpy(), correct


def average_over(average: str, copied: Sequence[np.ndarray]) -> np.ndarray:
    """The share of answer tokens that each head copies: the mean over `probes`, or over all their `tokens` together.

    Args:
        copied: of each probe, bool, shape [layers, heads, answer tokens].
    """
    if average == "tokens":
        return np.concatenate(copied, axis=-1).mean(-1)
    return np.mean([hits.mean(-1) for hits in copied], axis=0)


def score_heads(
    model: PreTrainedModel, probes: Sequence[EncodedProbe], done: Callable[[int], object], average: str = "probes"
) -> tuple[np.ndarray, float]:
    """Retrieval score of every head: the share of the answers' tokens that it copies, as `average_over` defines it.

    Args:
        done: called after each probe with its number of tokens, for a progress bar.
    Returns:
        scores, shape [num_hidden_layers, num_attention_heads], in [0, 1]; and the model's token accuracy.
    Raises:
        InputError: every score is zero, so no head can be chosen.
    """
    copied, correct = [], []
    for probe in probes:
        hits, right = run_probe(model, probe, watch=True)
        copied.append(hits)
        correct.append(right)
        done(len(probe.input_ids))
    scores = average_over(average, copied)
    if not scores.any():
        raise InputError(
            f"all retrieval scores are zero over {len(probes)} probes: no head attended to an answer; use a pretrained "
            "model, probes made with its tokenizer, or shorter probes (--max_tokens)"
        )
    return scores, float(np.concatenate(correct).mean())


def probe_accuracy(model: PreTrainedModel, probes: Sequence[EncodedProbe], done: Callable[[int], object]) -> float:
    """Share of answer tokens that the model predicts, teacher-forced; `done` as in `score_heads`."""
    correct = []
    for probe in probes:
        correct.append(run_probe(model, probe, watch=False)[1])
        done(len(probe.input_ids))
    return float(np.concatenate(correct).mean())
