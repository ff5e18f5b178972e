"""What can be seen of a document token by token: losses and ranks under both models, and where a head looks."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from common.errors import InputError, visible
from common.model.attention import watch_heads
from common.model.heads import Head, head_shape
from common.scoring.pair import RECORD_NAME, Pair, read_record
from common.shards.documents import is_scorable, windows
from common.text.tokenization import TextTokenizer

# In the place of a token's place: it is no target, or the head looks at the BOS that was put before its window.
NOWHERE, AT_BOS = -1, -2
MOST_TOKENS_HELD = 8
HALF = "\ufffd"


def strongest_head(pair: Pair, reference_model: str, wanted: Head | None) -> Head | None:
    """The head that is `wanted`, or else the first of those that the reference's record lists, best first.

    Returns:
        None where none is wanted and the reference has no record.
    Raises:
        InputError: the model has no such head, or the reference does not mask the one in its record.
    """
    layers, heads = head_shape(pair.base)
    if wanted:
        if not (0 <= wanted[0] < layers and 0 <= wanted[1] < heads):
            raise InputError(
                f"--head {wanted[0]},{wanted[1]} is outside the model's {layers} layers of {heads} heads; both are "
                "counted from 0"
            )
        return wanted
    record = read_record(reference_model)
    if not record or not record[1]:
        return None
    best = record[1][0]
    if best not in pair.masked_heads:
        raise InputError(
            f"{reference_model}/{RECORD_NAME}: it begins with head {best[0]},{best[1]}, which the reference does not "
            "mask; make the folder anew with make_reference_model.py"
        )
    return best


@torch.inference_mode()
def looked_at(
    model: PreTrainedModel, token_ids: np.ndarray, seq_len: int, bos_id: int | None, head: Head
) -> np.ndarray:
    """The token that a head attends to most, in the row that predicts each token.

    Args:
        token_ids: a document, cut into windows as for its losses.
    Returns:
        Places in the document, int64, shape [num_tokens]; NOWHERE for what is no target, AT_BOS for a BOS that is not
        of the document.
    """
    layer, index = head
    places = np.full(len(token_ids), NOWHERE)
    cut = list(windows(token_ids, seq_len, bos_id))
    place = first_target = len(token_ids) - sum(len(window) - 1 for window in cut)
    for window in cut:
        rows = torch.arange(len(window) - 1, device=model.device)
        with watch_heads(model, rows, [layer]) as watch:
            model.base_model(input_ids=torch.tensor(window[None, :-1], device=model.device), use_cache=False)
        found = watch.most_attended[layer][0, index].cpu().numpy() + place - 1
        # A window's context is the token before it, unless a BOS was put there: in the first place of a document that
        # has none, and always in later ones.
        if bos_id is not None and (place > first_target or not first_target):
            found[found == place - 1] = AT_BOS
        places[place : place + len(rows)] = found
        place += len(rows)
    return places


def characters(token_ids: Sequence[int], tokenizer: TextTokenizer) -> list[tuple[str, int]]:
    """A document's text, cut where tokens and characters end together: (text, how many tokens it takes).

    The texts are together what the tokenizer makes of the whole. A character that takes several tokens stays in one
    piece; bytes that never become one show as U+FFFD.
    """
    pieces, before, first = [], 0, 0
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[before:end])[len(tokenizer.decode(token_ids[before:first])) :]
        unfinished = not text or text.endswith(HALF)
        if unfinished and end < len(token_ids) and end - first < MOST_TOKENS_HELD:
            continue
        pieces.append((text, end - first))
        before, first = end if unfinished else first, end
    return pieces


def document_record(
    token_ids: np.ndarray, separator_id: int, scored: np.ndarray | None, pair: Pair, seq_len: int, head: Head | None
) -> dict:
    """What the page shows of one document, ready for JSON.

    Args:
        scored: which of its tokens alone are scored, int64, shape [num_spans, 2]; None for all of them.
    Returns:
        `ids` and `pieces` (text with its control characters as escapes, number of tokens) of all; and, where it can
        be scored, `means` (L_base, L_ref, AI_Score), and a list with an entry for each token, None for what is not
        scored, of `base`, `reference` (losses in nats), `ranks` (two lists) and, with a head, `looks`.
    """
    ids = token_ids.tolist()
    record = {
        "ids": ids,
        "separator": separator_id,
        "pieces": [(visible(text), count) for text, count in characters(ids, pair.tokenizer)],
    }
    if not is_scorable(token_ids, separator_id, scored):
        return record
    bos_id = pair.tokenizer.bos_id
    cut = list(windows(token_ids, seq_len, bos_id))
    losses, ranks = pair.scorer.score(cut), pair.scorer.ranks(cut)
    first_target = len(ids) - len(losses.base)
    places, losses = losses.scored(len(ids), scored)
    ranks = ranks[:, places - first_target]

    def by_token(values: Iterable) -> list:
        found = dict(zip(places.tolist(), values, strict=True))
        return [found.get(place) for place in range(len(ids))]

    starts = np.cumsum([first_target, *(len(window) - 1 for window in cut[:-1])])
    record |= {
        "means": [_number(mean) for mean in losses.means()],
        "base": by_token(map(_number, losses.base)),
        "reference": by_token(map(_number, losses.reference)),
        "ranks": [by_token(of_model.tolist()) for of_model in ranks],
        "windows": starts.tolist(),
    }
    if head:
        record["looks"] = looked_at(pair.base, token_ids, seq_len, bos_id, head).tolist()
    return record


def _number(value: float) -> float | None:
    """A number for JSON: as short as gives a float32 back to the last bit, None if it is not finite."""
    return float(f"{value:.9g}") if np.isfinite(value) else None
