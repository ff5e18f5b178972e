"""A document token by token: losses and ranks under both models, and the token that a head attends to most."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from common.errors import InputError, visible
from common.model.attention import watch_heads
from common.model.heads import Head
from common.model.masking import head_shape
from common.model.reference import RECORD_NAME, read_record
from common.scoring.pair import Pair
from common.shards.documents import Document
from common.text.tokenization import TextTokenizer

# Instead of a place: the token is no target, or the head attends to the BOS before its window.
NOWHERE, AT_BOS = -1, -2
MOST_TOKENS_HELD = 8
HALF = "\ufffd"


def strongest_head(pair: Pair, reference_model: str, wanted: Head | None) -> Head | None:
    """The `wanted` head, or else the first in the reference's record, which lists the best first.

    Returns:
        None if none is wanted and the reference has no record.
    Raises:
        InputError: the model has no such head, or the reference does not mask the head in its record.
    """
    if wanted:
        wanted.require_in(head_shape(pair.base), "--head")
        return wanted
    record = read_record(reference_model)
    if not record or not record.heads:
        return None
    best = record.heads[0]
    if best not in pair.masked_heads:
        raise InputError(
            f"{reference_model}/{RECORD_NAME}: its first head is {best}, which the reference does not mask; make the "
            "folder again with make_reference_model.py"
        )
    return best


@torch.inference_mode()
def attended_places(
    model: PreTrainedModel, document: Document, seq_len: int, bos_id: int | None, head: Head
) -> np.ndarray:
    """The token that a head attends to most, in the row that predicts each token of a document.

    Returns:
        Places in the document, int64, shape [num_tokens]; NOWHERE for tokens that are no targets, AT_BOS for a BOS that
        is not in the document.
    """
    places = np.full(len(document), NOWHERE)
    windows = list(document.windows(seq_len, bos_id))
    edges = np.cumsum([len(window) - 1 for window in windows])
    targets = document.targets(int(edges[-1]))
    for window, here in zip(windows, np.split(targets, edges[:-1]), strict=True):
        rows = torch.arange(len(window) - 1, device=model.device)
        with watch_heads(model, rows, [head.layer]) as watch:
            model.base_model(input_ids=torch.tensor(window[None, :-1], device=model.device), use_cache=False)
        found = watch.most_attended[head.layer][0, head.index].cpu().numpy() + here[0] - 1
        # The context of a window is the token before it, unless a BOS was put there: at the beginning of a document
        # that has none, and before each later window.
        if bos_id is not None and (here[0] > targets[0] or not targets[0]):
            found[found == here[0] - 1] = AT_BOS
        places[here] = found
    return places


def characters(token_ids: Sequence[int], tokenizer: TextTokenizer) -> list[tuple[str, int]]:
    """A document's text, cut where a token and a character end together: (text, its number of tokens).

    Together the texts are the tokenizer's text of the whole. A character of several tokens stays in one piece; bytes
    that are no character become U+FFFD.
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


def document_record(document: Document, pair: Pair, seq_len: int, head: Head | None) -> dict:
    """The data of one document for the page, ready for JSON.

    Returns:
        `ids` and `pieces` (text with its control characters as escapes, number of tokens) of all tokens. For a document
        that can be scored also `means` (L_base, L_ref, AI_Score), `windows` (where they begin), and lists with an entry
        for each token, None if it is not scored: `base`, `reference` (losses in nats), `ranks` (two lists) and, with a
        head, `looks`.
    """
    ids = document.token_ids.tolist()
    record = {
        "ids": ids,
        "separator": document.separator_id,
        "pieces": [(visible(text), count) for text, count in characters(ids, pair.tokenizer)],
    }
    if not document.is_scorable:
        return record
    bos_id = pair.tokenizer.bos_id
    windows = list(document.windows(seq_len, bos_id))
    losses, ranks = pair.scorer_of(document.domain).score_and_rank(windows)
    targets = document.targets(len(losses.base))
    places, losses = losses.scored(document)

    def by_token(values: Iterable) -> list:
        found = dict(zip(places.tolist(), values, strict=True))
        return [found.get(place) for place in range(len(ids))]

    starts = targets[np.cumsum([0, *(len(window) - 1 for window in windows[:-1])])]
    record |= {
        "means": [_short_number(mean) for mean in losses.means()],
        "base": by_token(map(_short_number, losses.base)),
        "reference": by_token(map(_short_number, losses.reference)),
        "ranks": [by_token(of_model[np.isin(targets, places)].tolist()) for of_model in ranks],
        "windows": starts.tolist(),
    }
    if head:
        record["looks"] = attended_places(pair.base, document, seq_len, bos_id, head).tolist()
    return record


def _short_number(value: float) -> float | None:
    """A number for JSON: as short as a float32 allows without loss, None if it is not finite."""
    return float(f"{value:.9g}") if np.isfinite(value) else None
