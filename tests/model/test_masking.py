"""Masking heads in the weights and at run time, and finding what is masked."""

import copy

import pytest
import torch

from common.errors import InputError
from common.model.attention import mask_heads_at_run_time
from common.model.masking import find_masked_heads, mask_heads, run_time_masks
from tests.conftest import tiny_model
from tests.model.conftest import IDS, KINDS, logits, masked_copy

HEADS = [(3, 0), (1, 6), (1, 3), (3, 7)]
QUERY_WEIGHTS = [
    ("Llama", {}),
    ("Qwen2", {}),  # a bias on queries
    ("Qwen3", {}),  # a norm on each query head
    ("Mistral", {"sliding_window": 16}),
]


def head_rows(head):
    return slice(8 * head, 8 * head + 8)


@pytest.mark.parametrize(("family", "settings"), QUERY_WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_but_the_masked_heads_rows(family, settings, kind):
    base = tiny_model(family, **settings)
    reference = masked_copy(base, HEADS, kind)
    expected = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for layer, head in HEADS:
        attention = f"model.layers.{layer}.self_attn"
        if kind == "zero":
            expected[f"{attention}.o_proj.weight"][:, head_rows(head)] = 0
        else:
            expected[f"{attention}.q_proj.weight"][head_rows(head)] = 0
            if family == "Qwen2":
                expected[f"{attention}.q_proj.bias"][head_rows(head)] = 0
    found = reference.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_run_time_masks_end_with_their_block():
    base = tiny_model("Llama")
    plain = logits(base)
    with pytest.raises(KeyError), mask_heads_at_run_time(base, run_time_masks(HEADS, "zero")):
        raise KeyError
    assert base.config._attn_implementation == "sdpa"
    with mask_heads_at_run_time(base, {}):
        assert torch.allclose(logits(base), plain, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_run_time_masks_hold_for_the_chosen_rows_of_a_batch(kind):
    base = tiny_model("Llama")
    plain, expected = logits(base), logits(masked_copy(base, HEADS, kind))
    masks = run_time_masks(HEADS, kind, rows=slice(1, 2))
    with torch.no_grad(), mask_heads_at_run_time(base, masks):
        rows = base(IDS.expand(3, -1)).logits
    for row, wanted in zip(rows, (plain, expected, plain), strict=True):
        assert torch.allclose(row, wanted[0], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tensor",
    [
        "lm_head.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.2.self_attn.q_proj.weight",
        "model.layers.2.self_attn.o_proj.weight",
        "model.layers.3.self_attn.o_proj.weight",
    ],
)
def test_a_tensor_that_differs_elsewhere_is_named(kind, tensor):
    base = tiny_model("Qwen2")
    reference = masked_copy(base, HEADS, kind)
    with torch.no_grad():
        reference.get_parameter(tensor).view(-1)[9] += 1e-3
    found = find_masked_heads(base, reference)
    assert isinstance(found, str)
    assert f"tensor {tensor} " in found


def test_half_a_masked_head_is_not_a_masked_head():
    base = tiny_model("Qwen2")
    for name in ("weight", "bias"):
        reference = copy.deepcopy(base)
        with torch.no_grad():
            reference.get_parameter(f"model.layers.1.self_attn.q_proj.{name}")[head_rows(3)] = 0
        assert isinstance(find_masked_heads(base, reference), str)


def test_both_kinds_at_once_are_not_one_mask():
    base = tiny_model("Llama")
    reference = masked_copy(masked_copy(base, [(0, 1)], "uniform"), [(0, 2)], "zero")
    assert isinstance(find_masked_heads(base, reference), str)


def test_identical_models_are_reported():
    base = tiny_model("Llama")
    assert "identical" in find_masked_heads(base, copy.deepcopy(base))


def test_models_of_other_shapes_are_reported():
    base = tiny_model("Llama")
    assert find_masked_heads(base, tiny_model("Llama", num_hidden_layers=3)) == "num_hidden_layers is 3 instead of 4"
    assert find_masked_heads(base, tiny_model("Llama", vocab_size=401)) == "vocab_size is 401 instead of 400"
    assert "instead of" in find_masked_heads(base, tiny_model("Qwen2"))


def test_a_masked_copy_with_another_setting_is_no_masked_copy():
    base = tiny_model("Llama")
    reference = masked_copy(base, HEADS, "uniform")
    assert find_masked_heads(base, reference) == ("uniform", sorted(HEADS))
    reference.config.rms_norm_eps = 1e-3
    assert find_masked_heads(base, reference) == "rms_norm_eps is 0.001 instead of 1e-06"


def test_a_query_norm_over_all_heads_is_masked_by_its_own_weight():
    """Zero rows in the projection would change what the norm divides by, and with it the other heads."""
    base = tiny_model("Olmo2")
    reference = masked_copy(base, HEADS, "uniform")
    differing = {name for name, t in base.state_dict().items() if not torch.equal(t, reference.state_dict()[name])}
    assert differing == {f"model.layers.{layer}.self_attn.q_norm.weight" for layer in (1, 3)}
    assert not reference.model.layers[1].self_attn.q_norm.weight[head_rows(3)].any()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        # the heads of queries and of values differ in width
        (
            "DeepseekV2",
            {
                "q_lora_rank": None,
                "kv_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "num_key_value_heads": 8,
                "first_k_dense_replace": 4,
            },
        ),
        # each head has a gate next to its query
        ("Qwen3Next", {"layer_types": ["full_attention"] * 4, "num_experts": 0, "mlp_only_layers": [0, 1, 2, 3]}),
    ],
)
def test_a_query_projection_with_other_rows_than_the_heads_is_refused(family, settings):
    with pytest.raises(InputError, match=family):
        mask_heads(tiny_model(family, **settings), HEADS, "uniform")
