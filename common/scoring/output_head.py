"""Turns hidden states into losses and ranks, a tile of logits at a time: the logits of a batch are never kept whole."""

import copy
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel

from common.errors import InputError

# Rows and vocabulary entries of a tile of logits: as many as a CPU's cache holds, or as keep a GPU busy.
LOGIT_TILE = {"cpu": (1024, 2048), "cuda": (4096, 16384)}


def for_device(table: dict, device: torch.device):
    """The entry for the CPU, or the one for GPUs."""
    return table["cpu" if device.type == "cpu" else "cuda"]


class OutputHead:
    """Computes losses and ranks from hidden states with the model class's own code, including soft-caps and scales.

    It holds the model without its decoder, once for each slice of the vocabulary. This is exact because the classes
    transform each logit separately.

    Args:
        compiled: run the loss through torch.compile.
    Raises:
        InputError: the output projection of the class cannot run on its own.
    """

    def __init__(self, model: PreTrainedModel, compiled: bool = False):
        self._add_slice = torch.compile(_add_slice, dynamic=True) if compiled else _add_slice
        projection = model.get_output_embeddings()
        names = [name for name, module in model.named_children() if module is projection]
        if model.get_decoder() is not model.base_model or not names or not isinstance(projection, torch.nn.Linear):
            raise InputError(
                f"{type(model).__name__}: its output head cannot run on its own, so its losses cannot be computed"
            )
        self._rows, columns = for_device(LOGIT_TILE, model.device)
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
            targets: the token to predict at each position, shape [batch, length].
        """
        return self._of_rows(self._rows_losses, hidden, targets)

    def token_losses_and_ranks(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`token_losses`, and 1 + the number of tokens whose logit is above the target's; shape [batch, length, 2]."""
        ranks = self._of_rows(self._rows_ranks, hidden, targets)
        return torch.stack([self.token_losses(hidden, targets), ranks.float()], -1)  # exact up to 2**24 tokens

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
            logit, normalizer = self._add_slice(logits, wanted - first, logit, normalizer)
        return normalizer - logit

    def _rows_ranks(self, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Ranks of rows of shape [num_rows, hidden_size], int64; the logits are computed twice and never kept."""
        logit = torch.zeros(wanted.shape, device=rows.device)
        for first, logits in self._tiles(rows):
            logit = _pick(logits.float(), wanted - first, logit)
        return 1 + sum((logits.float() > logit[:, None]).sum(-1) for _, logits in self._tiles(rows))


# A method of OutputHead that computes something for each target from hidden states and targets.
Quantity = Callable[[OutputHead, torch.Tensor, torch.Tensor], torch.Tensor]


def _add_slice(logits: torch.Tensor, place: torch.Tensor, logit: torch.Tensor, normalizer: torch.Tensor):
    """The targets' logits and the log-normalizers after one more slice of the vocabulary; float32."""
    logits = logits.float()
    logit = _pick(logits, place, logit)
    peak = logits.amax(-1)
    part = logits.sub_(peak[:, None]).exp_().sum(-1).log_().add_(peak)
    return logit, torch.logaddexp(normalizer, part)


def _pick(logits: torch.Tensor, place: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The logit at each row's place, or `otherwise` if the place is outside this slice."""
    inside = (place >= 0) & (place < logits.shape[1])
    found = logits.gather(-1, place.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return torch.where(inside, found, otherwise)


class _Given(torch.nn.Module):
    """Replaces the decoder: returns its input as the hidden state."""

    def forward(self, *_args, inputs_embeds: torch.Tensor, **_kwargs) -> "_GivenOutput":
        return _GivenOutput(inputs_embeds)


class _GivenOutput:
    """A decoder's output with the hidden state, and None for everything else that a class may read."""

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
