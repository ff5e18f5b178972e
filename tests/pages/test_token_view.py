"""What the page of tokens says, compared with plain models."""

import numpy as np
import pytest
import torch
import transformers

from common import cli
from common.model.heads import Head
from common.model.masking import Masking
from common.model.reference import write_record
from common.pages.token_view import AT_BOS, NOWHERE, characters, document_record, strongest_head
from common.scoring.pair import PairOptions, load_pair
from common.text.tokenization import load_tokenizer
from tests.conftest import MASKED, document_of
from tests.pages.conftest import TEXTS

SEQ_LEN = 16


def plain_window(folder, window, head):
    """By a plain model with eager attention: logits of each target, and the head's attention in the row before it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(torch.tensor([window]), output_attentions=True)
    return out.logits[0, :-1], out.attentions[head[0]][0, head[1], :-1]


def plain_view(folder, ids, bos_id, head, passages):
    """(loss, rank range, attention over document places and BOS) of every target, cut into windows by hand.

    Attention is a dict from a place in the document, or AT_BOS, to its weight.
    """
    adds_bos = bos_id is not None and ids[0] != bos_id
    first = 0 if adds_bos else 1
    view = {}
    starts = [(start, end) for begin, end in passages for start in range(max(begin, first), end, SEQ_LEN)]
    for start, end in starts:
        targets = list(range(start, min(start + SEQ_LEN, end)))
        context = AT_BOS if bos_id is not None and (adds_bos or start > first) else start - 1
        places = [context, *targets]
        window = [bos_id if place == AT_BOS else ids[place] for place in places]
        logits, attention = plain_window(folder, window, head)
        for row, target in enumerate(targets):
            logit = logits[row, ids[target]]
            loss = float(torch.logsumexp(logits[row], 0) - logit)
            low = int((logits[row] > logit + 1e-4).sum()) + 1
            high = int((logits[row] > logit - 1e-4).sum())  # the target itself is among them
            view[target] = loss, (low, high), dict(zip(places, attention[row].tolist(), strict=False))
    return view


@pytest.mark.parametrize("score_tokens", [100, 20])
@pytest.mark.parametrize("begins_with_bos", [False, True])
@pytest.mark.parametrize("kind", ["no BOS", "BOS", "SentencePiece"])
def test_losses_ranks_and_looks_are_those_of_plain_models(pair_folders, kind, begins_with_bos, score_tokens):
    base, reference = pair_folders[kind] / "model", pair_folders[kind] / "reference-model"
    pair = load_pair(PairOptions(str(base), str(reference), SEQ_LEN))
    head = strongest_head(pair, str(reference), None)
    assert head == MASKED[1]  # the first in the record
    bos_id = pair.tokenizer.bos_id
    assert (bos_id is None) == (kind == "no BOS")
    ids = pair.tokenizer.encode(TEXTS[4] + TEXTS[2])[: 3 * SEQ_LEN + 5]
    ids = [*([bos_id or 0] if begins_with_bos else []), *ids, pair.tokenizer.separator_id]
    document = document_of(ids, pair.tokenizer.separator_id).in_part(score_tokens)
    record = document_record(document, pair, SEQ_LEN, head)
    losses = pair.scorer.score(list(document.windows(SEQ_LEN, bos_id)))
    passages = document.passages or [(0, len(ids))]
    views = [plain_view(folder, ids, bos_id, head, passages) for folder in (base, reference)]
    first = min(views[0])
    assert len(record["windows"]) == 4
    assert record["windows"][:2] == [first, first + SEQ_LEN]
    assert record["windows"][2] == (first + 2 * SEQ_LEN if len(passages) == 1 else passages[1][0])
    exact = {"ranks": [], "looks": []}
    for model, (name, of_pair) in enumerate([("base", losses.base), ("reference", losses.reference)]):
        assert record[name][:first] == record["ranks"][model][:first] == [None] * first
        assert [place for place, loss in enumerate(record[name]) if loss is not None] == list(views[model])
        assert np.array_equal(np.array([record[name][place] for place in views[model]], np.float32), of_pair)
        for place, (loss, (low, high), _) in views[model].items():
            assert record[name][place] == pytest.approx(loss, abs=1e-4)
            assert low <= record["ranks"][model][place] <= high
            exact["ranks"].append(low == high)
    assert record["looks"][:first] == [NOWHERE] * first
    for place, (_, _, attention) in views[0].items():
        looked = record["looks"][place]
        assert attention[looked] >= max(attention.values()) - 1e-5
        exact["looks"].append(sum(weight >= max(attention.values()) - 1e-5 for weight in attention.values()) == 1)
    assert np.mean(exact["ranks"]) > 0.95  # so that the tolerance hides nothing
    assert np.mean(exact["looks"]) > 0.9
    assert len(set(record["looks"])) > 10


def test_one_pass_gives_losses_and_ranks_and_another_the_looks(pair_folders):
    base, reference = pair_folders["BOS"] / "model", pair_folders["BOS"] / "reference-model"
    pair = load_pair(PairOptions(str(base), str(reference), SEQ_LEN))
    passes = []
    pair.base.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    ids = [*pair.tokenizer.encode(TEXTS[4])[: SEQ_LEN - 2], pair.tokenizer.separator_id]
    document_record(document_of(ids, pair.tokenizer.separator_id), pair, SEQ_LEN, Head(*MASKED[1]))
    assert len(passes) == 2


@pytest.mark.parametrize("fixture", ["bpe_folder", "bytes_folder", "spm_folder"])
def test_pieces_are_whole_characters_and_together_the_text(fixture, request):
    tokenizer = load_tokenizer(request.getfixturevalue(fixture))
    for text in TEXTS:
        ids = [*tokenizer.encode(text), tokenizer.separator_id]
        pieces = characters(ids, tokenizer)
        assert "".join(piece for piece, _ in pieces) == tokenizer.decode(ids)
        assert sum(count for _, count in pieces) == len(ids)
        assert not any("\ufffd" in piece for piece, _ in pieces)
    pieces = characters(tokenizer.encode("🙂é"), tokenizer)
    assert [piece for piece, _ in pieces if piece.strip()] == ["🙂", "é"]


def test_bytes_that_are_no_character_are_shown_as_such(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    smile, a = tokenizer.encode("🙂"), tokenizer.encode("a")
    assert characters([*smile[:2], *a], tokenizer) == [("\ufffda", 3)]
    assert characters(smile[:3], tokenizer) == [("\ufffd", 3)]


def test_the_head_of_the_record_must_be_masked_and_one_can_be_named(pair_folders, tmp_path):
    base, reference = pair_folders["no BOS"] / "model", pair_folders["no BOS"] / "reference-model"
    pair = load_pair(PairOptions(str(base), str(reference), SEQ_LEN))
    assert strongest_head(pair, str(tmp_path), None) is None
    assert strongest_head(pair, str(tmp_path), Head(3, 7)) == (3, 7)
    write_record(tmp_path, str(base), Masking("uniform", [Head(0, 0), *MASKED]))
    with pytest.raises(cli.InputError, match=r"head is 0,0, which the reference does not"):
        strongest_head(pair, str(tmp_path), None)
