"""One attention function, registered with transformers, that packs documents, watches heads and masks heads.

It receives queries and keys after projection, normalisation and position encoding, whatever the architecture. The
attention itself is `scaled_dot_product_attention` or, for packed documents on CUDA, `varlen_attn`. A `with` block
attaches its task to the attention modules of a model; outside such a block the model runs as usual.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from common.errors import InputError

ATTENTION_NAME = "attention_influence"
FLASH_MAX_HEAD_DIM = 256
WATCHED_ROWS = 512  # rows whose logits are in memory at once
# Grouped queries: torch 2.11's varlen_attn accepts them without a flag.
GROUPED = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}

# The mask for a document's length: None (causal) or bool, shape [1, 1, length, length], true where a row may attend.
MaskOf = Callable[[int], torch.Tensor | None]


@dataclass
class HeadMask:
    """The masked heads of one layer.

    Attributes:
        kind: `uniform` (a masked head attends equally to all positions it may see) or `zero` (it contributes nothing).
        heads: which heads.
        rows: of the batch, in which they are masked.
    """

    kind: str
    heads: list[int]
    rows: slice


@dataclass
class Watch:
    """The position with the highest attention of each head, in chosen rows.

    Attributes:
        rows: query positions to watch, shape [num_rows].
        most_attended: by layer index, the position with the highest attention logit, shape
            [batch, num_attention_heads, num_rows].
    """

    rows: torch.Tensor
    most_attended: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass
class Pack:
    """Documents one after another in one row of tokens; none attends to another.

    Attributes:
        lengths: of each document, in tokens.
    """

    lengths: list[int] = field(default_factory=list)
    _edges: dict[int, torch.Tensor] = field(default_factory=dict)

    def fill(self, lengths: list[int], edges: torch.Tensor) -> None:
        """Set the documents of the next forward pass.

        Args:
            edges: where documents begin and the last one ends, int32, shape [num_documents + 1], on the model's device.
        """
        self.lengths, self._edges = lengths, {1: edges}

    def edges_of(self, rows: int) -> torch.Tensor:
        """The edges of the documents in so many equal rows, one after another; made once for a forward pass."""
        if rows not in self._edges:
            starts, total = self._edges[1][:-1], self._edges[1][-1:]
            self._edges[rows] = torch.cat([*(starts + row * total for row in range(rows)), rows * total])
        return self._edges[rows]


@dataclass
class Trial:
    """The calls of the attention function in a short forward pass, by layer index.

    Attributes:
        modules: the self-attention module of each layer.
        shapes: of query, key and value in each layer, [batch, heads, length, head_dim] each.
        sinks: layers with attention sinks, which give weight to no position.
        alibi: modules that receive ALiBi biases.
        failure: the error of the pass, if it failed.
    """

    modules: dict[int, torch.nn.Module] = field(default_factory=dict)
    shapes: dict[int, tuple[torch.Size, ...]] = field(default_factory=dict)
    sinks: list[int] = field(default_factory=list)
    alibi: list[torch.nn.Module] = field(default_factory=list)
    failure: str = ""


_TRIALS: WeakKeyDictionary[PreTrainedModel, Trial] = WeakKeyDictionary()


def attention_modules(model: PreTrainedModel) -> dict[int, torch.nn.Module]:
    """The self-attention module of each layer, by layer index.

    Raises:
        InputError: some layer has no softmax attention whose heads can be watched and masked; says why.
    """
    return _trial(model).modules


def head_dim(model: PreTrainedModel, layer: int) -> int:
    """The width of a query head in a layer."""
    return _trial(model).shapes[layer][0][-1]


def _trial(model: PreTrainedModel) -> Trial:
    """Run two tokens through the model and record what its attention does; once for each model."""
    if model not in _TRIALS:
        trial = _run_trial(model)
        reason = _reason_to_refuse(model, trial)
        if reason:
            raise InputError(f"{type(model).__name__}: its heads cannot be watched and masked: {reason}")
        trial.modules = dict(sorted(trial.modules.items()))
        _TRIALS[model] = trial
    return _TRIALS[model]


@torch.no_grad()
def _run_trial(model: PreTrainedModel) -> Trial:
    trial, hooks = Trial(), []
    for module in model.modules():
        names = list(signature(module.forward).parameters)
        for name in {"alibi", "position_bias"} & set(names):  # Falcon, BLOOM; MPT
            look = partial(_note_alibi, trial, name, names.index(name))
            hooks.append(module.register_forward_pre_hook(look, with_kwargs=True))
    before = model.config._attn_implementation
    input_ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        model.set_attn_implementation(ATTENTION_NAME)
        for module in model.modules():
            module.trial = trial
        model(input_ids=input_ids, use_cache=False)
    except Exception as error:  # unknown classes raise many types
        trial.failure = f"{type(error).__name__}: {error}"
        with suppress(Exception):  # eager attention may still show ALiBi biases
            model.config._attn_implementation = "eager"
            model(input_ids=input_ids, use_cache=False)
    finally:
        for module in model.modules():
            module.__dict__.pop("trial", None)
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)
    return trial


def _note_alibi(trial: Trial, name: str, place: int, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
    if kwargs.get(name, args[place] if place < len(args) else None) is not None:
        trial.alibi.append(module)


def _reason_to_refuse(model: PreTrainedModel, trial: Trial) -> str | None:
    counts = (getattr(model.config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    if not all(isinstance(count, int) for count in counts):
        return "its config does not say how many layers and heads it has (a multimodal model?)"
    if trial.alibi:
        return f"ALiBi biases are added to its attention logits ({type(trial.alibi[0]).__name__})"
    mixers = [module for module in model.modules() if isinstance(module, torch.nn.Conv1d) or hasattr(module, "A_log")]
    if mixers:
        return f"its layers mix tokens by more than softmax attention ({type(mixers[0]).__name__}; a hybrid model)"
    if trial.failure:
        return f"a trial pass failed ({trial.failure})"
    if not trial.modules:
        return "it computes attention with its own code, not through transformers' attention interface"
    missing = sorted(set(range(model.config.num_hidden_layers)) - set(trial.modules))
    if missing:
        count = f"{len(missing)} of its {model.config.num_hidden_layers} layers"
        return f"{count} have no softmax attention, first layer {missing[0]} (a hybrid model)"
    if trial.sinks:
        return f"attention sinks take weight from every head (layer {trial.sinks[0]})"
    for layer, module in trial.modules.items():
        query, key, value = trial.shapes[layer]
        if hasattr(module, "kv_b_proj"):
            return f"keys and values of all heads come out of one latent vector ({type(module).__name__})"
        if query[1] != model.config.num_attention_heads or query[1] % key[1] or not query[-1] == key[-1] == value[-1]:
            return f"layer {layer} has queries of shape {tuple(query)}, keys of {tuple(key)}, values of {tuple(value)}"
    return None


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
    """Mask heads (given by layer index) for the block; no weight changes."""
    with _attached(model, "head_mask", masks):
        yield


@contextmanager
def watch_heads(model: PreTrainedModel, rows: torch.Tensor, layers: Collection[int] | None = None) -> Iterator[Watch]:
    """For the block, record in each forward pass the position with the highest attention of each head, in `rows`.

    No attention matrix is kept: for each layer it computes only the logits of `rows`, some hundred rows at a time.

    Args:
        layers: watch only the heads of these layers; None is all.
    """
    watch = Watch(rows)
    watched = attention_modules(model) if layers is None else layers
    with _attached(model, "watch", dict.fromkeys(watched, watch)):
        yield watch


@contextmanager
def pack_documents(model: PreTrainedModel) -> Iterator[Pack]:
    """For the block, each forward pass takes one row of tokens with the documents that its `Pack` was filled with.

    Pass `position_ids` that start at 0 in each document, and a 2-d `attention_mask` of ones: without the mask,
    transformers detects packed documents itself and makes a mask of tokens × tokens.
    """
    pack = Pack()
    with _attached(model, "pack", dict.fromkeys(attention_modules(model), pack)):
        yield pack


@contextmanager
def _attached(model: PreTrainedModel, attribute: str, values: dict) -> Iterator[None]:
    modules = attention_modules(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    # From here on, in this process: cuDNN plans for each new length, which takes longer than it saves.
    torch.backends.cuda.enable_cudnn_sdp(False)
    for layer, value in values.items():
        setattr(modules[layer], attribute, value)
    try:
        yield
    finally:
        for layer in values:
            delattr(modules[layer], attribute)
        model.set_attn_implementation(before)


def _mask_of(*, q_length: int, kv_length: int, batch_size: int, attention_mask=None, **settings) -> MaskOf:
    """A mask function with transformers' signature; it returns a function that makes the mask for a length."""
    return cache(lambda length: sdpa_mask(batch_size=1, q_length=length, kv_length=length, **settings))


@torch.compiler.disable
def _attention_forward(module, query, key, value, attention_mask: MaskOf | None, **kwargs):
    """An attention function with transformers' signature.

    Args:
        query: shape [batch, num_attention_heads, length, head_dim].
        key, value: shape [batch, num_key_value_heads, length, head_dim].
        attention_mask: the result of `_mask_of`; None if the class asks for no mask, then attention is causal.
    Returns:
        Output, shape [batch, length, num_attention_heads, head_dim], and None for the attention weights.
    """
    mask_of = attention_mask or (lambda length: None)
    if not callable(mask_of):
        raise InputError(f"{type(module).__name__}: it makes its own attention masks, which are not supported")
    trial = getattr(module, "trial", None)
    if trial is not None:
        trial.modules[module.layer_idx] = module
        trial.shapes[module.layer_idx] = query.shape, key.shape, value.shape
        trial.sinks += [module.layer_idx] if kwargs.get("s_aux") is not None else []
    watch = getattr(module, "watch", None)
    if watch is not None:
        may_look = mask_of(key.shape[2])
        parts = [_most_attended(query, key, may_look, rows) for rows in watch.rows.split(WATCHED_ROWS)]
        watch.most_attended[module.layer_idx] = torch.cat(parts, dim=-1)
    mask = getattr(module, "head_mask", None)
    if mask is not None and mask.kind == "uniform":
        for head in mask.heads:  # in place: a pass over all queries takes longer
            query[mask.rows, head].zero_()
    pack = getattr(module, "pack", None)
    lengths = pack.lengths if pack else [query.shape[2]]
    attend = _softcap_attention if kwargs.get("softcap") else sdpa_attention_forward
    if pack and query.is_cuda and _flash_takes(query, value, kwargs) and mask_of(max(lengths)) is None:
        output = _varlen_attention(query, key, value, pack, kwargs.get("scaling"))
    else:
        documents = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
        outputs = [
            attend(module, *states, mask_of(length), **kwargs)[0]
            for length, states in zip(lengths, documents, strict=True)
        ]
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    if mask is not None and mask.kind == "zero":
        for head in mask.heads:
            output[mask.rows, :, head].zero_()
    return output, None


def _softcap_attention(module, query, key, value, attention_mask, *, scaling, softcap, **_kwargs):
    """Attention of one document with logits squashed to ±softcap (Gemma 2), which torch's kernels do not support.

    Shapes as in `_attention_forward`; `attention_mask` is bool and true where a row may attend, or None for causal.
    """
    groups = query.shape[1] // key.shape[1]
    logits = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * scaling
    logits = torch.tanh(logits / softcap) * softcap
    if attention_mask is None:
        attention_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    weights = logits.masked_fill(~attention_mask, -torch.inf).softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), None


def _flash_takes(query, value, settings: dict) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16) and not settings.get("softcap")
    return half and query.shape[-1] == value.shape[-1] <= FLASH_MAX_HEAD_DIM and query.shape[-1] % 8 == 0


def _varlen_attention(query, key, value, pack: Pack, scaling: float | None) -> torch.Tensor:
    """Causal attention of all documents of all rows in one kernel; shapes as in `_attention_forward`."""
    batch, _, length, _ = query.shape
    edges, longest = pack.edges_of(batch), max(pack.lengths)
    flat = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    output = varlen_attn(*flat, edges, edges, longest, longest, scale=scaling, window_size=(-1, 0), **GROUPED)
    return output.unflatten(0, (batch, length))


def _most_attended(query, key, attention_mask, rows) -> torch.Tensor:
    """Argmax over positions of the attention logits in `rows`, shape [batch, num_attention_heads, num_rows]."""
    grouped = query[:, :, rows].float().unflatten(1, (key.shape[1], -1))
    logits = grouped @ key.float().unsqueeze(2).transpose(-1, -2)
    if attention_mask is None:
        may_look = torch.arange(key.shape[2], device=rows.device) <= rows[:, None]
    else:
        may_look = attention_mask[:, :, rows].unsqueeze(2)
    return logits.masked_fill(~may_look, -torch.inf).argmax(-1).flatten(1, 2)


AttentionInterface.register(ATTENTION_NAME, _attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, _mask_of)
