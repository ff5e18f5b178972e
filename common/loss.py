"""A document's loss under the base model and under the reference model, from one set of weights where that is possible.

A reference that is a masked copy of the base computes the same as the base below the first masked layer. There the
hidden state is computed once and doubled along the batch; above, the first row runs as the base and the second with its
heads masked. The logits are made a few rows at a time, so tokens × vocabulary are never held at once.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from common.attention import decoder_layers, mask_heads_at_run_time
from common.errors import InputError
from common.heads import Head
from common.masking import run_time_masks

LOGIT_ROWS = 256


@dataclass(frozen=True)
class TokenLosses:
    """Negative log-likelihoods in nats of a document's targets, float32, shape [num_targets], under both models."""

    base: np.ndarray
    reference: np.ndarray

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
    """

    def __init__(
        self,
        base: PreTrainedModel,
        reference: PreTrainedModel | None = None,
        masked: tuple[str, Sequence[Head]] | None = None,
    ):
        if (reference is None) == (masked is None):
            raise ValueError("give either a reference model or the masked heads")
        self._base, self._reference, self._masked = base, reference, masked

    @torch.inference_mode()
    def score(self, windows: Sequence[np.ndarray]) -> TokenLosses:
        """Token losses of one document's windows, each of one context token and its targets."""
        losses = [self._score_window(torch.as_tensor(window, device=self._base.device)) for window in windows]
        base, reference = torch.cat(losses, dim=1).cpu().numpy()
        return TokenLosses(base, reference)

    def _score_window(self, window: torch.Tensor) -> torch.Tensor:
        """Losses under base and reference, shape [2, num_targets]."""
        input_ids, targets = window[None, :-1], window[None, 1:]
        if self._masked is None:
            models = self._base, self._reference
            return torch.cat([token_losses(model, _hidden(model, input_ids), targets) for model in models])
        with _masked_second_row(self._base, *self._masked):
            hidden = _hidden(self._base, input_ids)
        return token_losses(self._base, hidden, targets.expand(2, -1))


@contextmanager
def _masked_second_row(model: PreTrainedModel, kind: str, heads: Sequence[Head]) -> Iterator[None]:
    """Inside the block, a batch of one comes out of the decoder as two rows: as it is, and with `heads` masked."""
    masks = run_time_masks(heads, kind, model.config.num_attention_heads, model.device, rows=(False, True))

    def double(_layer, args):
        return (args[0].expand(2, -1, -1), *args[1:])

    first_masked = decoder_layers(model)[min(masks)]
    with mask_heads_at_run_time(model, masks), first_masked.register_forward_pre_hook(double):
        yield


def _hidden(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """The decoder's output, shape [batch, length, hidden_size]."""
    return model.base_model(input_ids, use_cache=False).last_hidden_state


def token_losses(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of each target, float32, shape [batch, length].

    Args:
        hidden: the decoder's output, shape [batch, length, hidden_size].
        targets: the token that each position predicts, shape [batch, length].
    """
    head = _output_head(model)
    losses = []
    for rows, wanted in zip(hidden.flatten(0, 1).split(LOGIT_ROWS), targets.flatten().split(LOGIT_ROWS), strict=True):
        logits = head(inputs_embeds=rows[None]).logits[0].float()
        losses.append(logits.logsumexp(-1) - logits.gather(-1, wanted[:, None])[:, 0])
    return torch.cat(losses).view(targets.shape)


class _Given(torch.nn.Module):
    """Stands in for the decoder: gives its input back as the hidden state."""

    def forward(self, inputs_embeds: torch.Tensor, **_kwargs) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


def _output_head(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its decoder: hidden states to logits by the class's own code, soft-caps and scales included."""
    if model.get_decoder() is not model.base_model:
        raise InputError(
            f"{type(model).__name__}: its output head cannot be run on its own, so its losses cannot be taken"
        )
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Given()}
    return head
