"""What only CUDA does: on a GPU; and without one, where torch is built for CUDA, on tensors that hold no data."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from common.errors import InputError
from common.model import attention
from common.model.checkpoints import Runtime, load_model, save_weights
from common.model.masking import Masking, mask_heads
from common.model.retrieval import EncodedProbe, run_probe
from common.scoring import loss
from common.scoring.loss import PairScorer
from common.scoring.pair import PairOptions, load_pair
from tests.conftest import plain_loss, tiny_model
from tests.scoring.conftest import HEADS, document, pair, streamed

GPU = "cuda"
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
built_for_cuda = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="a torch without CUDA")
FAMILIES = [("Llama", {}), ("Mistral", {"sliding_window": 64})]  # with varlen_attn, and without


@on_a_gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance", "compiled"),
    # plain models in bfloat16 are up to 0.04 off
    [(torch.float32, 1e-4, False), (torch.bfloat16, 0.1, False), (torch.bfloat16, 0.1, True)],
)
@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_losses_on_a_gpu_are_those_of_plain_models_on_the_cpu(family, settings, dtype, tolerance, compiled):
    torch.compiler.reset()
    models = pair(family, HEADS, "uniform", **settings)
    documents = [document(length) for length in (300, 2, 8, 700, 3, 120)]
    expected = [[plain_loss(model, [ids]) for model in models] for ids in documents]
    base, reference = (copy.deepcopy(model).to(GPU, dtype) for model in models)
    for other in ({"masked": Masking("uniform", HEADS)}, {"reference": reference}):
        found = streamed(PairScorer(base, **other, tokens_per_batch=900, compiled=compiled), documents)
        assert np.allclose([losses.means()[:2] for _, losses in found], expected, rtol=0, atol=tolerance)


@on_a_gpu
def test_heads_look_where_they_look_on_the_cpu():
    model = tiny_model("Llama")
    probe = EncodedProbe([*document(200), *range(20, 40), *document(90), *range(20, 40)], 310, (200, 220))
    expected = run_probe(model, probe, watch=True)
    for found, wanted in zip(run_probe(copy.deepcopy(model).to(GPU), probe, watch=True), expected, strict=True):
        assert np.array_equal(found, wanted)


@on_a_gpu
def test_a_batch_that_does_not_fit_the_memory_is_halved_until_it_does():
    base = tiny_model("Llama").to(GPU)
    documents = [document(1000)] * 400
    [[_, expected]] = streamed(PairScorer(base, masked=Masking("uniform", HEADS)), documents[:1])
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(200e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        scorer = PairScorer(base, masked=Masking("uniform", HEADS), tokens_per_batch=400_000)
        found = streamed(scorer, documents)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert scorer.tokens_per_batch < 400_000
    assert [key for key, _ in found] == list(range(400))
    assert all(np.allclose(losses.base, expected.base, atol=1e-3) for _, losses in found)


@on_a_gpu
@pytest.mark.parametrize("compiled", [None, True])
def test_without_a_compiler_scoring_runs_uncompiled_unless_it_was_asked_for(
    spm_folder, tmp_path, monkeypatch, compiled
):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch.compiler.reset()
    reference = load_model(spm_folder, Runtime("cpu"))
    mask_heads(reference, HEADS[:1], "uniform")
    save_weights(reference, tmp_path)
    options = PairOptions(spm_folder, str(tmp_path), 64, compiled=compiled)
    assert load_pair(options).scorer.compiled
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    if compiled:
        with pytest.raises(InputError, match=r"(?s)no compiler here.*--no-compile"):
            load_pair(options)
    else:
        assert not load_pair(options).scorer.compiled


@built_for_cuda
@pytest.mark.parametrize(("family", "settings"), FAMILIES)
@pytest.mark.parametrize("masked", [True, False])
def test_devices_and_shapes_fit_on_cuda(family, settings, masked, monkeypatch):
    launched, attended = [], []

    class Launched:
        def __init__(self, batch, values):
            launched.append(values)
            self.finished = lambda: (batch, np.zeros(values.shape, np.float32))

    def varlen(query, key, value, *edges, real=attention.varlen_attn, **settings):
        attended.append(query.shape)
        return real(query, key, value, *edges, **settings)

    monkeypatch.setattr(loss, "_Launched", Launched)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: mode.from_tensor(tensor))
        with torch.device(GPU):
            base, reference = (tiny_model(family, dtype="bfloat16", **settings) for _ in range(2))
        other = {"masked": Masking("uniform", HEADS)} if masked else {"reference": reference}
        found = streamed(PairScorer(base, **other), [document(length) for length in (300, 2, 80)])
    assert [len(losses.base) for _, losses in found] == [299, 1, 79]
    [values] = launched
    assert (values.device.type, values.dtype, values.shape) == (GPU, torch.float32, (2, 379))
    rows = [1, 2, 2, 2] if masked else [1] * 8  # from the first masked layer on, two
    assert attended == ([(379 * count, 8, 8) for count in rows] if family == "Llama" else [])
