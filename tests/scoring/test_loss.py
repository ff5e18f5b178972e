"""Losses of a pair, computed together, against plain models."""

import copy
import math

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.model.attention import attention_modules, decoder_layers
from common.model.masking import Masking
from common.scoring.loss import PairScorer, TokenLosses
from common.scoring.output_head import LOGIT_TILE
from tests.conftest import document_of, plain_loss, tiny_model
from tests.scoring.conftest import HEADS, document, pair, streamed

LOGIT_ROWS = LOGIT_TILE["cpu"][0]


def check(base, reference, heads, kind, cut):
    cut = list(cut)
    expected = [plain_loss(copy.deepcopy(model), cut) for model in (base, reference)]
    assert abs(expected[0] - expected[1]) > 1e-3
    for scorer in (PairScorer(base, masked=Masking(kind, heads)), PairScorer(base, reference=reference)):
        losses = scorer.score(cut)
        assert losses.base.dtype == losses.reference.dtype == np.float32
        assert losses.base.shape == losses.reference.shape == (sum(len(window) - 1 for window in cut),)
        found_base, found_reference, score = losses.means()
        assert found_base == pytest.approx(expected[0], rel=1e-5)
        assert found_reference == pytest.approx(expected[1], rel=1e-5)
        assert score == pytest.approx((expected[1] - expected[0]) / expected[0], abs=3e-5)


@pytest.mark.parametrize("kind", ["uniform", "zero"])
@pytest.mark.parametrize("targets", [2, 7, LOGIT_ROWS - 1, LOGIT_ROWS, LOGIT_ROWS + 1, 2 * LOGIT_ROWS, 600])
def test_losses_are_those_of_two_plain_models(kind, targets):
    base, reference = pair("Llama", HEADS, kind)
    check(base, reference, HEADS, kind, [document(targets + 1)])


@pytest.mark.parametrize("bos_id", [None, 1])
@pytest.mark.parametrize(("length", "seq_len"), [(100, 30), (91, 30), (90, 30), (300, 298), (6, 2)])
def test_windows_weigh_by_their_targets(bos_id, length, seq_len):
    base, reference = pair("Llama", HEADS, "uniform")
    cut = list(document_of(document(length)).windows(seq_len, bos_id))
    assert len(cut) > 1
    check(base, reference, HEADS, "uniform", cut)


@pytest.mark.parametrize("kind", ["uniform", "zero"])
@pytest.mark.parametrize("heads", [[(0, 0)], [(3, 5)], [(0, head) for head in range(8)]])
def test_the_first_masked_layer_may_be_any(kind, heads):
    base, reference = pair("Llama", heads, kind)
    check(base, reference, heads, kind, [document(70)])


@pytest.mark.parametrize("kind", ["uniform", "zero"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Mistral", {"sliding_window": 8}),
        # a cap on the logits, layers with and without a window, scaled embeddings
        ("Gemma2", {"final_logit_softcapping": 3.0, "attn_logit_softcapping": None, "sliding_window": 8}),
        ("Gemma3Text", {"final_logit_softcapping": 3.0, "sliding_window": 8, "sliding_window_pattern": 2}),
        ("Qwen2", {}),
        ("Qwen3", {}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Granite", {"logits_scaling": 4.0}),
        ("Mixtral", {"num_local_experts": 4}),
    ],
)
@pytest.mark.parametrize("tile", [LOGIT_TILE["cpu"], (16, 90)])
def test_each_architecture_keeps_its_own_head_and_windows(monkeypatch, family, settings, kind, tile):
    monkeypatch.setitem(LOGIT_TILE, "cpu", tile)
    base, reference = pair(family, HEADS, kind, **settings)
    check(base, reference, HEADS, kind, [document(60), document(20)])


def test_every_token_of_the_vocabulary_has_its_loss_whatever_the_tiles(monkeypatch):
    monkeypatch.setitem(LOGIT_TILE, "cpu", (16, 90))
    base, reference = pair("Llama", HEADS, "uniform")
    vocabulary = np.arange(base.config.vocab_size)
    losses = PairScorer(base, masked=Masking("uniform", HEADS)).score([np.append(5, vocabulary)])
    for model, found in ((base, losses.base), (reference, losses.reference)):
        with torch.no_grad():
            logits = model(torch.tensor([[5, *vocabulary[:-1]]])).logits[0]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(vocabulary), reduction="none")
        assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "zero"])
@pytest.mark.parametrize("tokens_per_batch", [1, 40, 150, 10_000])
@pytest.mark.parametrize(
    ("family", "settings"),
    [("Llama", {}), ("Mistral", {"sliding_window": 8}), ("Gemma3Text", {"sliding_window": 8})],
)
def test_documents_in_one_pass_do_not_see_each_other(family, settings, tokens_per_batch, kind):
    base, reference = pair(family, HEADS, kind, **settings)
    documents = [document(length) for length in (30, 2, 8, 9, 70, 10, 3, 120, 31)]
    expected = [[plain_loss(model, [ids]) for model in (base, reference)] for ids in documents]
    for models in ({"masked": Masking(kind, HEADS)}, {"reference": reference}):
        scorer = PairScorer(base, **models, tokens_per_batch=tokens_per_batch)
        found = streamed(scorer, documents)
        assert [key for key, _ in found] == list(range(len(documents)))
        assert [len(losses.base) for _, losses in found] == [len(ids) - 1 for ids in documents]
        means = [losses.means()[:2] for _, losses in found]
        assert np.allclose(means, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [("Llama", {}), ("Gemma3Text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 6})],
)
def test_compiled_layers_give_the_same_losses(family, settings):
    torch.compiler.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    base, reference = pair(family, HEADS, "uniform", num_hidden_layers=12, **settings)
    for models in ({"masked": Masking("uniform", HEADS)}, {"reference": reference}):
        scorer, counted = PairScorer(base, **models, tokens_per_batch=110, compiled=True), []
        for lengths in ((30, 2, 8, 120), (70, 31, 9, 115)):
            documents = [document(length) for length in lengths]
            found = [losses.means()[:2] for _, losses in streamed(scorer, documents)]
            expected = [[plain_loss(model, [ids]) for model in (base, reference)] for ids in documents]
            assert np.allclose(found, expected, rtol=1e-5)
            counted.append(graphs["unique_graphs"])
        assert 4 <= counted[0] <= 12  # before and after attention, the MLP, the loss; not for each of 12 layers
        assert counted[1] == counted[0]  # other batches need no others
    assert not any("forward" in vars(layer) for layer in decoder_layers(base))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
        {"rope_type": "dynamic", "factor": 4.0},
    ],
)
def test_positions_that_depend_on_the_longest_document_are_not_shared(rope):
    rope = {"rope_theta": 10_000.0, "original_max_position_embeddings": 64, **rope}
    name = "Phi3" if rope["rope_type"] == "longrope" else "Llama"
    settings = {"rope_parameters": rope, "max_position_embeddings": 64 if name == "Llama" else 1024}
    base, reference = pair(name, HEADS, "uniform", **settings, original_max_position_embeddings=64)
    documents = [document(length) for length in (100, 20, 30)]
    found = streamed(PairScorer(base, masked=Masking("uniform", HEADS)), documents)
    for ids, (_, losses) in zip(documents, found, strict=True):
        rows, wanted = torch.tensor(ids)[None, :-1], torch.tensor(ids)[1:]  # a token more would turn "dynamic" further
        with torch.no_grad():
            logits = [copy.deepcopy(model)(rows).logits[0] for model in (base, reference)]
        expected = [torch.nn.functional.cross_entropy(each, wanted).item() for each in logits]
        assert np.allclose(losses.means()[:2], expected, rtol=1e-5)


def test_layers_below_the_first_masked_one_run_once():
    base = tiny_model("Llama")
    rows = {}
    attention_modules(base)
    for number, layer in enumerate(base.model.layers):
        layer.register_forward_hook(lambda _m, _a, out, number=number: rows.update({number: out.shape[0]}))
    for first in range(4):
        PairScorer(base, masked=Masking("uniform", [(first, 2)])).score([document(20)])
        assert rows == {number: 1 if number < first else 2 for number in range(4)}


@pytest.mark.parametrize("family", ["OPT"])
def test_a_model_of_another_build_is_refused(family):
    model = tiny_model(family, ffn_dim=64, word_embed_proj_dim=64)
    with pytest.raises(InputError, match=family):
        PairScorer(model, masked=Masking("uniform", HEADS)).score([document(9)])


def test_single_tokens_have_their_own_loss():
    base, reference = pair("Llama", HEADS, "uniform")
    window = document(20)
    losses = PairScorer(base, masked=Masking("uniform", HEADS)).score([window])
    for model, found in ((base, losses.base), (reference, losses.reference)):
        with torch.no_grad():
            probabilities = model(torch.tensor(window)[None]).logits[0].double().softmax(-1)
        expected = [-math.log(probabilities[i, window[i + 1]]) for i in range(19)]
        assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_scoring_leaves_the_model_as_it_was():
    base = tiny_model("Llama")
    ids = torch.tensor(document(30))[None]
    before = base(ids).logits
    PairScorer(base, masked=Masking("uniform", HEADS)).score([document(30)])
    assert torch.equal(base(ids).logits, before)
    assert base.config._attn_implementation == "sdpa"


def test_half_precision_models_give_float32_losses():
    base, reference = pair("Llama", HEADS, "uniform")
    base, reference = base.bfloat16(), reference.bfloat16()
    losses = PairScorer(base, masked=Masking("uniform", HEADS)).score([document(50)])
    logits = base(torch.tensor(document(50))[None]).logits[0, :-1].float()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(document(50))[1:], reduction="none")
    assert losses.base.dtype == np.float32
    assert np.allclose(losses.base, expected.detach(), atol=0.1)
    assert np.abs(losses.base.mean() - expected.mean().item()) < 0.02


def losses(base, reference):
    return TokenLosses(np.array(base, np.float32), np.array(reference, np.float32))


@pytest.mark.parametrize(
    ("base", "reference", "means"),
    [
        ([1, 3], [2, 4], (2.0, 3.0, 0.5)),
        ([4, 4, 4], [3, 3, 3], (4.0, 3.0, -0.25)),
        ([2], [2], (2.0, 2.0, 0.0)),
        # per token first, then the ratio: not the mean of the tokens' ratios, which is 0.5
        ([1, 3], [2, 3], (2.0, 2.5, 0.25)),
    ],
)
def test_the_score_is_the_relative_rise(base, reference, means):
    assert losses(base, reference).means() == means


def test_sums_are_wider_than_float32():
    count = 2**24
    base = np.ones(count, np.float32)
    base[0] = 2.0**24
    assert TokenLosses(base, base).means()[0] == (2**24 + count - 1) / count


def test_a_loss_of_zero_has_no_score():
    assert math.isnan(losses([0, 0], [1, 1]).means()[2])


def test_reference_and_masked_exclude_each_other():
    base = tiny_model("Llama")
    for arguments in ({}, {"reference": base, "masked": Masking("uniform", HEADS)}):
        with pytest.raises(ValueError):
            PairScorer(base, **arguments)
