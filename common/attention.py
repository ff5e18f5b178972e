"""One attention function, registered with transformers, that can watch heads and switch heads off.

It sees queries and keys as every architecture computes them, after projection, normalisation and position encoding, and
leaves the attention itself to transformers' own `sdpa`. What it should do is attached to the attention modules for the
length of a `with` block, so models that are not inside one run as always.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from common.errors import InputError

NAME = "attention_influence"


@dataclass
class HeadMask:
    """Heads of one layer that are switched off.

    Attributes:
        kind: `uniform` (a masked head attends equally to all it may see) or `zero` (it contributes nothing).
        masked: bool, shape [batch or 1, num_attention_heads].
    """

    kind: str
    masked: torch.Tensor


@dataclass
class Watch:
    """Where each head looks, from chosen rows.

    Attributes:
        rows: query positions to watch, shape [num_rows].
        most_attended: per layer index, the position with the highest attention logit, shape
            [batch, num_attention_heads, num_rows].
    """

    rows: torch.Tensor
    most_attended: dict[int, torch.Tensor] = field(default_factory=dict)


def attention_modules(model: PreTrainedModel) -> dict[int, torch.nn.Module]:
    """The self-attention module of each layer, by layer index."""
    modules = {
        module.layer_idx: module
        for module in model.modules()
        if hasattr(module, "layer_idx") and (hasattr(module, "q_proj") or hasattr(module, "num_key_value_groups"))
    }
    if sorted(modules) != list(range(model.config.num_hidden_layers)):
        raise InputError(
            f"{type(model).__name__}: not every layer has attention of the kind that can be watched and masked; "
            "use a model such as Llama, Mistral, Qwen or Gemma"
        )
    return modules


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder's layers in order: the list whose elements hold the attention modules."""
    attention = attention_modules(model)
    for module in model.modules():
        if not isinstance(module, torch.nn.ModuleList) or len(module) != len(attention):
            continue
        if all(attention[layer] in set(module[layer].modules()) for layer in attention):
            return module
    raise InputError(f"{type(model).__name__}: its decoder layers are not a list, one layer with attention each")


@contextmanager
def mask_heads_at_run_time(model: PreTrainedModel, masks: dict[int, HeadMask]) -> Iterator[None]:
    """Inside the block, the heads of `masks` (by layer index) are switched off; no weight changes."""
    with _attached(model, "head_mask", masks):
        yield


@contextmanager
def watch_heads(model: PreTrainedModel, rows: torch.Tensor) -> Iterator[Watch]:
    """Inside the block, each forward pass records where every head looks from `rows`, and no more than that.

    No attention matrix is kept: per layer it computes the logits of `rows` alone, shape [heads, num_rows, length].
    """
    watch = Watch(rows)
    with _attached(model, "watch", dict.fromkeys(attention_modules(model), watch)):
        yield watch


@contextmanager
def _attached(model: PreTrainedModel, attribute: str, values: dict) -> Iterator[None]:
    modules = attention_modules(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    for layer, value in values.items():
        setattr(modules[layer], attribute, value)
    try:
        yield
    finally:
        for layer in values:
            delattr(modules[layer], attribute)
        model.set_attn_implementation(before)


def _attention_forward(module, query, key, value, attention_mask, **kwargs):
    """An attention function as transformers calls it.

    Args:
        query: shape [batch, num_attention_heads, length, head_dim].
        key, value: shape [batch, num_key_value_heads, length, head_dim].
        attention_mask: None (causal) or bool, shape [batch or 1, 1, length, length], true where it may look.
    Returns:
        Output, shape [batch, length, num_attention_heads, head_dim], and None for the attention weights.
    """
    watch = getattr(module, "watch", None)
    if watch is not None:
        watch.most_attended[module.layer_idx] = _most_attended(query, key, attention_mask, watch.rows)
    mask = getattr(module, "head_mask", None)
    if mask is not None and mask.kind == "uniform":
        query = query.masked_fill(mask.masked[:, :, None, None], 0.0)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if mask is not None and mask.kind == "zero":
        output = output.masked_fill(mask.masked[:, None, :, None], 0.0)
    return output, None


def _most_attended(query, key, attention_mask, rows) -> torch.Tensor:
    """Argmax over positions of the attention logits in `rows`, shape [batch, num_attention_heads, num_rows]."""
    grouped = query[:, :, rows].float().unflatten(1, (key.shape[1], -1))
    logits = grouped @ key.float().unsqueeze(2).transpose(-1, -2)
    if attention_mask is None:
        may_look = torch.arange(key.shape[2], device=rows.device) <= rows[:, None]
    else:
        may_look = attention_mask[:, :, rows].unsqueeze(2)
    return logits.masked_fill(~may_look, -torch.inf).argmax(-1).flatten(1, 2)


AttentionInterface.register(NAME, _attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
