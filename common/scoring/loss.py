"""A document's loss under the base model and under the reference model, from one set of weights if possible.

A reference that is a masked copy computes the same as the base below the first masked layer. There the hidden state is
computed once. At the first masked layer it is doubled along the batch: from there the first row runs as the base, the
second with its heads masked. Windows of many documents share a forward pass.
"""

import ctypes
import math
import sys
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from common.errors import InputError
from common.model.attention import Pack, decoder_layers, mask_heads_at_run_time, pack_documents
from common.model.masking import Masking, run_time_masks
from common.scoring.batches import Batch, KeyedWindows, fill_batches
from common.scoring.output_head import OutputHead, Quantity, for_device
from common.shards.documents import Document
from common.workers.read_ahead import read_ahead

# Tokens in a forward pass. On CUDA this is the start value: it is halved when memory runs out.
TOKENS_PER_BATCH = {"cpu": 1536, "cuda": 32768}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Means(NamedTuple):
    """Mean losses in nats under base and reference, and AI_Score = (L_ref - L_base) / L_base."""

    L_base: float
    L_ref: float
    AI_Score: float


@dataclass(frozen=True)
class TokenLosses:
    """Negative log-likelihoods in nats of a document's targets, float32, shape [num_targets], under both models."""

    base: np.ndarray
    reference: np.ndarray

    def of(self, targets: np.ndarray) -> "TokenLosses":
        """The losses of some targets, given by number or by a mask."""
        return TokenLosses(self.base[targets], self.reference[targets])

    def scored(self, document: Document) -> tuple[np.ndarray, "TokenLosses"]:
        """The places in their document of the tokens that are scored, and the losses of these tokens."""
        targets = document.targets(len(self.base))
        scored = np.isin(targets, document.scored())
        return targets[scored], self.of(scored)

    def means(self) -> Means:
        """Means over the targets, with float64 sums; NaN if there are none."""
        if not len(self.base):
            return Means(math.nan, math.nan, math.nan)
        base, reference = (float(losses.mean(dtype=np.float64)) for losses in (self.base, self.reference))
        return Means(base, reference, (reference - base) / base if base else float("nan"))


class PairScorer:
    """Losses of windows under a base model and a reference.

    Args:
        base: the base model.
        reference: another model, run separately; or
        masked: the masked heads, if the reference is the base with these heads masked.
        tokens_per_batch: most tokens in a forward pass, unless a single window has more; None suits the device.
        compiled: run the layers (without their attention) and the loss through torch.compile.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        reference: PreTrainedModel | None = None,
        masked: Masking | None = None,
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
        self.tokens_per_batch = tokens_per_batch or for_device(TOKENS_PER_BATCH, self._device)
        if any(map(_positions_depend_on_length, self._models)):
            self.tokens_per_batch = 1  # so each window is a batch

    def score(self, windows: list[np.ndarray]) -> TokenLosses:
        """Token losses of one document's windows, each of one context token and its targets."""
        [[(_, losses)]] = self.stream([(None, windows)])
        return losses

    def score_and_rank(self, windows: list[np.ndarray]) -> tuple[TokenLosses, np.ndarray]:
        """Losses as `score`, and ranks under base and reference, int64, shape [2, num_targets]; 1 is most likely."""
        [[(_, both)]] = self._stream([(None, windows)], OutputHead.token_losses_and_ranks)
        return TokenLosses(*both[..., 0]), both[..., 1].astype(np.int64)

    def stream(self, documents: Iterable[KeyedWindows]) -> Iterator[list[tuple[Hashable, TokenLosses]]]:
        """Token losses of each document, in order; the next ones are read meanwhile, and on CUDA also computed.

        Args:
            documents: (a unique key, windows of one context token and its targets).
        Yields:
            Lists of (key, losses) of documents that were finished together. A stream that starts after such a list
            gives the same results to the last bit, unless memory ran out in between.
        Raises:
            InputError: a single window does not fit the GPU's memory.
        """
        for finished in self._stream(documents, OutputHead.token_losses):
            yield [(key, TokenLosses(*losses)) for key, losses in finished]

    def _stream(
        self, documents: Iterable[KeyedWindows], quantity: "Quantity"
    ) -> Iterator[list[tuple[Hashable, np.ndarray]]]:
        """Like `stream`, for any quantity of the targets: arrays whose shape begins with [2, num_targets]."""
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
    def _computed(self, documents: Iterable[KeyedWindows], quantity: "Quantity") -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches, each with the quantity of its targets, shape [2, num_targets, …]."""
        in_flight = 1 if self._device.type == "cuda" else 0
        launched: deque[_Launched] = deque()
        with ExitStack() as stack:
            packs = [stack.enter_context(pack_documents(model)) for model in self._models]
            for model in self._models if self.compiled else []:
                stack.enter_context(_compiled_layers(model))
            if self._masked:
                stack.enter_context(_masked_second_row(self._models[0], self._masked))
            for batch in read_ahead(fill_batches(documents, lambda: self.tokens_per_batch, in_flight > 0)):
                launched += self._launch(batch, packs, quantity)
                while len(launched) > in_flight:
                    yield launched.popleft().finished()
            for last in launched:
                yield last.finished()

    def _launch(self, batch: Batch, packs: Sequence[Pack], quantity: "Quantity") -> list["_Launched"]:
        """Start a batch; if memory runs out, split it, and use smaller batches afterwards."""
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
        """The quantity under base and reference, shape [2, num_targets, …]."""
        input_ids, targets, positions, edges = (
            tensor.to(self._device, non_blocking=True)
            for tensor in (batch.input_ids, batch.targets, batch.positions, batch.edges)
        )
        input_ids = input_ids.expand(2 if self._masked else 1, -1)
        values = []
        for model, output_head, pack in zip(self._models, self._output_heads, packs, strict=True):
            pack.fill(batch.lengths, edges)
            hidden = model.base_model(
                input_ids=input_ids,
                position_ids=positions[None],
                attention_mask=torch.ones_like(input_ids),
                use_cache=False,
            ).last_hidden_state
            values.append(quantity(output_head, hidden, targets.expand(len(hidden), -1)))
        return torch.cat(values)


class _Launched:
    """A batch that is being computed; its results are on their way to the CPU."""

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
        """Wait for the results; returns the batch and its quantity, shape [2, num_targets, …]."""
        if self._arrived:
            self._arrived.synchronize()
        return self._batch, self._values.numpy()


@contextmanager
def _masked_second_row(model: PreTrainedModel, masking: Masking) -> Iterator[None]:
    """For the block, the decoder gets the same tokens in two rows, and the heads are masked in the second.

    Below the first masked layer both rows would be equal, so the layers there get only the first.
    """
    masks = run_time_masks(masking.heads, masking.kind, rows=slice(1, None))

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
    """For the block, torch.compile runs the decoder's layers; their attention stays as it is."""
    layers = decoder_layers(model)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _positions_depend_on_length(model: PreTrainedModel) -> bool:
    """Whether RoPE's frequencies depend on the longest position in the batch; then windows cannot share a batch."""
    return any(kind in str(getattr(model.config, "rope_parameters", None)) for kind in ("'longrope'", "'dynamic'"))


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory; otherwise each layer asks the kernel for the same zeroed megabytes again."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, value: None)
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, 2**30)
