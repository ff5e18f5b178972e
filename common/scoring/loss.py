"""A document's loss under the base model and under the reference model, from one set of weights where that is possible.

A reference that is a masked copy of the base computes the same as the base below the first masked layer. There the
hidden state is computed once and doubled along the batch; above, the first row runs as the base and the second with its
heads masked. Windows of many documents share a forward pass, and the logits are made a tile at a time, so
tokens × vocabulary are never held at once.
"""

import copy
import ctypes
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from transformers import PreTrainedModel

from common.errors import InputError
from common.model.attention import Pack, decoder_layers, mask_heads_at_run_time, pack_documents
from common.model.heads import Head
from common.model.masking import run_time_masks
from common.scoring.batches import Batch, Document, fill_batches
from common.shards.documents import scored_targets
from common.workers.read_ahead import read_ahead

# Tokens in a forward pass. On CUDA it is where to start: running out of memory halves it.
TOKENS_PER_BATCH = {"cpu": 1536, "cuda": 32768}
# Rows and vocabulary entries of a tile of logits: what a CPU's cache holds, what keeps a GPU busy.
LOGIT_TILE = {"cpu": (1024, 2048), "cuda": (4096, 16384)}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class TokenLosses:
    """Negative log-likelihoods in nats of a document's targets, float32, shape [num_targets], under both models."""

    base: np.ndarray
    reference: np.ndarray

    def of(self, targets: np.ndarray) -> "TokenLosses":
        """Those of some targets, by number."""
        return TokenLosses(self.base[targets], self.reference[targets])

    def scored(self, num_tokens: int, spans: np.ndarray | None) -> tuple[np.ndarray, "TokenLosses"]:
        """Which tokens of their document are scored, and the losses of those.

        Args:
            num_tokens: of the document, of which these are the losses of the last.
            spans: which of its tokens alone are scored, int64, shape [num_spans, 2]; None for all.
        """
        first = num_tokens - len(self.base)
        places = scored_targets(first, num_tokens, spans)
        return places, self.of(places - first)

    def means(self) -> tuple[float, float, float]:
        """L_base, L_ref and AI_Score = (L_ref - L_base) / L_base, with float64 sums."""
        base, reference = (float(losses.mean(dtype=np.float64)) for losses in (self.base, self.reference))
        return base, reference, (reference - base) / base if base else float("nan")


class PairScorer:
    """Losses of windows under a base model and a reference.

    Args:
        base: the base model.
        reference: another model, run separately; or
        masked: (kind, heads), when the reference is the base with these heads masked.
        tokens_per_batch: most tokens in a forward pass, unless a single window has more; None takes what suits the
            device.
        compiled: run the layers, but for their attention, and the loss through torch.compile.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        reference: PreTrainedModel | None = None,
        masked: tuple[str, Sequence[Head]] | None = None,
        tokens_per_batch: int | None = None,
        compiled: bool = False,
    ):
        if (reference is None) == (masked is None):
            raise ValueError("give either a reference model or the masked heads")
        self._models = [base] if reference is None else [base, reference]
        self._masked = masked
        self._device = base.device
        self.compiled = compiled
        _keep_freed_memory()
        self._output_heads = [OutputHead(model, compiled) for model in self._models]
        self.tokens_per_batch = tokens_per_batch or _for_device(TOKENS_PER_BATCH, self._device)
        if any(map(_positions_depend_on_length, self._models)):
            self.tokens_per_batch = 1  # which makes a batch of every window

    def score(self, windows: list[np.ndarray]) -> TokenLosses:
        """Token losses of one document's windows, each of one context token and its targets."""
        [[(_, losses)]] = self.stream([(None, windows)])
        return losses

    def ranks(self, windows: list[np.ndarray]) -> np.ndarray:
        """Ranks of one document's targets under base and reference, int64, shape [2, num_targets]; 1 is most likely."""
        [[(_, ranks)]] = self._stream([(None, windows)], OutputHead.token_ranks)
        return ranks

    def stream(self, documents: Iterable[Document]) -> Iterator[list[tuple[Hashable, TokenLosses]]]:
        """Token losses of each document, in order, while the next are read and, on CUDA, already computed.

        Args:
            documents: (key of its own, windows of one context token and its targets).
        Yields:
            Lists of (key, losses): documents that were finished together. A stream that starts behind a list computes
            what this one does, to the last bit, unless memory ran out in between.
        Raises:
            InputError: a single window does not fit the GPU's memory.
        """
        for finished in self._stream(documents, OutputHead.token_losses):
            yield [(key, TokenLosses(*losses)) for key, losses in finished]

    def _stream(
        self, documents: Iterable[Document], quantity: "Quantity"
    ) -> Iterator[list[tuple[Hashable, np.ndarray]]]:
        """As `stream`, for any quantity of the targets: arrays of shape [2, num_targets]."""
        waiting = []
        for batch, values in self._computed(documents, quantity):
            edges = np.cumsum(batch.lengths)[:-1]
            keys = (key for key, _ in batch.windows)
            waiting += zip(keys, np.split(values, edges, axis=1), strict=True)
            if batch.ends_document:
                yield [
                    (key, np.concatenate([part for _, part in parts], axis=1))
                    for key, parts in groupby(waiting, key=itemgetter(0))
                ]
                waiting = []

    @torch.inference_mode()
    def _computed(self, documents: Iterable[Document], quantity: "Quantity") -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches with their targets' quantity, shape [2, num_targets]."""
        in_flight = 1 if self._device.type == "cuda" else 0
        launched: deque[_Launched] = deque()
        with ExitStack() as stack:
            packs = [stack.enter_context(pack_documents(model)) for model in self._models]
            for model in self._models if self.compiled else []:
                stack.enter_context(_compiled_layers(model))
            if self._masked:
                stack.enter_context(_masked_second_row(self._models[0], *self._masked))
            for batch in read_ahead(fill_batches(documents, lambda: self.tokens_per_batch, in_flight > 0)):
                launched += self._launch(batch, packs, quantity)
                while len(launched) > in_flight:
                    yield launched.popleft().finished()
            for last in launched:
                yield last.finished()

    def _launch(self, batch: Batch, packs: Sequence[Pack], quantity: "Quantity") -> list["_Launched"]:
        """Start computing a batch; where memory runs out, in halves, and smaller batches from then on."""
        try:
            return [_Launched(batch, self._values(batch, packs, quantity))]
        except torch.OutOfMemoryError as error:
            if len(batch.windows) == 1:
                raise InputError(
                    f"out of GPU memory with one window of {batch.lengths[0]} tokens; lower --seq_len ({error})"
                ) from None
        torch.cuda.empty_cache()
        self.tokens_per_batch = max(1, sum(batch.lengths) // 2)
        return [launched for half in batch.halves() for launched in self._launch(half, packs, quantity)]

    def _values(self, batch: Batch, packs: Sequence[Pack], quantity: "Quantity") -> torch.Tensor:
        """The quantity under base and reference, shape [2, num_targets]."""
        input_ids, targets, positions = (
            tensor.to(self._device, non_blocking=True)[None]
            for tensor in (batch.input_ids, batch.targets, batch.positions)
        )
        input_ids = input_ids.expand(2 if self._masked else 1, -1)
        values = []
        for model, output_head, pack in zip(self._models, self._output_heads, packs, strict=True):
            pack.fill(batch.lengths, self._device)
            hidden = model.base_model(
                input_ids=input_ids,
                position_ids=positions,
                attention_mask=torch.ones_like(input_ids),
                use_cache=False,
            ).last_hidden_state
            values.append(quantity(output_head, hidden, targets.expand(len(hidden), -1)))
        return torch.cat(values)


class _Launched:
    """A batch that is being computed, and its targets' quantity on its way to the CPU."""

    def __init__(self, batch: Batch, values: torch.Tensor):
        self._batch = batch
        self._arrived = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))

    def finished(self) -> tuple[Batch, np.ndarray]:
        """Wait; the batch and its quantity, shape [2, num_targets]."""
        if self._arrived:
            self._arrived.synchronize()
        return self._batch, self._values.numpy()


@contextmanager
def _masked_second_row(model: PreTrainedModel, kind: str, heads: Sequence[Head]) -> Iterator[None]:
    """Inside the block, the decoder takes the same tokens in two rows, and masks `heads` in the second.

    Below the first masked layer both rows would be the same, so the layers there are given the first alone.
    """
    masks = run_time_masks(heads, kind, model, rows=(False, True))

    def first_row(_layer, args):
        return (args[0][:1], *args[1:])

    def both_rows(_layer, args):
        return (args[0].repeat(2, 1, 1), *args[1:])

    layers = decoder_layers(model)
    with ExitStack() as stack:
        stack.enter_context(mask_heads_at_run_time(model, masks))
        if min(masks) > 0:
            stack.enter_context(layers[0].register_forward_pre_hook(first_row))
            stack.enter_context(layers[min(masks)].register_forward_pre_hook(both_rows))
        yield


@contextmanager
def _compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, torch.compile runs the decoder's layers; their attention stays as it is."""
    layers = decoder_layers(model)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class OutputHead:
    """A model's way from hidden states to losses and ranks, by the class's own code, soft-caps and scales included.

    It is the model without its decoder, once for each slice of the vocabulary: what the classes do to logits, they do
    to each by itself.

    Args:
        compiled: run the loss through torch.compile.
    Raises:
        InputError: the class keeps its output projection where it cannot be run on its own.
    """

    def __init__(self, model: PreTrainedModel, compiled: bool = False):
        self._take_in = torch.compile(_take_in, dynamic=True) if compiled else _take_in
        projection = model.get_output_embeddings()
        names = [name for name, module in model.named_children() if module is projection]
        if model.get_decoder() is not model.base_model or not names or not isinstance(projection, torch.nn.Linear):
            raise InputError(
                f"{type(model).__name__}: its output head cannot be run on its own, so its losses cannot be taken"
            )
        self._rows, columns = _for_device(LOGIT_TILE, model.device)
        self._slices = []
        for first in range(0, projection.out_features, columns):
            head = copy.copy(model)
            part = _slice(projection, first, first + columns)
            head._modules = {**model._modules, model.base_model_prefix: _Given(), names[0]: part}
            self._slices.append((first, head))

    def token_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in nats of each target, float32, shape [batch, length].

        Args:
            hidden: the decoder's output, shape [batch, length, hidden_size].
            targets: the token that each position predicts, shape [batch, length].
        """
        return self._of_rows(self._rows_losses, hidden, targets)

    def token_ranks(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 + the number of tokens whose logit is above the target's, int64; arguments and shape as `token_losses`."""
        return self._of_rows(self._rows_ranks, hidden, targets)

    def _of_rows(self, compute: Callable, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        tiles = zip(hidden.flatten(0, 1).split(self._rows), targets.flatten().split(self._rows), strict=True)
        return torch.cat([compute(rows, wanted) for rows, wanted in tiles]).view(targets.shape)

    def _tiles(self, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """The id of its first token and the logits of each slice of the vocabulary."""
        for first, head in self._slices:
            yield first, head(inputs_embeds=rows[None]).logits[0]

    def _rows_losses(self, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """As `token_losses`, of rows of shape [num_rows, hidden_size]."""
        normalizer = torch.full(wanted.shape, -torch.inf, device=rows.device)
        logit = torch.zeros(wanted.shape, device=rows.device)
        for first, logits in self._tiles(rows):
            logit, normalizer = self._take_in(logits, wanted - first, logit, normalizer)
        return normalizer - logit

    def _rows_ranks(self, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """As `token_ranks`, of rows of shape [num_rows, hidden_size]; the logits are made twice, and never kept."""
        logit = torch.zeros(wanted.shape, device=rows.device)
        for first, logits in self._tiles(rows):
            logit = _pick(logits.float(), wanted - first, logit)
        return 1 + sum((logits.float() > logit[:, None]).sum(-1) for _, logits in self._tiles(rows))


# What is computed of each target: a method of OutputHead that takes hidden states and targets.
Quantity = Callable[[OutputHead, torch.Tensor, torch.Tensor], torch.Tensor]


def _take_in(logits: torch.Tensor, place: torch.Tensor, logit: torch.Tensor, normalizer: torch.Tensor):
    """The targets' logits and the log-normalizers, with one more slice of the vocabulary taken in; float32."""
    logits = logits.float()
    logit = _pick(logits, place, logit)
    peak = logits.amax(-1)
    part = logits.sub_(peak[:, None]).exp_().sum(-1).log_().add_(peak)
    return logit, torch.logaddexp(normalizer, part)


def _pick(logits: torch.Tensor, place: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The logit at each row's place, or `otherwise` where the place is outside of this slice."""
    inside = (place >= 0) & (place < logits.shape[1])
    found = logits.gather(-1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return torch.where(inside, found, otherwise)


class _Given(torch.nn.Module):
    """Stands in for the decoder: gives its input back as the hidden state."""

    def forward(self, *_args, inputs_embeds: torch.Tensor, **_kwargs) -> "_GivenOutput":
        return _GivenOutput(inputs_embeds)


class _GivenOutput:
    """A decoder's output that holds the hidden state, and None for whatever else a class may ask for."""

    def __init__(self, last_hidden_state: torch.Tensor):
        self.last_hidden_state = last_hidden_state

    def __getitem__(self, index: int) -> torch.Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


def _slice(projection: torch.nn.Linear, first: int, last: int) -> torch.nn.Linear:
    """The rows [first, last) of a projection, sharing its memory."""
    weight = projection.weight[first:last]
    part = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=projection.bias is not None, device="meta")
    part.weight = torch.nn.Parameter(weight, requires_grad=False)
    if projection.bias is not None:
        part.bias = torch.nn.Parameter(projection.bias[first:last], requires_grad=False)
    return part


def _positions_depend_on_length(model: PreTrainedModel) -> bool:
    """Whether RoPE's frequencies follow from the longest position in the batch, so that windows cannot share one."""
    return any(kind in str(getattr(model.config, "rope_parameters", None)) for kind in ("'longrope'", "'dynamic'"))


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: every layer would ask the kernel for the same megabytes again, zeroed."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, value: None)
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, 2**30)


def _for_device(table: dict, device: torch.device):
    return table["cpu" if device.type == "cpu" else "cuda"]
