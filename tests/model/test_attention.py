from itertools import pairwise

import pytest
import torch

from common.model import attention
from common.model.attention import Pack


def plain_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=True):
    """What torch documents of varlen_attn, one sequence after the other; the real one needs a GPU."""
    assert window_size == (-1, 0)
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa
    assert key.shape == value.shape
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    edges = cu_seq_q.tolist()
    assert edges == cu_seq_k.tolist()
    assert edges[0] == 0
    assert edges[-1] == len(query)
    assert max(b - a for a, b in pairwise(edges)) == max_q == max_k
    outputs = []
    for first, last in pairwise(edges):
        q, k, v = (x[first:last].transpose(0, 1).double() for x in (query, key, value))
        logits = q @ k.transpose(1, 2) * scale
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
        outputs.append((logits.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs).to(query.dtype)


@pytest.mark.parametrize("batch", [1, 2])
def test_varlen_attention_is_called_with_every_document_of_every_row(monkeypatch, batch):
    monkeypatch.setattr(attention, "varlen_attn", plain_varlen)
    lengths = [5, 1, 9, 3]
    pack = Pack()
    pack.fill(lengths, torch.tensor([0, 5, 6, 15, 18], dtype=torch.int32))
    assert pack.edges_of(2).tolist() == [0, 5, 6, 15, 18, 23, 24, 33, 36]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(batch, 6, 18, 8, generator=generator)
    key, value = torch.randn(2, batch, 2, 18, 8, generator=generator)
    output = attention._varlen_attention(query, key, value, pack, 0.3)
    expected = [
        torch.nn.functional.scaled_dot_product_attention(*states, is_causal=True, scale=0.3, enable_gqa=True)
        for states in zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    ]
    assert torch.allclose(output, torch.cat(expected, 2).transpose(1, 2), atol=1e-6)
