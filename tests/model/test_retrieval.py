"""Retrieval scores of heads against eager attention, and probes as tokens."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.model.heads import choose_heads
from common.model.probes import Probe
from common.model.retrieval import encode_probes, probe_accuracy, run_probe, score_heads
from common.text.tokenization import load_tokenizer
from tests.conftest import tiny_model

PROBES = [
    Probe(0, '{"k1": "the old stone bridge", "k2": "a small grey river"}\nk2\n', "a small grey river"),
    Probe(1, "x y z\nnobody could remember aaaa bbbb\nwho?\n", "nobody could remember aaaa bbbb"),
    Probe(2, "<s>: </s> <|endoftext|> end\nq\n", "</s> <|endoftext|> end"),
]


def score(model, tokenizer, probes, *average):
    return score_heads(model, encode_probes(probes, tokenizer, model), lambda tokens: None, *average)[0]


def written_out(model, tokenizer, probe):
    """Per head and answer token, by hand from the attention matrices: is the top position the token to be copied?"""
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    text = probe.prompt + probe.answer
    ids = bos + tokenizer.encode(text)
    ends = [len(tokenizer.decode(ids[: i + 1][len(bos) :])) for i in range(len(ids))]
    starts = [0, *ends[:-1]]
    first = text.index(probe.answer)
    span = [i for i in range(len(ids)) if starts[i] < first + len(probe.answer) and ends[i] > first]
    span = [i for i in span if i >= len(bos) and starts[i] < ends[i]]
    answer = range(len(bos) + len(tokenizer.encode(probe.prompt)), len(ids))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_attentions=True)
    model.set_attn_implementation("sdpa")
    copied = np.zeros((4, 8, len(answer)), bool)
    for layer in range(4):
        for head in range(8):
            for i, t in enumerate(answer):
                row = out.attentions[layer][0, head, t - 1].tolist()
                top = row.index(max(row))
                copied[layer, head, i] = top in span and ids[top] == ids[t]
    correct = [int(out.logits[0, t - 1].argmax()) == ids[t] for t in answer]
    return copied, np.array(correct)


@pytest.mark.parametrize(("family", "settings"), [("Llama", {}), ("Mistral", {"sliding_window": 24})])
def test_scores_are_those_of_eager_attention(tokenizer, family, settings):
    model = tiny_model(family, **settings)
    expected = [written_out(model, tokenizer, probe) for probe in PROBES]
    probes = encode_probes(PROBES, tokenizer, model)
    for probe, (copied, correct) in zip(probes, expected, strict=True):
        found, right = run_probe(model, probe, watch=True)
        assert np.array_equal(found, copied)
        assert np.array_equal(right, correct)
    everything = np.concatenate([copied for copied, _ in expected], axis=-1)
    assert everything.any(-1).sum() > 4
    lengths = []
    scores, accuracy = score_heads(model, probes, lengths.append)
    assert np.allclose(scores, sum(copied.mean(-1) for copied, _ in expected) / len(PROBES))
    assert np.allclose(score(model, tokenizer, PROBES, "tokens"), everything.mean(-1))
    assert not np.allclose(scores, everything.mean(-1))
    assert lengths == [len(probe.input_ids) for probe in probes]
    assert accuracy == probe_accuracy(model, probes, lengths.append)
    assert accuracy == np.concatenate([correct for _, correct in expected]).mean()
    assert model.config._attn_implementation == "sdpa"


def successor_model(bytes_tokenizer, letters):
    """A model whose head (1, 2) looks for the letter after the one it reads, and (0, 5) for the letter it reads.

    Each letter is one dimension of the embedding. Rotary encoding leaves the slow half of a head's dimensions alone,
    so keys copy the letters there, and queries either copy them (same letter) or shift them (next letter). Nothing
    is added to the residual stream.
    """
    model = tiny_model(
        "Llama",
        vocab_size=bytes_tokenizer.vocab_size,
        hidden_size=64,
        head_dim=64,
        num_hidden_layers=2,
        rope_theta=1e30,
    )
    slow = 16  # of 32 rotation frequencies, the upper 16 turn by less than 1e-14 a token
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        ids = [bytes_tokenizer.encode(letter)[0] for letter in letters]
        for place, letter in enumerate(ids):
            model.model.embed_tokens.weight[letter, place] = 1.0
        for layer in model.model.layers:
            for kv_head in range(2):
                for place in range(len(letters)):
                    layer.self_attn.k_proj.weight[64 * kv_head + slow + place, place] = 1.0
        for place in range(len(letters)):
            model.model.layers[0].self_attn.q_proj.weight[64 * 5 + slow + place, place] = 1.0
        for place in range(len(letters) - 1):
            model.model.layers[1].self_attn.q_proj.weight[64 * 2 + slow + place + 1, place] = 1.0
    return model


def test_the_one_retrieval_head_is_found_and_the_one_a_row_late_is_not(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    # the newline comes before the answer's first letter
    model = successor_model(tokenizer, "\nabcdefgh")
    probe = Probe(0, "{... 1: abcdefgh, 2: ...}\n2:\n", "abcdefgh")
    assert len(tokenizer.encode(probe.answer)) == 8

    ids = tokenizer.encode(probe.prompt + probe.answer)
    model.set_attn_implementation("eager")
    attention = model(torch.tensor([ids]), output_attentions=True).attentions
    where = probe.prompt.index("abcdefgh")
    answer = range(len(probe.prompt), len(ids))
    late = [int(attention[0][0, 5, t].argmax()) for t in answer]
    assert late == list(range(where, where + 8)), "the decoy does look at the right token, in the token's own row"
    model.set_attn_implementation("sdpa")

    scores = score(model, tokenizer, [probe])
    expected = np.zeros((2, 8))
    expected[1, 2] = 1.0
    assert np.array_equal(scores, expected)
    assert choose_heads(scores, 5) == [(1, 2)]


def test_the_same_token_outside_the_answer_s_span_does_not_count(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    model = successor_model(tokenizer, "\nabcdefgh")
    # of equal logits the first is taken, here the "cd" before the span
    probe = Probe(0, "{cd: abcdefgh}\n2:\n", "abcdefgh")
    scores = score(model, tokenizer, [probe])
    assert scores[1, 2] == 6 / 8


def test_every_probe_weighs_the_same_or_every_token(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    model = successor_model(tokenizer, "\nabcdefgh")
    probes = [Probe(0, "{: abcdefgh}\n", "abcdefgh"), Probe(1, "{: zz}\n", "zz")]
    assert score(model, tokenizer, probes)[1, 2] == (1 + 0) / 2
    assert score(model, tokenizer, probes, "tokens")[1, 2] == 8 / 10


def test_only_zeros_is_an_error(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    model = successor_model(tokenizer, "\nabcdefgh")
    with pytest.raises(InputError, match="all retrieval scores are zero over 1 probes"):
        score(model, tokenizer, [Probe(0, "{: zz}\n", "zz")])


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Bloom", {}),
        # every other layer has no attention, so no heads
        ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}),
    ],
)
def test_a_model_whose_heads_cannot_all_be_watched_is_refused(bpe, family, settings):
    with pytest.raises(InputError, match=family):
        score(tiny_model(family, **settings), bpe, PROBES)


def test_a_probe_longer_than_the_context_is_refused(bos_bpe):
    probe = PROBES[0]
    length = 1 + len(bos_bpe.encode(probe.prompt + probe.answer))
    encode_probes([probe], bos_bpe, tiny_model("Llama", max_position_embeddings=length))
    with pytest.raises(InputError, match=f"probe 0: {length} tokens"):
        encode_probes([probe], bos_bpe, tiny_model("Llama", max_position_embeddings=length - 1))


def test_a_prompt_that_merges_with_its_answer_is_refused(bpe):
    prompt, answer = "over: ov", "er"
    assert bpe.encode(prompt + answer)[-1] != bpe.encode(answer)[-1]
    with pytest.raises(InputError, match=r"probe 4: .*prefix"):
        encode_probes([Probe(4, prompt, answer)], bpe, tiny_model("Llama"))
