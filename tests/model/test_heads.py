"""Retrieval scores of heads against eager attention, and the files of heads."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.model.heads import Head, choose_heads, read_head_scores, read_heads, write_head_scores, write_heads
from common.model.probes import Probe
from common.model.retrieval import encode_probes, probe_accuracy, run_probe, score_heads
from common.text.tokenization import load_tokenizer
from tests.conftest import tiny_model

PROBES = [
    Probe(0, '{"k1": "the old stone bridge", "k2": "a small grey river"}\nk2\n', "a small grey river"),
    Probe(1, "x y z\nnobody could remember aaaa bbbb\nwho?\n", "nobody could remember aaaa bbbb"),
    Probe(2, "<s>: </s> <|endoftext|> end\nq\n", "</s> <|endoftext|> end"),
]


def score(model, tokenizer, probes):
    return score_heads(model, encode_probes(probes, tokenizer, model), lambda tokens: None)[0]


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
    copied = np.concatenate([copied for copied, _ in expected], axis=-1)
    assert copied.any(-1).sum() > 4
    lengths = []
    scores, accuracy = score_heads(model, probes, lengths.append)
    assert np.allclose(scores, copied.mean(-1))
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


def test_every_answer_token_weighs_the_same(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    model = successor_model(tokenizer, "\nabcdefgh")
    probes = [Probe(0, "{: abcdefgh}\n", "abcdefgh"), Probe(1, "{: zz}\n", "zz")]
    scores = score(model, tokenizer, probes)
    assert scores[1, 2] == 8 / 10


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


@pytest.mark.parametrize(
    ("shape", "percent", "count"),
    [
        ((30, 9), 5.0, 14),
        ((24, 20), 5.0, 24),
        ((30, 9), 100.0, 270),
        ((30, 9), 0.001, 1),
        ((10, 10), 7.0, 7),
        # 0.07 * 100 and 0.29 * 100 are a little more or less in binary
        ((10, 10), 29.0, 29),
        ((100, 100), 0.29, 29),
        ((2, 5), 10.1, 2),
    ],
)
def test_the_share_of_heads_is_rounded_up(shape, percent, count):
    scores = np.random.default_rng(0).permutation(shape[0] * shape[1]).reshape(shape) / 1e6
    chosen = choose_heads(scores, percent)
    ranked = sorted(np.ndindex(shape), key=lambda head: -scores[head])
    assert chosen == ranked[:count]


def test_ties_go_by_layer_and_head():
    scores = np.zeros((3, 4))
    scores[2, 1] = scores[1, 3] = scores[1, 0] = 0.5
    scores[0, 3] = 0.6
    assert choose_heads(scores, 50) == [(0, 3), (1, 0), (1, 3), (2, 1), (0, 0), (0, 1)]


def test_heads_are_written_and_read(tmp_path):
    path = tmp_path / "heads.txt"
    heads = [Head(3, 7), Head(0, 0), Head(2, 1)]
    write_heads(path, heads)
    assert path.read_text() == "3,7\n0,0\n2,1\n"
    assert read_heads(path, (4, 8)) == heads
    path.write_text("3, 7\r\n\r\n0,0")
    assert read_heads(path, (4, 8)) == [(3, 7), (0, 0)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("4,0", "4,0 is outside"),
        ("0,8", "0,8 is outside"),
        ("-1,0", "outside"),
        ("0,-1", "outside"),
        ("1", "not `layer,head`"),
        ("1,2,3", "not `layer,head`"),
        ("1.0,2", "not `layer,head`"),
        ("a,b", "not `layer,head`"),
        ("layer,head", "not `layer,head`"),
        ("1;2", "not `layer,head`"),
        ("0,1", "twice"),
    ],
)
def test_a_bad_line_of_heads_is_named(tmp_path, line, says):
    path = tmp_path / "heads.txt"
    path.write_text(f"0,1\n\n{line}\n2,2\n")
    with pytest.raises(InputError) as raised:
        read_heads(path, (4, 8))
    assert str(raised.value).startswith(f"{path}:3: ")
    assert says in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe1,2"])
def test_a_file_without_heads_is_refused(tmp_path, content):
    path = tmp_path / "heads.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"heads\.txt: "):
        read_heads(path, (4, 8))


def test_every_head_s_score_is_written_best_first(tmp_path):
    path = tmp_path / "scores.tsv"
    write_head_scores(path, np.array([[0.25, 0.0], [1 / 3, 0.25]]), [(1, 0)])
    assert path.read_text().splitlines() == [
        "layer\thead\tretrieval_score\tselected",
        "1\t0\t0.333333\tTrue",
        "0\t0\t0.250000\tFalse",
        "1\t1\t0.250000\tFalse",
        "0\t1\t0.000000\tFalse",
    ]


def test_heads_come_back_as_they_were_written(tmp_path):
    scores = np.random.default_rng(0).random((3, 5)).round(6)
    write_head_scores(tmp_path / "heads.tsv", scores, [(1, 2), (0, 4)])
    found, chosen = read_head_scores(tmp_path / "heads.tsv")
    assert np.array_equal(found, scores)
    assert chosen == sorted([(1, 2), (0, 4)], key=lambda head: -scores[head])
