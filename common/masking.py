"""Switching heads off in a model's weights, and recognising a model in which that was done.

A uniform head has zero query rows: every attention logit is 0, so row i of its attention is 1/(i+1) over what it may
see. No key or value row is touched, so other heads that share them keep theirs, and position encodings and per-head
query norms leave zero at zero. A zero head has zero columns in the output projection: its contribution is nothing.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from common.attention import HeadMask, attention_modules
from common.checkpoints import settings
from common.errors import InputError
from common.heads import Head

MASKS = ("uniform", "zero")


@torch.no_grad()
def mask_heads(model: PreTrainedModel, heads: Sequence[Head], kind: str) -> None:
    """Switch `heads` off in the weights, in place.

    Args:
        kind: `uniform` or `zero`.
    Raises:
        InputError: a layer does not keep a head's weights where this can be done.
    """
    modules = attention_modules(model)
    for layer, head in heads:
        for tensor in _head_tensors(modules[layer], kind):
            tensor[head] = 0


def find_masked_heads(base: PreTrainedModel, reference: PreTrainedModel) -> tuple[str, list[Head]] | str:
    """Compare two models, config and every tensor: is `reference` the `base` with heads switched off and no more?

    Returns:
        (kind, heads) when it is, else a sentence that says where they part.
    """
    for name, value in settings(base).items():
        other = settings(reference).get(name)
        if value != other:
            return f"{name} is {other} instead of {value}"
    ours, theirs = base.state_dict(), reference.state_dict()  # of the same names and shapes, as the configs are equal
    differing = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    if not differing:
        return "they are identical, no head is masked"
    unexplained = differing
    for kind in MASKS:
        try:
            heads, explained = _zeroed_heads(base, reference, kind)
        except InputError:  # this kind cannot have been used
            continue
        if differing <= explained:
            return kind, heads
        unexplained = min(unexplained, differing - explained, key=len)
    return f"tensor {min(unexplained)} differs in more than masked heads"


def _zeroed_heads(base, reference, kind) -> tuple[list[Head], set[str]]:
    """Heads that differ and are zero in the reference, and the names of tensors that differ in nothing else."""
    heads, explained = [], set()
    names = {parameter: name for name, parameter in base.named_parameters(remove_duplicate=False)}
    theirs = attention_modules(reference)
    for layer, module in attention_modules(base).items():
        pairs = list(zip(_head_tensors(module, kind), _head_tensors(theirs[layer], kind), strict=True))
        changed = [(ours != other).flatten(1).any(1) for ours, other in pairs]
        zero = torch.stack([~other.flatten(1).any(1) for _, other in pairs]).all(0)
        heads += [(layer, int(head)) for head in torch.stack(changed).any(0).nonzero()]
        for parameter, rows in zip(_head_parameters(module, kind), changed, strict=True):
            if not (rows & ~zero).any():
                explained.add(names[parameter])
    return heads, explained


def run_time_masks(
    heads: Sequence[Head], kind: str, num_heads: int, device: torch.device, rows: Sequence[bool] = (True,)
) -> dict[int, HeadMask]:
    """The same masking as attention-time masks by layer; `rows` says which rows of the batch are masked."""
    masks = {
        layer: HeadMask(kind, torch.zeros(len(rows), num_heads, dtype=torch.bool, device=device)) for layer, _ in heads
    }
    for layer, head in heads:
        masks[layer].masked[:, head] = torch.tensor(rows, device=device)
    return masks


def _head_parameters(module: torch.nn.Module, kind: str) -> Iterator[torch.nn.Parameter]:
    """The parameters that hold what each head is masked by: query projection or output projection."""
    projection = getattr(module, "q_proj" if kind == "uniform" else "o_proj", None)
    if not isinstance(projection, torch.nn.Linear):
        raise InputError(f"{type(module).__name__}: no separate linear query and output projection; cannot be masked")
    yield projection.weight
    if kind == "uniform" and projection.bias is not None:
        yield projection.bias


def _head_tensors(module: torch.nn.Module, kind: str) -> Iterator[torch.Tensor]:
    """Views of those parameters with the head as first axis: [heads, head_dim(, hidden)] or [heads, hidden, head_dim].

    This is the one place that knows where a class keeps a head's weights.
    """
    norm = getattr(module, "q_norm", None)
    if kind == "uniform" and norm is not None and norm.weight.numel() != module.head_dim:
        raise InputError(
            f"{type(module).__name__}: its query norm spans all heads, so zero query rows would change the others; "
            "use --mask zero"
        )
    if hasattr(module, "sinks"):
        raise InputError(f"{type(module).__name__}: attention sinks take weight from every head, so no mask is exact")
    for parameter in _head_parameters(module, kind):
        rows = parameter.shape[0 if kind == "uniform" else 1]
        if rows != module.config.num_attention_heads * getattr(module, "head_dim", 0):
            raise InputError(
                f"{type(module).__name__}: its projection does not hold head_dim rows for each head and no more, so "
                "heads cannot be masked"
            )
        if kind == "uniform":
            yield parameter.unflatten(0, (-1, module.head_dim))
        else:
            yield parameter.unflatten(1, (-1, module.head_dim)).transpose(0, 1)
