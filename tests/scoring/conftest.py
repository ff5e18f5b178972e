"""What tests of losses share: documents, pairs of models, and scores of a stream."""

import numpy as np

from common.model.masking import mask_heads
from tests.conftest import tiny_model

HEADS = [(1, 6), (2, 3), (3, 0), (3, 7)]


def document(length):
    return np.random.default_rng(length).integers(3, 400, length)


def pair(family, heads, kind, **settings):
    base = tiny_model(family, **settings)
    reference = tiny_model(family, **settings)
    mask_heads(reference, heads, kind)
    return base, reference


def streamed(scorer, documents):
    """(key, losses) of every document; each is one window unless it is a list of windows."""
    cut = ((key, ids if isinstance(ids, list) else [ids]) for key, ids in enumerate(documents))
    return [found for finished in scorer.stream(cut) for found in finished]
