"""Batches: filled by tokens, as many as fit the memory, the same from wherever a run goes on."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.model.attention import attention_modules
from common.model.masking import Masking
from common.scoring.loss import PairScorer
from tests.conftest import document_of, plain_loss, tiny_model
from tests.scoring.conftest import HEADS, document, pair, streamed


def test_batches_are_filled_by_tokens_and_nothing_is_padded():
    sizes = []
    base = tiny_model("Llama")
    scorer = PairScorer(base, masked=Masking("uniform", HEADS), tokens_per_batch=50)
    attention_modules(base)  # which runs two tokens, once
    with base.model.embed_tokens.register_forward_hook(lambda module, args, out: sizes.append(args[0].shape)):
        streamed(scorer, [document(targets + 1) for targets in (20, 30, 1, 49, 1, 80, 5)])
    assert sizes == [(2, 50), (2, 50), (2, 1), (2, 80), (2, 5)]  # base and reference


def test_a_document_longer_than_a_batch_has_batches_of_its_own():
    sizes = []
    base, reference = pair("Llama", HEADS, "uniform")
    documents = [[document(11)], list(document_of(document(101)).windows(30, None)), [document(8)], [document(9)]]
    scorer = PairScorer(base, masked=Masking("uniform", HEADS), tokens_per_batch=70)
    attention_modules(base)  # which runs two tokens, once
    with base.model.embed_tokens.register_forward_hook(lambda module, args, out: sizes.append(args[0].shape[1])):
        found = list(scorer.stream(enumerate(documents)))
    assert sizes == [10, 60, 40, 15]
    assert [[key for key, _ in finished] for finished in found] == [[0], [1], [2, 3]]
    for finished in found:
        for key, losses in finished:
            expected = [plain_loss(model, documents[key]) for model in (base, reference)]
            assert np.allclose(losses.means()[:2], expected, rtol=1e-5)


def test_a_stream_that_starts_after_finished_documents_computes_the_same_bits():
    rng = np.random.default_rng(0)
    documents = [list(document_of(document(length)).windows(30, None)) for length in rng.integers(2, 150, 40)]
    scorer = PairScorer(tiny_model("Llama"), masked=Masking("uniform", HEADS), tokens_per_batch=100)
    whole = list(scorer.stream(enumerate(documents)))
    assert len(whole) > 10
    for number in range(1, len(whole)):
        start = whole[number][0][0]
        rest = [x for finished in scorer.stream(enumerate(documents[start:], start)) for x in finished]
        expected = [x for finished in whole[number:] for x in finished]
        for (key, ours), (other, theirs) in zip(rest, expected, strict=True):
            assert key == other
            assert ours.base.tobytes() == theirs.base.tobytes()
            assert ours.reference.tobytes() == theirs.reference.tobytes()


def memory_for(base, tokens):
    """As if a forward pass of more than so many tokens did not fit."""

    def check(module, args):
        if args[0].shape[1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    return base.model.embed_tokens.register_forward_pre_hook(check)


def test_running_out_of_memory_halves_the_batches_and_goes_on():
    base = tiny_model("Llama")
    documents = [document(length) for length in (9, 11, 12, 15, 10, 30, 31, 8, 9)]
    expected = streamed(PairScorer(base, masked=Masking("uniform", HEADS)), documents)
    scorer = PairScorer(base, masked=Masking("uniform", HEADS), tokens_per_batch=90)
    with memory_for(base, 32):
        found = streamed(scorer, documents)
    assert scorer.tokens_per_batch <= 45
    assert [key for key, _ in found] == [key for key, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        assert np.allclose(ours.base, theirs.base, atol=1e-5)
        assert np.allclose(ours.reference, theirs.reference, atol=1e-5)


def test_a_window_that_does_not_fit_says_what_to_do():
    base = tiny_model("Llama")
    scorer = PairScorer(base, masked=Masking("uniform", HEADS))
    with memory_for(base, 32), pytest.raises(InputError, match="lower --seq_len"):
        streamed(scorer, [document(20), document(60)])
    assert base.config._attn_implementation == "sdpa"


def test_an_error_while_reading_ahead_arrives():
    def reading():
        yield 0, [document(20)]
        raise InputError("shard.bin: damaged")

    scorer = PairScorer(tiny_model("Llama"), masked=Masking("uniform", HEADS))
    with pytest.raises(InputError, match="damaged"):
        list(scorer.stream(reading()))
