"""Which parameters of a model class mask a head when they are zero. Only this file knows.

A head attends uniformly if its query is zero, whatever its keys: all attention logits are 0. The query is zero if its
rows of the query projection are zero or, where one norm spans the queries of all heads, its part of the norm's weight.
A head contributes nothing if the columns that read its output are zero. Keys and values do not change, because other
heads may share them.

To add a class: an entry in LAYOUTS if none fits, and an entry in tests/model/families.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers.pytorch_utils import Conv1D

from common.errors import InputError

Rows = Callable[[torch.Tensor, int, int], torch.Tensor]


def only_queries(rows: torch.Tensor, num_heads: int, head_dim: int) -> torch.Tensor:
    """For rows that hold only queries, head by head: shape [num_heads * head_dim, …] to [num_heads, head_dim, …]."""
    return rows.unflatten(0, (num_heads, head_dim))


def queries_first(rows: torch.Tensor, num_heads: int, head_dim: int) -> torch.Tensor:
    """The queries in rows that hold all queries, then all keys, then all values."""
    return rows[: num_heads * head_dim].unflatten(0, (num_heads, head_dim))


def query_key_value_by_head(rows: torch.Tensor, num_heads: int, head_dim: int) -> torch.Tensor:
    """The queries in rows that hold query, key and value of the first head, then those of the second, …"""
    return rows.unflatten(0, (num_heads, 3, head_dim))[:, 0]


@dataclass(frozen=True)
class Layout:
    """The names of an attention module's projections, and their arrangement.

    Attributes:
        query: the projection that makes the queries.
        rows: selects the queries in its rows.
        output: the projection that reads the heads' outputs.
    """

    query: str
    rows: Rows
    output: str


LAYOUTS = (
    Layout("q_proj", only_queries, "o_proj"),  # Llama, Mistral, Qwen, Gemma, OLMo, StableLM, Granite, StarCoder2, …
    Layout("q_proj", only_queries, "out_proj"),  # GPT-J
    Layout("q_proj", only_queries, "dense"),  # Phi
    Layout("qkv_proj", queries_first, "o_proj"),  # Phi-3
    Layout("query_key_value", query_key_value_by_head, "dense"),  # GPT-NeoX
    Layout("c_attn", queries_first, "c_proj"),  # GPT-2, GPT-BigCode with multi-query attention
)


def head_views(module: torch.nn.Module, kind: str, num_heads: int, head_dim: int) -> Iterator[torch.Tensor]:
    """Views of the parameters that mask a head when they are zero; the first axis is the head.

    Args:
        module: the attention of one layer.
        kind: `uniform` or `zero`.
    Raises:
        InputError: the layout of the module is unknown.
    """
    name = type(module).__name__
    layout = next((x for x in LAYOUTS if hasattr(module, x.query) and hasattr(module, x.output)), None)
    if layout is None:
        raise InputError(f"{name}: the layout of its projections is unknown, so its heads cannot be masked")
    query, output = (getattr(module, part) for part in (layout.query, layout.output))
    if not all(isinstance(projection, torch.nn.Linear | Conv1D) for projection in (query, output)):
        raise InputError(f"{name}: its projections are {type(query).__name__}s, not linear; its heads cannot be masked")
    try:
        if kind == "zero":
            yield only_queries(_inputs_first(output), num_heads, head_dim)
            return
        norm = getattr(module, "q_norm", None)
        weight = getattr(norm, "weight", None)
        if weight is not None and weight.numel() == num_heads * head_dim != head_dim:
            yield from (parameter.view(num_heads, head_dim) for parameter in norm.parameters())
            return
        yield layout.rows(_outputs_first(query), num_heads, head_dim)
        if query.bias is not None:
            yield layout.rows(query.bias, num_heads, head_dim)
    except RuntimeError:
        raise InputError(
            f"{name}: its projections do not hold {head_dim} rows for each of {num_heads} heads, so its heads cannot "
            "be masked"
        ) from None


def _outputs_first(projection: torch.nn.Linear | Conv1D) -> torch.Tensor:
    return projection.weight.T if isinstance(projection, Conv1D) else projection.weight


def _inputs_first(projection: torch.nn.Linear | Conv1D) -> torch.Tensor:
    return projection.weight if isinstance(projection, Conv1D) else projection.weight.T
