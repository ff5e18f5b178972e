"""Every class of models in families.py: heads are found and masked rightly, and the fast path is exact.

The reference is transformers itself: eager attention, its attention matrices and its own loss.
"""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

from common.errors import InputError
from common.model.attention import attention_modules, decoder_layers, mask_heads_at_run_time, watch_heads
from common.model.checkpoints import Runtime, load_model
from common.model.layouts import head_views
from common.model.masking import Masking, check_exact, find_masked_heads, mask_heads, run_time_masks
from common.scoring.loss import PairScorer
from tests.conftest import tiny_model
from tests.model.conftest import IDS, KINDS, masked_copy
from tests.model.families import FAMILIES

HEADS = [(1, 6), (1, 3), (2, 0), (3, 7)]
KNOWN = [family for family in FAMILIES if Version(transformers.__version__) >= Version(family.since)]
by_class = pytest.mark.parametrize("family", KNOWN, ids=lambda family: family.name)
by_kind = pytest.mark.parametrize("kind", KINDS)


def output_projection(module):
    names = [name for name in ("o_proj", "out_proj", "dense", "c_proj") if hasattr(module, name)]
    return getattr(module, names[0])


def make(family):
    return tiny_model(family.name, **family.settings)


@torch.no_grad()
def eager(model):
    """Attention weights of each layer, and each head's output, shape [length, heads, head_dim], by eager attention."""
    model = copy.deepcopy(model)
    outputs = {}
    for layer, module in attention_modules(model).items():
        output_projection(module).register_forward_pre_hook(
            lambda _module, args, layer=layer: outputs.update({layer: args[0].view(IDS.shape[1], 8, 8)})
        )
    model.set_attn_implementation("eager")
    return model(IDS, output_attentions=True, use_cache=False).attentions, outputs


def visible(model, layer):
    """Which positions each row of a layer may see, by the class's own eager mask: where its attention is not zero."""
    return eager(model)[0][layer][0].amax(0) > 0


@by_class
def test_a_uniform_head_attends_equally_to_what_it_may_see_and_others_are_unchanged(family):
    base = make(family)
    reference = masked_copy(base, HEADS, "uniform")
    before, outputs_before = eager(base)
    after, outputs_after = eager(reference)
    for layer, head in HEADS:
        may_see = visible(base, layer)
        assert torch.equal(may_see, may_see.tril())
        assert may_see.any(1).all()
        expected = may_see / may_see.sum(1, keepdim=True)
        assert torch.allclose(after[layer][0, head], expected, atol=1e-6, rtol=0)
        assert not torch.allclose(before[layer][0, head], expected, atol=1e-2)
    # Layer 1 is the first with a masked head, so the others there still see the same.
    assert torch.equal(after[0], before[0])
    for head in range(8):
        same = torch.allclose(outputs_after[1][:, head], outputs_before[1][:, head], atol=1e-6)
        assert same == torch.allclose(after[1][0, head], before[1][0, head], atol=1e-6) == (head not in (3, 6))


@by_class
def test_a_zero_head_contributes_exactly_nothing(family):
    """Whatever a masked head gave, the layer's output is the same; whatever another gives, it is not."""
    base = make(family)
    reference = masked_copy(base, HEADS, "zero")
    module = attention_modules(reference)[1]
    projection = output_projection(module)
    heads = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = projection(heads.flatten(1))
        for head in range(8):
            other = heads.clone()
            other[:, head] += 100
            assert torch.equal(projection(other.flatten(1)), output) == (head in (3, 6))


@by_class
@by_kind
def test_a_checkpoint_loaded_plainly_gives_the_losses_of_masking_at_run_time(family, kind, tmp_path):
    base = make(family)
    masked_copy(base, HEADS, kind).save_pretrained(tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        wanted = plain(IDS, labels=IDS).loss.item()
        with mask_heads_at_run_time(base, run_time_masks(HEADS, kind)):
            found = base(IDS, labels=IDS).loss.item()
        assert found == pytest.approx(wanted, abs=2e-5)
        assert abs(base(IDS, labels=IDS).loss.item() - wanted) > 1e-4
    assert find_masked_heads(base, plain) == (kind, sorted(HEADS))


@by_class
@by_kind
def test_the_fast_path_equals_two_plain_models(family, kind):
    base = make(family)
    reference = masked_copy(base, HEADS, kind)
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 400, length) for length in (40, 2, 17, 60)]
    expected = []
    for ids in documents:
        rows = torch.tensor(ids)[None]
        plain = []
        for model in (base, reference):
            model = copy.deepcopy(model)
            model.set_attn_implementation("eager")
            with torch.no_grad():
                plain.append(model(rows, labels=rows).loss.item())
        expected.append(plain)
    for scorer in (PairScorer(base, masked=Masking(kind, HEADS)), PairScorer(base, reference=reference)):
        stream = scorer.stream((number, [ids]) for number, ids in enumerate(documents))
        found = [losses.means()[:2] for finished in stream for _, losses in finished]
        assert np.allclose(found, expected, atol=2e-5, rtol=1e-5)


@by_class
def test_each_head_s_most_attended_position_is_eager_attention_s(family):
    base = make(family)
    rows = torch.tensor([5, 20, 59])
    with torch.no_grad(), watch_heads(base, rows) as watch:
        base(IDS, use_cache=False)
    attentions, _ = eager(base)
    for layer in range(4):
        top = attentions[layer][0][:, rows]
        weight = top.gather(-1, watch.most_attended[layer][0][..., None])[..., 0]
        assert torch.allclose(weight, top.amax(-1), atol=1e-6)
        assert len(watch.most_attended[layer].unique()) > 3


@by_class
@by_kind
def test_the_check_finds_weights_zeroed_in_the_wrong_place(family, kind, monkeypatch):
    base = make(family)
    check_exact(base, HEADS, kind)

    def one_head_off(module, kind, num_heads, head_dim):
        yield from map(_Shifted, head_views(module, kind, num_heads, head_dim))

    monkeypatch.setattr("common.model.masking.head_views", one_head_off)
    with pytest.raises(InputError, match="zero weights do not make a head"):
        check_exact(base, HEADS, kind)


class _Shifted:
    """A view in which every head is taken for the one before it."""

    def __init__(self, view):
        self.view = view

    def __setitem__(self, heads, value):
        self.view[[head - 1 for head in heads]] = value


@by_class
def test_the_layers_that_are_run_once_are_found(family):
    base = make(family)
    layers = decoder_layers(base)
    assert len(layers) == 4
    assert all(attention_modules(base)[i] in set(layers[i].modules()) for i in range(4))


LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2, "num_experts": 0, "mlp_only_layers": [0, 1, 2, 3]}
LATENT = {
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "num_key_value_heads": 8, "first_k_dense_replace": 4, "head_dim": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("GptOss", {"num_local_experts": 2, "num_experts_per_tok": 1}, "attention sinks"),
        ("Bloom", {}, "ALiBi"),
        ("Mpt", {"d_model": 64}, "ALiBi"),
        ("Falcon", {"alibi": True, "head_dim": ...}, "ALiBi"),
        ("Falcon", {"alibi": False, "head_dim": ...}, "its own code"),
        ("DeepseekV3", {**LATENT, "n_routed_experts": 4}, "one latent vector"),
        ("DeepseekV2", LATENT, "one latent vector"),
        ("Qwen3Next", LINEAR, "more than softmax attention .Qwen3NextGatedDeltaNet"),
        ("Mamba", {"state_size": 4}, "more than softmax attention .MambaMixer"),
        (
            "FalconH1",
            {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1},
            "more than softmax attention",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(name, settings, reason, tmp_path):
    model = tiny_model(name, **settings)
    scorer = partial(PairScorer, model, masked=Masking("zero", HEADS))
    for refused in (lambda: mask_heads(model, HEADS, "uniform"), lambda: scorer().score([IDS[0].numpy()])):
        with pytest.raises(InputError, match=reason) as error:
            refused()
        assert type(model).__name__ in str(error.value)
    assert not math.isnan(model(IDS, labels=IDS).loss.item())
    model.save_pretrained(tmp_path)  # and as the scripts load it
    with pytest.raises(InputError, match=reason):
        mask_heads(load_model(str(tmp_path), Runtime("cpu")), HEADS, "uniform")
