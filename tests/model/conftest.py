"""What tests of models share: token ids to run, and masked copies."""

import copy

import torch

from common.model.masking import mask_heads

IDS = torch.arange(2, 62).remainder(17)[None] * 23
KINDS = ["uniform", "zero"]


def masked_copy(base, heads, kind):
    reference = copy.deepcopy(base)
    mask_heads(reference, heads, kind)
    return reference


@torch.no_grad()
def logits(model):
    return model(IDS).logits
