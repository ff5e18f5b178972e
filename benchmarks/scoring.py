"""Contenders of several benchmarks: this project's scorer, and the plain loop that a user would write."""

import numpy as np
import torch

from common.scoring.loss import PairScorer
from common.shards.documents import Document

Means = tuple[float, ...]  # a document's losses under both models


def score(scorer: PairScorer, docs: list[np.ndarray], seq_len: int, bos_id: int | None = None) -> list[Means]:
    documents = (Document("benchmark", 0, ids, -1, "") for ids in docs)
    windows = ((row, list(document.windows(seq_len, bos_id))) for row, document in enumerate(documents))
    return [losses.means()[:2] for finished in scorer.stream(windows) for _, losses in finished]


@torch.inference_mode()
def plain_loop(models, docs: list[np.ndarray]) -> list[Means]:
    """Two models, one document at a time."""
    losses = []
    for ids in docs:
        input_ids = torch.tensor(ids, device=models[0].device)[None]
        losses.append(tuple(model(input_ids=input_ids, labels=input_ids).loss.item() for model in models))
    return losses
