"""Masking heads in a model's weights, and recognising a model in which that was done.

layouts.py knows which weights of a head to set to zero. Each masked layer is then tried: its output must equal the
output with the heads masked at run time, where masking is exact.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from common.errors import InputError
from common.model.attention import HeadMask, attention_modules, head_dim, mask_heads_at_run_time
from common.model.checkpoints import config_settings
from common.model.heads import Head
from common.model.layouts import head_views

MASKS = ("uniform", "zero")
TRIAL_TOKENS = 16
OUTPUT_TOLERANCE = 1e-5  # as a share of the largest output


class Masking(NamedTuple):
    """Masked heads.

    Attributes:
        kind: `uniform` or `zero`.
        heads: best first, if that is known.
    """

    kind: str
    heads: list[Head]


def head_shape(model: PreTrainedModel) -> tuple[int, int]:
    """(num_hidden_layers, num_attention_heads)."""
    return model.config.num_hidden_layers, model.config.num_attention_heads


@torch.no_grad()
def mask_heads(model: PreTrainedModel, heads: Sequence[Head], kind: str) -> None:
    """Mask `heads` in the weights, in place.

    Args:
        kind: `uniform` or `zero`.
    Raises:
        InputError: this kind of masking is not possible by a change of this model's weights.
    """
    check_exact(model, heads, kind)
    modules = attention_modules(model)
    for layer in sorted({layer for layer, _ in heads}):
        _mask_layer(modules[layer], [head for other, head in heads if other == layer], kind, _shape(model, layer))


def _mask_layer(module: torch.nn.Module, heads: Sequence[int], kind: str, shape: tuple[int, int]) -> None:
    for view in head_views(module, kind, *shape):
        view[list(heads)] = 0


def _shape(model: PreTrainedModel, layer: int) -> tuple[int, int]:
    """(num_attention_heads, head_dim) of a layer."""
    return model.config.num_attention_heads, head_dim(model, layer)


@torch.no_grad()
def check_exact(model: PreTrainedModel, heads: Sequence[Head], kind: str) -> None:
    """Raise InputError unless masking in the weights has the same effect on each layer as masking at run time."""
    modules, masks = attention_modules(model), run_time_masks(heads, kind)
    inputs = {}
    hooks = [
        modules[layer].register_forward_pre_hook(
            lambda _module, args, kwargs, layer=layer: inputs.update({layer: (args, kwargs)}), with_kwargs=True
        )
        for layer in masks
    ]
    input_ids = torch.arange(TRIAL_TOKENS, device=model.device)[None] * 37 % model.config.vocab_size
    with mask_heads_at_run_time(model, {}):
        model(input_ids=input_ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        for layer, (args, kwargs) in inputs.items():
            masked = copy.deepcopy(modules[layer])
            _mask_layer(masked, [head for other, head in heads if other == layer], kind, _shape(model, layer))
            found = masked(*args, **kwargs)[0]
            with mask_heads_at_run_time(model, {layer: masks[layer]}):
                expected = modules[layer](*args, **kwargs)[0]
            if not (found - expected).abs().max() <= OUTPUT_TOLERANCE * expected.abs().max():
                other = next(mask for mask in MASKS if mask != kind)
                raise InputError(
                    f"{type(modules[layer]).__name__}: zero weights do not make a head {kind}, because something "
                    f"is added to its query or mixed with other heads; try --mask {other}"
                )


def require_maskable(model: PreTrainedModel) -> None:
    """Raise InputError for a model of which no head can be masked in the weights, neither uniform nor zero."""
    for kind in MASKS:
        try:
            return check_exact(model, [Head(max(attention_modules(model)), 0)], kind)
        except InputError as error:
            refusal = error
    raise refusal


def find_masked_heads(base: PreTrainedModel, reference: PreTrainedModel) -> Masking | str:
    """Compare the config and every tensor of two models: is `reference` the `base` with masked heads and no more?

    Returns:
        The masking if it is, otherwise a sentence that names the difference.
    """
    for name, value in config_settings(base).items():
        other = config_settings(reference).get(name)
        if value != other:
            return f"{name} is {other} instead of {value}"
    ours, theirs = base.state_dict(), reference.state_dict()  # equal configs give equal names and shapes
    differing = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    if not differing:
        return "they are identical, no head is masked"
    unexplained = differing
    for kind in MASKS:
        try:
            heads, explained = _zeroed_heads(base, reference, kind)
        except InputError:  # this kind is not possible for this class
            continue
        if differing <= explained:
            return Masking(kind, heads)
        unexplained = min(unexplained, differing - explained, key=len)
    return f"tensor {min(unexplained)} differs in more than masked heads"


@torch.no_grad()
def _zeroed_heads(base, reference, kind) -> tuple[list[Head], set[str]]:
    """Heads that differ and are zero in the reference, and the names of the tensors that differ in nothing else."""
    found, explained = [], set()
    names = {module: name for name, module in base.named_modules()}
    theirs = attention_modules(reference)
    for layer, module in attention_modules(base).items():
        shape = _shape(base, layer)
        pairs = list(zip(head_views(module, kind, *shape), head_views(theirs[layer], kind, *shape), strict=True))
        changed = torch.stack([(ours != other).flatten(1).any(1) for ours, other in pairs]).any(0)
        zero = torch.stack([~other.flatten(1).any(1) for _, other in pairs]).all(0)
        heads = (changed & zero).nonzero()[:, 0].tolist()
        masked = copy.deepcopy(module)
        _mask_layer(masked, heads, kind, shape)
        wanted = theirs[layer].state_dict()
        explained |= {
            f"{names[module]}.{name}"
            for name, tensor in masked.state_dict().items()
            if torch.equal(tensor, wanted[name])
        }
        found += [Head(layer, head) for head in heads]
    return found, explained


def run_time_masks(heads: Sequence[Head], kind: str, rows: slice = slice(None)) -> dict[int, HeadMask]:
    """Masks for `mask_heads_at_run_time`, by layer; `rows` says to which rows of the batch they apply."""
    masks: dict[int, HeadMask] = {}
    for layer, head in heads:
        masks.setdefault(layer, HeadMask(kind, [], rows)).heads.append(head)
    return masks
