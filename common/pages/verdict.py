"""Whether the model is good enough for its scores to mean something: what steps 2 and 3 measured, and a verdict."""

from statistics import median

import numpy as np

from common.model.heads import Head
from common.model.reference import CHECK_NAME, Check

HALF = 0.5
RULE = (
    "Rule: the model predicts at least half of the tokens; with its heads masked at most half of that; and with random "
    "heads masked (the median draw) more than half of it."
)


def judge(check: Check | None, head_scores: np.ndarray, heads: list[Head], reference_model: str, command: str) -> dict:
    """What the page says about the model.

    Args:
        check: of the reference model, if there is one.
        head_scores: retrieval scores, shape [num_hidden_layers, num_attention_heads].
        heads: the masked heads.
        reference_model: the folder where the check was looked for.
        command: makes the check.
    Returns:
        `verdict` and `rule`, sentences; `shares`, (share, what it is of) of what was measured; without a check also
        `command`.
    """
    inside = [head for head in heads if head.layer < head_scores.shape[0] and head.index < head_scores.shape[1]]
    share = sum(head_scores[head] for head in inside) / head_scores.sum() if head_scores.any() else 0.0
    shares = [(float(share), f"of all retrieval scores are in the {len(heads)} masked of {head_scores.size} heads")]
    if check is None:
        return {
            "verdict": f"Not known: there is no {reference_model}/{CHECK_NAME}. To measure it:",
            "command": command,
            "rule": RULE,
            "shares": shares,
        }
    middle = median(check.random)
    draws = f"median of {len(check.random)} draws, {min(check.random):.0%} to {max(check.random):.0%}"
    measured = [
        (check.base, f"of the answers' tokens in {check.probes} probes are predicted"),
        (check.masked, "with the retrieval heads masked"),
        (middle, f"with as many random heads masked ({draws})"),
    ]
    return {"verdict": _verdict(check.base, check.masked, middle), "rule": RULE, "shares": measured + shares}


def _verdict(base: float, masked: float, random: float) -> str:
    if base < HALF:
        return (
            "No: the model itself predicts fewer than half of the tokens, so it hardly copies from its context, and "
            "the scores mean little. Take a larger model or shorter probes (generate_retrieval_probes.py --max_tokens)."
        )
    if masked > HALF * base:
        return (
            "No: the model still copies when its heads are masked, so the scores do not show what copying does. Mask "
            "more heads (compute_retrieval_heads.py --top_pct), or make more probes."
        )
    if random <= HALF * base:
        return (
            "Doubtful: masking random heads harms the model as well, so the scores show harm, not copying alone. Mask "
            "fewer heads (compute_retrieval_heads.py --top_pct)."
        )
    return "Yes: the model copies from its context, and it is the masked heads that it copies with."
