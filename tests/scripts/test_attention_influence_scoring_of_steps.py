"""attention_influence_scoring.py of steps, and of chats, of which only the answers are scored: against plain losses."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import transformers

import attention_influence_scoring
import rank_scores
import validate_docs
from common.errors import InputError
from common.shards.reader import ShardReader
from tests.conftest import SENTENCES
from tests.scripts.conftest import page_data, plain_token_losses, shown_losses, token_ids
from tests.text.conftest import CHATS, chat, tokenize

SCORE = "--base_model model --seq_len 100 --data shards/*.bin"


TEXTS = [
    "\n\n".join(SENTENCES[:5]),
    f"{SENTENCES[5]}\n  \n\n    {SENTENCES[6]}\n{SENTENCES[7]}",
    SENTENCES[8],
    "\n\n" + SENTENCES[9] + "\n\n",
]


def test_steps_end_where_the_text_is_split_and_have_the_losses_of_their_tokens(with_chat_models):
    tokenize([{"text": text, "id": str(n)} for n, text in enumerate(TEXTS)])
    attention_influence_scoring.main([*SCORE.split(), "--granularity", "step", "--out", "s.tsv"])
    steps, documents = pd.read_parquet("s.steps.parquet"), pd.read_parquet("s.parquet")
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    expected = [re.findall(r"(?s).+?(?:\n(?:[^\S\n]*\n)+|$)", text) for text in TEXTS]
    expected[3] = ["\n\n", SENTENCES[9] + "\n\n"]
    for doc_id, text in zip(documents["doc_id"], expected, strict=True):
        own = steps[steps["document"] == doc_id]
        parts = [tokenizer.decode(token_ids(step_id)) for step_id in own["doc_id"]]
        text = [*text[:-1], text[-1] + "<|endoftext|>"]
        start, ids = int(re.search(r":(\d+)-", doc_id)[1]), token_ids(doc_id)
        base, reference = (plain_token_losses(name, ids, 100) for name in ("model", "reference-model"))
        if len(parts) == len(text) - 1:  # the first step is one token, which nothing predicts
            assert len(tokenizer(text.pop(0))["input_ids"]) == 1
        assert parts == text
        assert own["step"].tolist() == list(range(len(own)))
        for row in own.itertuples():
            first, last = (int(place) - start for place in re.findall(r"\d+", row.doc_id.rpartition(":")[2]))
            places = [place for place in range(first, last) if place]
            assert row.num_tokens == last - first
            assert row.L_base == pytest.approx(np.mean([base[place] for place in places]), abs=1e-4)
            assert row.L_ref == pytest.approx(np.mean([reference[place] for place in places]), abs=1e-4)
            assert row.AI_Score == pytest.approx((row.L_ref - row.L_base) / row.L_base)


def test_the_documents_scores_are_the_same_with_steps_and_without(with_chat_models):
    tokenize([{"text": text} for text in TEXTS])
    attention_influence_scoring.main([*SCORE.split(), "--out", "plain.tsv"])
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    assert Path("s.tsv").read_bytes() == Path("plain.tsv").read_bytes()
    assert not Path("plain.steps.tsv").exists()
    steps = pd.read_csv("s.steps.tsv", sep="\t")
    pd.testing.assert_frame_equal(steps, pd.read_parquet("s.steps.parquet"), rtol=1e-9)


def test_the_step_separator_can_be_set_and_a_run_goes_on_only_with_the_same_one(with_chat_models, capsys):
    tokenize([{"text": "one;two;three\nfour;\nfive and six"}])
    command = [*SCORE.split(), *"--granularity step --out s.tsv --step_separator".split()]
    attention_influence_scoring.main([*command, ";\\n"])
    assert pd.read_parquet("s.steps.parquet")["step"].tolist() == [0, 1]
    with pytest.raises(InputError, match="steps was"):
        attention_influence_scoring.main([*command, ";"])
    attention_influence_scoring.main([*command, ";", "--overwrite"])
    assert pd.read_parquet("s.steps.parquet")["step"].tolist() == [0, 1, 2, 3]
    for flags in (["--granularity", "step", "--step_separator", ""], ["--step_separator", ";"]):
        with pytest.raises(InputError, match="--step_separator"):
            attention_influence_scoring.main([*SCORE.split(), *flags])


def test_steps_are_ranked_and_shown_like_documents(with_chat_models, capsys):
    tokenize([{"text": text} for text in TEXTS])
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    rank_scores.main("--scores s.steps.parquet --out top.tsv --max_repetition 1 --dedup none".split())
    capsys.readouterr()
    for row in [pd.read_parquet("top.parquet").iloc[0], pd.read_parquet("s.steps.parquet").iloc[3]]:
        look = ["--base_model", "model", "--seq_len", "100", "--doc_id", row.doc_id]
        validate_docs.main(look)
        out = capsys.readouterr().out
        assert "a part of shards/fineweb_train_000001:" in out
        assert shown_losses(out)[:2] == pytest.approx((row.L_base, row.L_ref), abs=1e-5)
        validate_docs.main([*look, "--html", "x.html"])
        [document] = page_data(Path("x.html"))["documents"]
        assert document["means"] == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)


def test_old_steps_do_not_stay_next_to_a_table_that_has_none(with_chat_models):
    tokenize([{"text": text} for text in TEXTS])
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    with pytest.raises(InputError, match="steps was"):
        attention_influence_scoring.main([*SCORE.split(), *"--out s.tsv".split()])
    attention_influence_scoring.main([*SCORE.split(), *"--out s.tsv --overwrite".split()])
    assert not list(Path().glob("s.steps.*"))


def test_only_the_answers_of_a_chat_are_scored(with_chat_models):
    tokenize(CHATS, "--chat")
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    scores, steps = pd.read_parquet("s.parquet"), pd.read_parquet("s.steps.parquet")
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    for row, whole in zip(scores.itertuples(), CHATS, strict=True):
        ids = token_ids(row.doc_id)
        messages = whole["messages"]
        assert tokenizer.decode(ids[:-1]) == tokenizer.apply_chat_template(messages, tokenize=False)
        answers = [m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"]
        places = []
        for answer in answers:
            wanted = tokenizer(answer)["input_ids"]
            places += next(
                list(range(start, start + len(wanted)))
                for start in range(places[-1] + 1 if places else 0, len(ids))
                if ids[start : start + len(wanted)] == wanted
            )
        for name, found in (("model", row.L_base), ("reference-model", row.L_ref)):
            losses = plain_token_losses(name, ids, 100)
            assert found == pytest.approx(np.mean([losses[place] for place in places]), abs=1e-4)
        own = steps[steps["document"] == row.doc_id]
        parts = [part for answer in answers for part in re.findall(r"(?s).+?(?:\n\n|$)", answer)]
        assert [tokenizer.decode(token_ids(step_id)) for step_id in own["doc_id"]] == parts


def test_validate_docs_shows_the_score_of_a_chat_in_the_table(with_chat_models, capsys):
    tokenize(CHATS, "--chat")
    attention_influence_scoring.main([*SCORE.split(), "--out", "s.tsv"])
    row = pd.read_parquet("s.parquet").iloc[0]
    capsys.readouterr()
    validate_docs.main(["--base_model", "model", "--seq_len", "100", "--doc_id", row.doc_id])
    out = capsys.readouterr().out
    assert shown_losses(out)[:2] == pytest.approx((row.L_base, row.L_ref), abs=1e-5)
    rises = [line for line in out.splitlines() if "after '" in line]
    assert len(rises) == 10
    validate_docs.main(["--base_model", "model", "--seq_len", "100", "--doc_id", row.doc_id, "--html", "x.html"])
    [document] = page_data(Path("x.html"))["documents"]
    assert document["means"] == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    spans = ShardReader().open(Path("shards/fineweb_train_000001.bin")).answers[0].tolist()
    answered = {place for start, end in spans for place in range(start, end)}
    for values in (document["base"], document["reference"], *document["ranks"]):
        assert {place for place, value in enumerate(values) if value is not None} == answered


def test_chats_are_measured_by_their_answers(with_chat_models):
    """A shared system prompt makes no copies of chats, and a text twice in the prompt makes no repetition."""
    prompt, answers = " ".join(SENTENCES), [" ".join(SENTENCES[n : n + 4]) for n in (0, 5, 10, 0)]
    tokenize([chat("Tell!", answer, system=prompt + prompt) for answer in answers], "--chat")
    attention_influence_scoring.main([*SCORE.split(), "--out", "s.tsv"])
    scores = pd.read_parquet("s.parquet")
    assert (scores["repetition"] < 0.1).all()
    assert scores["near_duplicate_of"].tolist() == ["", "", "", scores["doc_id"][0]]
