"""Retrieval heads: how they are scored, chosen, written and read.

A head is a query head, named by layer and index within the layer, also under grouped-query attention.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from common.errors import InputError
from common.model.attention import watch_heads
from common.model.checkpoints import max_context
from common.model.probes import Probe
from common.text.tokenization import TextTokenizer

Head = tuple[int, int]


def head_shape(model: PreTrainedModel) -> tuple[int, int]:
    """(num_hidden_layers, num_attention_heads)."""
    return model.config.num_hidden_layers, model.config.num_attention_heads


@dataclass(frozen=True)
class EncodedProbe:
    """A probe as token ids.

    Attributes:
        input_ids: BOS (if the tokenizer adds one), prompt and answer.
        answer_start: index of the answer's first token.
        span: half-open token span of the answer where the context holds it.
    """

    input_ids: list[int]
    answer_start: int
    span: tuple[int, int]


def encode_probes(probes: Sequence[Probe], tokenizer: TextTokenizer, model: PreTrainedModel) -> list[EncodedProbe]:
    """Encode probes for a model; InputError for one that does not fit its tokenizer or its context."""
    limit = max_context(model)
    encoded = []
    for probe in probes:
        encoded.append(_encode_probe(probe, tokenizer))
        length = len(encoded[-1].input_ids)
        if limit and length > limit:
            raise InputError(
                f"probe {probe.id}: {length} tokens, but the model's context holds {limit}; "
                f"make probes with generate_retrieval_probes.py --max_tokens {limit}"
            )
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
def run_probe(model: PreTrainedModel, probe: EncodedProbe, observe: bool) -> tuple[np.ndarray, np.ndarray]:
    """One teacher-forced forward pass over a probe's prompt and answer.

    Args:
        observe: False leaves the heads unwatched, for the accuracy alone.
    Returns:
        copied: bool, shape [layers, heads, answer tokens]: in the row that predicts the answer token (the row of the
            token before it) the head's most-attended position lies in the answer's span in the context and holds the
            same token (Wu et al. 2024, arXiv 2404.15574). Empty without `observe`.
        correct: bool, shape [answer tokens]: the model's most likely token is the answer's.
    """
    ids = torch.tensor(probe.input_ids, device=model.device)
    answer = ids[probe.answer_start :]
    rows = torch.arange(probe.answer_start - 1, len(ids) - 1, device=model.device)
    with watch_heads(model, rows) if observe else nullcontext() as watch:
        logits = model(ids[None], use_cache=False, logits_to_keep=rows).logits[0]
    correct = (logits.argmax(-1) == answer).cpu().numpy()
    if not observe:
        return np.empty(0, dtype=bool), correct
    looked_at = torch.stack([watch.most_attended[layer][0] for layer in sorted(watch.most_attended)])
    inside = (looked_at >= probe.span[0]) & (looked_at < probe.span[1])
    return (inside & (ids[looked_at] == answer)).cpu().numpy(), correct


def score_heads(
    model: PreTrainedModel, probes: Sequence[EncodedProbe], done: Callable[[int], object]
) -> tuple[np.ndarray, float]:
    """Retrieval score of every head over all answer tokens of all probes.

    Args:
        done: called after each probe with its number of tokens, for a progress bar.
    Returns:
        scores, shape [num_hidden_layers, num_attention_heads], in [0, 1]; and the model's token accuracy.
    Raises:
        InputError: every score is zero, so no head can be chosen.
    """
    copied, correct = 0, []
    for probe in probes:
        hits, right = run_probe(model, probe, observe=True)
        copied = copied + hits.sum(-1)
        correct.append(right)
        done(len(probe.input_ids))
    if not np.any(copied):
        raise InputError(
            f"all retrieval scores are zero over {len(probes)} probes: no head looked at the answer once; use a "
            "pretrained model, probes made with its tokenizer, or shorter probes (--max_tokens)"
        )
    return copied / sum(map(len, correct)), float(np.concatenate(correct).mean())


def probe_accuracy(model: PreTrainedModel, probes: Sequence[EncodedProbe], done: Callable[[int], object]) -> float:
    """Share of answer tokens that the model predicts, teacher-forced; `done` as in `score_heads`."""
    correct = []
    for probe in probes:
        correct.append(run_probe(model, probe, observe=False)[1])
        done(len(probe.input_ids))
    return float(np.concatenate(correct).mean())


def choose_heads(scores: np.ndarray, top_pct: float) -> list[Head]:
    """The `top_pct` percent of all heads (rounded up) with the highest scores, best first; ties by layer and head."""
    count = math.ceil(Fraction(str(top_pct)) * scores.size / 100)
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, scores.shape), strict=True)]


def write_heads(path: Path, heads: Sequence[Head]) -> None:
    """`layer,head` a line, best first."""
    Path(path).write_text("".join(f"{layer},{head}\n" for layer, head in heads), encoding="utf-8")


def write_scores(path: Path, scores: np.ndarray, heads: Sequence[Head]) -> None:
    """Every head's score as TSV, best first: layer, head, retrieval_score, selected."""
    table = pd.DataFrame(
        [(layer, head, scores[layer, head], (layer, head) in set(heads)) for layer, head in np.ndindex(scores.shape)],
        columns=["layer", "head", "retrieval_score", "selected"],
    ).sort_values("retrieval_score", ascending=False, kind="stable")
    table.to_csv(path, sep="\t", index=False, float_format="%.6f")


def read_scores(path: Path) -> tuple[np.ndarray, list[Head]]:
    """Every head's score, shape [layers, heads], and the selected heads, best first; as `write_scores` wrote them.

    Raises:
        InputError: the file is missing, or not such a table of every head.
    """
    make = "make it with compute_retrieval_heads.py"
    try:
        table = pd.read_csv(path, sep="\t", dtype={"layer": int, "head": int, "retrieval_score": float})
        if not len(table) or table[["layer", "head"]].min().min() < 0:
            raise ValueError("no heads, or a negative number")
        scores = np.full((table["layer"].max() + 1, table["head"].max() + 1), np.nan)
        scores[table["layer"], table["head"]] = table["retrieval_score"]
        chosen = table[table["selected"].astype(bool)]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: not a table of every head's score ({error}); {make}") from None
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError(f"{path}: some heads have no score between 0 and 1; {make}")
    return scores, [(int(layer), int(head)) for layer, head in zip(chosen["layer"], chosen["head"], strict=True)]


def read_heads(path: Path, shape: tuple[int, int]) -> list[Head]:
    """Read `layer,head` lines for a model of `shape` (layers, heads).

    Raises:
        InputError: names file and line: malformed, out of range, twice, or no heads at all.
    """
    make = "make it with compute_retrieval_heads.py"
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {make}") from None
    heads: list[Head] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            layer, head = map(int, line.split(","))
        except ValueError:
            raise InputError(f"{path}:{number}: {line!r} is not `layer,head`; {make}") from None
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            raise InputError(
                f"{path}:{number}: head {layer},{head} is outside the model's {shape[0]} layers of {shape[1]} heads; "
                "find the heads of this model with compute_retrieval_heads.py"
            )
        if (layer, head) in heads:
            raise InputError(f"{path}:{number}: head {layer},{head} stands there twice; remove one")
        heads.append((layer, head))
    if not heads:
        raise InputError(f"{path}: no heads in it; {make}")
    return heads
