"""Steps of documents, and chats of which only the answers are scored: against plain losses of transformers' models."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import attention_influence_scoring
import fineweb
import make_reference_model
import rank_scores
import validate_docs
from common.errors import InputError
from common.scoring.steps import step_edges
from common.shards.documents import CHAT_INDEX_SCHEMA, open_shard, read_index
from tests.conftest import SENTENCES, byte_level_bpe, save_bpe, tiny_model

SCORE = "--base_model model --seq_len 100 --data shards/*.bin"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a model of bytes and pairs of them, its chat template, and its reference."""
    folder = tmp_path_factory.mktemp("steps")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(300), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny_model("Llama").save_pretrained("model")
        tokenizer.save_pretrained("model")
        Path("data").mkdir()
        Path("data/retrieval_heads.txt").write_text("2,3\n3,6\n")
        make_reference_model.main(["--base_model", "model"])
    return folder


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    for name in ("model", "reference-model"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tokenize(rows, flags="") -> None:
    Path("text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fineweb.main(f"--tokenizer model --input text.jsonl --out_dir shards {flags}".split())


def plain_losses(name: str, ids: list[int], seq_len: int) -> dict[int, float]:
    """The loss of each token but the first, by its place, of windows that begin with the token before."""
    model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    found = {}
    for first in range(0, len(ids) - 1, seq_len):
        window = torch.tensor([ids[first : first + seq_len + 1]])
        with torch.no_grad():
            logits = model(window).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
        found.update(enumerate(losses.tolist(), first + 1))
    return found


def token_ids(doc_id: str) -> list[int]:
    shard, _, span = doc_id.rpartition(":")
    start, end = map(int, span.split("-"))
    return open_shard(Path(f"{shard}.bin")).tokens[start:end].tolist()


def page_data(path: str) -> dict:
    """What a page was given."""
    return json.loads(re.search(r'(?s)<script type="application/json"[^>]*>(.*?)</script>', Path(path).read_text())[1])


TEXTS = [
    "\n\n".join(SENTENCES[:5]),
    f"{SENTENCES[5]}\n  \n\n    {SENTENCES[6]}\n{SENTENCES[7]}",
    SENTENCES[8],
    "\n\n" + SENTENCES[9] + "\n\n",
]


def test_steps_lie_where_the_text_is_split_and_have_the_losses_of_their_tokens(here):
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
        base, reference = (plain_losses(name, ids, 100) for name in ("model", "reference-model"))
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


def test_the_documents_scores_are_the_same_with_steps_and_without(here):
    tokenize([{"text": text} for text in TEXTS])
    attention_influence_scoring.main([*SCORE.split(), "--out", "plain.tsv"])
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    assert Path("s.tsv").read_bytes() == Path("plain.tsv").read_bytes()
    assert not Path("plain.steps.tsv").exists()
    steps = pd.read_csv("s.steps.tsv", sep="\t")
    pd.testing.assert_frame_equal(steps, pd.read_parquet("s.steps.parquet"), rtol=1e-9)


def test_a_separator_of_ones_own_and_no_going_on_with_another(here, capsys):
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


def test_steps_are_ranked_and_looked_at_like_documents(here, capsys):
    tokenize([{"text": text} for text in TEXTS])
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    rank_scores.main("--scores s.steps.parquet --out top.tsv --max_repetition 1 --dedup none".split())
    capsys.readouterr()
    for row in [pd.read_parquet("top.parquet").iloc[0], pd.read_parquet("s.steps.parquet").iloc[3]]:
        look = ["--base_model", "model", "--seq_len", "100", "--doc_id", row.doc_id]
        validate_docs.main(look)
        out = capsys.readouterr().out
        assert "a part of shards/fineweb_train_000001:" in out
        shown = re.search(r"L_base ([\d.]+)  L_ref ([\d.]+)", out).groups()
        assert tuple(map(float, shown)) == pytest.approx((row.L_base, row.L_ref), abs=1e-5)
        validate_docs.main([*look, "--html", "x.html"])
        [document] = page_data("x.html")["documents"]
        assert document["means"] == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)


@pytest.mark.parametrize(
    ("pieces", "separator", "edges"),
    [
        ([], None, [0]),
        (["a"], None, [0, 1]),
        (["a", "\n", "\n", "b"], None, [0, 3, 4]),
        (["a\n", "\t\nb", "c"], None, [0, 2, 3]),  # a token is of the step that its first character is in
        (["a", "\n\n"], None, [0, 2]),
        (["a", "\n\n", "b", "\n\n", ""], None, [0, 2, 5]),  # the separator's piece is empty
        (["\n\n", "a"], None, [0, 1, 2]),
        (["a", "#", "#", "b", "##", "c"], "##", [0, 3, 5, 6]),
        (["a", "", "\n\n", "", "b"], None, [0, 3, 5]),
    ],
)
def test_edges_by_hand(pieces, separator, edges):
    assert step_edges(pieces, separator) == edges


# Chats


def chat(*contents: str, system: str | None = None) -> dict:
    """User and assistant in turn."""
    messages = [{"role": ["user", "assistant"][n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


CHATS = [
    chat("What?", SENTENCES[0], "And?", SENTENCES[1] + "\n\n" + SENTENCES[2]),
    chat("Hm", "\nWell", system=SENTENCES[3]),
    chat(SENTENCES[4], "é"),
]


def test_only_the_answers_of_a_chat_are_scored(here):
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
            losses = plain_losses(name, ids, 100)
            assert found == pytest.approx(np.mean([losses[place] for place in places]), abs=1e-4)
        own = steps[steps["document"] == row.doc_id]
        parts = [part for answer in answers for part in re.findall(r"(?s).+?(?:\n\n|$)", answer)]
        assert [tokenizer.decode(token_ids(step_id)) for step_id in own["doc_id"]] == parts


def test_a_chats_index_says_where_its_answers_lie_and_its_shards_train_like_any(here):
    tokenize(CHATS, "--chat")
    index, _ = read_index(Path("shards/fineweb_train_000001.index.parquet"))
    assert index.schema.equals(CHAT_INDEX_SCHEMA)
    shard = open_shard(Path("shards/fineweb_train_000001.bin"))
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    start = shard.spans[0, 0]
    assert [tokenizer.decode(shard.tokens[start + a : start + b]) for a, b in shard.answers[0]] == [
        SENTENCES[0] + "<|im_end|>",
        SENTENCES[1] + "\n\n" + SENTENCES[2] + "<|im_end|>",
    ]


def test_looking_at_a_chat_shows_the_tables_score(here, capsys):
    tokenize(CHATS, "--chat")
    attention_influence_scoring.main([*SCORE.split(), "--out", "s.tsv"])
    row = pd.read_parquet("s.parquet").iloc[0]
    capsys.readouterr()
    validate_docs.main(["--base_model", "model", "--seq_len", "100", "--doc_id", row.doc_id])
    out = capsys.readouterr().out
    shown = re.search(r"L_base ([\d.]+)  L_ref ([\d.]+)", out).groups()
    assert tuple(map(float, shown)) == pytest.approx((row.L_base, row.L_ref), abs=1e-5)
    rises = [line for line in out.splitlines() if "behind '" in line]
    assert len(rises) == 10
    validate_docs.main(["--base_model", "model", "--seq_len", "100", "--doc_id", row.doc_id, "--html", "x.html"])
    [document] = page_data("x.html")["documents"]
    assert document["means"] == pytest.approx((row.L_base, row.L_ref, row.AI_Score), abs=1e-5)
    spans = open_shard(Path("shards/fineweb_train_000001.bin")).answers[0].tolist()
    answered = {place for start, end in spans for place in range(start, end)}
    for values in (document["base"], document["reference"], *document["ranks"]):
        assert {place for place, value in enumerate(values) if value is not None} == answered


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": "no list"}, "the messages are a str"),
        ({"messages": ["text"]}, "message 1 is not"),
        ({"messages": [{"role": "user"}]}, "message 1 is not"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 is not"),
        (chat("only a question"), "no message of the role 'assistant'"),
        ({"messages": []}, "no message of the role"),
        (chat("Say <|im_end|>", "No."), "message 1 spells the special token <|im_end|>"),
        ({"text": "no messages"}, "no column 'messages'"),
        (
            {"messages": [*chat("A", "B")["messages"], {"role": "tool", "content": "", "x": ["<|im_end|>"]}]},
            "message 3 sp",
        ),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "begins with an answer"),
    ],
)
def test_a_row_that_is_no_chat_is_refused_or_skipped(here, capsys, row, says):
    Path("text.jsonl").write_text("\n".join(map(json.dumps, [CHATS[0], row])))
    command = "--tokenizer model --input text.jsonl --out_dir shards --chat".split()
    with pytest.raises(InputError, match=re.escape("text.jsonl:2: ") + ".*" + re.escape(says)):
        fineweb.main(command)
    fineweb.main([*command, "--on_bad_row", "skip"])
    assert "1 documents" in capsys.readouterr().out


def test_a_template_that_tells_the_past_otherwise_is_refused(here, tmp_path, models):
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    tokenizer.chat_template = "{{ messages|length }}" + TEMPLATE
    tokenizer.save_pretrained("other")
    Path("text.jsonl").write_text(json.dumps(CHATS[0]))
    with pytest.raises(InputError, match="renders message 2 otherwise"):
        fineweb.main("--tokenizer other --input text.jsonl --out_dir shards --chat".split())
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    tokenizer.save_pretrained("other")
    with pytest.raises(InputError, match=r"does not take it .*roles must alternate"):
        fineweb.main("--tokenizer other --input text.jsonl --out_dir shards --chat".split())


def test_empty_answers_are_no_answers(here):
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained("plain")
    Path("text.jsonl").write_text("\n".join(map(json.dumps, [chat("A", "", "B", " C\n"), chat("A", "")])))
    command = "--tokenizer plain --input text.jsonl --out_dir shards --chat".split()
    with pytest.raises(InputError, match="jsonl:2: its answers are empty"):
        fineweb.main(command)
    fineweb.main([*command, "--on_bad_row", "skip"])
    shard = open_shard(Path("shards/fineweb_train_000001.bin"))
    assert [tokenizer.decode(shard.tokens[a:b]) for a, b in shard.answers[0]] == ["", " C"]


def test_chats_are_measured_by_their_answers(here):
    """A system prompt that all share makes no copies of them, and a question told twice no repetition."""
    prompt, answers = " ".join(SENTENCES), [" ".join(SENTENCES[n : n + 4]) for n in (0, 5, 10, 0)]
    tokenize([chat("Tell!", answer, system=prompt + prompt) for answer in answers], "--chat")
    attention_influence_scoring.main([*SCORE.split(), "--out", "s.tsv"])
    scores = pd.read_parquet("s.parquet")
    assert (scores["repetition"] < 0.1).all()
    assert scores["near_duplicate_of"].tolist() == ["", "", "", scores["doc_id"][0]]


def test_old_steps_do_not_stay_beside_a_table_that_has_none(here):
    tokenize([{"text": text} for text in TEXTS])
    attention_influence_scoring.main([*SCORE.split(), *"--granularity step --out s.tsv".split()])
    with pytest.raises(InputError, match="steps was"):
        attention_influence_scoring.main([*SCORE.split(), *"--out s.tsv".split()])
    attention_influence_scoring.main([*SCORE.split(), *"--out s.tsv --overwrite".split()])
    assert not list(Path().glob("s.steps.*"))


def test_chats_need_a_template_and_a_text_of_ones_own(here, tmp_path):
    save_bpe("bare", byte_level_bpe(300))
    Path("text.jsonl").write_text(json.dumps(CHATS[0]))
    with pytest.raises(InputError, match="no chat template"):
        fineweb.main("--tokenizer bare --input text.jsonl --chat".split())
    with pytest.raises(InputError, match="--chat: the texts of --version"):
        fineweb.main("--tokenizer model --version sample --chat".split())
