"""Chats, of which the answers are found in the text of the template; and what is no chat."""

import json
import re
from pathlib import Path

import pytest
import transformers

import fineweb
from common.errors import InputError
from common.shards.index import CHAT_INDEX_SCHEMA, read_index
from common.shards.reader import ShardReader
from tests.conftest import SENTENCES, byte_level_bpe, save_bpe
from tests.text.conftest import CHATS, chat, tokenize


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
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "the first message is an answer"),
    ],
)
def test_a_row_that_is_no_chat_is_refused_or_skipped(with_chat_models, capsys, row, says):
    Path("text.jsonl").write_text("\n".join(map(json.dumps, [CHATS[0], row])))
    command = "--tokenizer model --input text.jsonl --out_dir shards --chat".split()
    with pytest.raises(InputError, match=re.escape("text.jsonl:2: ") + ".*" + re.escape(says)):
        fineweb.main(command)
    fineweb.main([*command, "--on_bad_row", "skip"])
    assert "1 documents" in capsys.readouterr().out


def test_empty_answers_are_no_answers(with_chat_models):
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
    shard = ShardReader().open(Path("shards/fineweb_train_000001.bin"))
    assert [tokenizer.decode(shard.tokens[a:b]) for a, b in shard.answers[0]] == ["", " C"]


def test_chats_need_a_chat_template_and_an_input(with_chat_models):
    save_bpe("bare", byte_level_bpe(300))
    Path("text.jsonl").write_text(json.dumps(CHATS[0]))
    with pytest.raises(InputError, match="no chat template"):
        fineweb.main("--tokenizer bare --input text.jsonl --chat".split())
    with pytest.raises(InputError, match="--chat: the texts of --version"):
        fineweb.main("--tokenizer model --version sample --chat".split())


def test_the_index_of_a_chat_holds_the_places_of_its_answers_in_ordinary_shards(with_chat_models):
    tokenize(CHATS, "--chat")
    index, _ = read_index(Path("shards/fineweb_train_000001.index.parquet"))
    assert index.schema.equals(CHAT_INDEX_SCHEMA)
    shard = ShardReader().open(Path("shards/fineweb_train_000001.bin"))
    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    start = shard.spans[0, 0]
    assert [tokenizer.decode(shard.tokens[start + a : start + b]) for a, b in shard.answers[0]] == [
        SENTENCES[0] + "<|im_end|>",
        SENTENCES[1] + "\n\n" + SENTENCES[2] + "<|im_end|>",
    ]
