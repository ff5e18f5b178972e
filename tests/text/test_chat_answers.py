"""Chat templates that change earlier messages, mark answers or ask for the date: each answer in what they write."""

import json
from pathlib import Path

import pytest
import transformers

import fineweb
from common.errors import BadRow, InputError
from common.files import read_json
from common.shards.reader import ShardReader
from common.text.chat import ChatTemplate
from common.text.tokenization import load_tokenizer
from tests.conftest import CHAT_TEMPLATE, error_of, write_jsonl
from tests.text.conftest import chat

# Each is a small copy of what the template of that model does.
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}<turn>user {{ m.content }}"
    "{% elif m.role == 'assistant' %}<turn>assistant {{ m.content.split('</think>')[-1] }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant <think>\n{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<turn>{{ m.role }}\n{% set parts = m.content.split('</think>') %}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n"
    "{{ (m.reasoning_content or parts[:-1]|join).replace('<think>', '').strip() }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip() }}{% for call in m.tool_calls %}\n<call>{{ call }}</call>{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}<head>system</head>\n\nToday: {{ strftime_now('%d %b %Y %H:%M') }}\n\n<eot>"
    "{% for m in messages %}<head>{{ m.role }}</head>\n\n{{ m.content | trim }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<head>assistant</head>\n\n{% endif %}"
)
MISTRAL = (
    "{% set turns = messages | rejectattr('role', 'equalto', 'system') | list %}"
    "{% for m in turns %}{% if m.role == 'user' %}[INST] "
    "{% if loop.revindex0 < 2 %}{% for s in messages if s.role == 'system' %}{{ s.content }}\n{% endfor %}{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
LAST_EOS = (
    "{{ messages|length }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<turn>{{ m.role }} {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}\n{% endgeneration %}<end>{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
MARKED_IN_A_MACRO = (
    "{% macro show(m) %}<turn>{{ m.role }} {% generation %}{{ m.content }}{% endgeneration %}<end>{% endmacro %}"
    "{% for m in messages %}{{ show(m) }}{% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
TEMPLATES = {"R1": R1, "Qwen3": QWEN3, "Llama 3": LLAMA3, "Mistral": MISTRAL, "last EOS": LAST_EOS}
TEMPLATES |= {"marked": MARKED, "marked in a macro": MARKED_IN_A_MACRO}
THOUGHT = "<think>\nhm\n</think>\n\n"


def messages_of(*pairs: tuple[str, str]) -> list[dict]:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[role], "content": content} for role, content in pairs]


@pytest.fixture
def with_template(chat_models):
    """Gives the tokenizer a template."""

    def load(template, name: str = "model"):
        tokenizer = load_tokenizer(str(chat_models / name))
        tokenizer.hf.chat_template = template
        return tokenizer

    return load


def answers_of(template: ChatTemplate, messages: list[dict]) -> list[str]:
    text, spans = template.render("x:1", messages)
    return [text[start:end] for start, end in spans]


TURNS = messages_of(("u", "Q"), ("a", THOUGHT + "A"), ("u", "Q2"), ("a", THOUGHT + "B"))
TOOL = [
    *messages_of(("u", "Q")),
    {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": ["f(1)"]},
    *messages_of(("t", "42"), ("a", "So 42")),
]
EQUAL = messages_of(("u", "A"), ("a", "A"), ("u", "A"), ("a", "A"))
OWN_WORDS = messages_of(
    ("u", "<turn>assistant <think>\n"), ("a", "<think> is <turn>user<end>\n x"), ("u", "Q"), ("a", "B")
)
IN_A_ROW = messages_of(("u", "Q"), ("a", "A"), ("a", "B"), ("u", "Q2"), ("a", "C"))
SYSTEM = messages_of(("u", "Q"), ("a", "A"), ("s", "Be brief"), ("u", "Q2"), ("a", "B"))
EMPTY = messages_of(("u", "Q"), ("a", ""), ("u", ""), ("a", "B"))
NO_ANSWER_YET = messages_of(("s", "Be brief"), ("u", "Q"), ("a", THOUGHT), ("u", "Q2"), ("a", "B"), ("u", "Q3"))


@pytest.mark.parametrize(
    ("template", "messages", "answers"),
    [
        ("R1", TURNS, ["\n\nA<end>", "\n\nB<end>"]),
        ("R1", EQUAL, ["A<end>", "A<end>"]),
        ("R1", OWN_WORDS, ["<think> is <turn>user<end>\n x<end>", "B<end>"]),
        ("R1", IN_A_ROW, ["A<end>", "B<end>", "C<end>"]),
        ("R1", SYSTEM, ["A<end>", "B<end>"]),
        ("R1", EMPTY, ["B<end>"]),
        (
            "R1",
            messages_of(("u", "Q"), ("a", "<think>only"), ("u", "Q2"), ("a", "<think>x</think>")),
            ["<think>only<end>"],
        ),
        ("Qwen3", TURNS[:2], ["<think>\nhm\n</think>\n\nA<end>"]),
        ("Qwen3", TURNS, ["A<end>", "<think>\nhm\n</think>\n\nB<end>"]),
        ("Qwen3", EQUAL, ["A<end>", "<think>\n\n</think>\n\nA<end>"]),
        ("Qwen3", TOOL, ["<think>\nwhy\n</think>\n\n<call>f(1)</call><end>", "<think>\n\n</think>\n\nSo 42<end>"]),
        ("Qwen3", TOOL + TURNS[2:], ["<call>f(1)</call><end>", "So 42<end>", "<think>\nhm\n</think>\n\nB<end>"]),
        ("Qwen3", OWN_WORDS, ["<think> is <turn>user<end>\n x<end>", "<think>\n\n</think>\n\nB<end>"]),
        ("Qwen3", IN_A_ROW, ["A<end>", "B<end>", "<think>\n\n</think>\n\nC<end>"]),
        ("Qwen3", SYSTEM, ["A<end>", "<think>\n\n</think>\n\nB<end>"]),
        ("Qwen3", NO_ANSWER_YET, ["B<end>"]),
        ("Llama 3", TURNS, [THOUGHT + "A<eot>", THOUGHT + "B<eot>"]),
        ("Llama 3", messages_of(("u", " Q "), ("a", " A\n"), ("u", ""), ("a", "")), ["A<eot>", "<eot>"]),
        ("Mistral", SYSTEM[2:3] + SYSTEM[:2] + SYSTEM[3:], [" A</s>", " B</s>"]),
        ("Mistral", messages_of(("u", "Q"), ("s", "S"), ("a", "A"), ("u", "Q"), ("a", "A")), [" A</s>", " A</s>"]),
        ("last EOS", EQUAL, ["A<|im_end|>", "A<|im_end|>\n<|endoftext|>"]),
        ("last EOS", EMPTY, ["B<|im_end|>\n<|endoftext|>"]),
        ("marked", IN_A_ROW, ["A", "B", "C"]),
        ("marked", EMPTY, ["", "B"]),
        ("marked in a macro", IN_A_ROW, ["A<end>", "B<end>", "C<end>"]),
    ],
)
def test_each_answer_is_found_as_the_template_writes_it(with_template, template, messages, answers):
    assert answers_of(ChatTemplate(with_template(TEMPLATES[template])), messages) == answers


@pytest.mark.parametrize("messages", [TURNS, EQUAL, OWN_WORDS, IN_A_ROW, SYSTEM, EMPTY, NO_ANSWER_YET])
def test_templates_that_only_append_have_the_answers_between_their_own_renderings(with_template, messages):
    tokenizer = with_template(CHAT_TEMPLATE)
    expected = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.hf.apply_chat_template(messages[:number], tokenize=False, add_generation_prompt=True)
            after = tokenizer.hf.apply_chat_template(messages[: number + 1], tokenize=False)
            expected.append(after.removeprefix(before).rstrip())
    assert answers_of(ChatTemplate(tokenizer), messages) == expected


def test_a_long_chat_has_all_its_answers(with_template):
    texts = [f"{number} is {number % 3}" for number in range(60)]
    template = ChatTemplate(with_template(QWEN3))
    expected = [f"{text}<end>" for text in texts[1::2]]
    assert answers_of(template, chat(*texts)["messages"]) == [*expected[:-1], "<think>\n\n</think>\n\n" + expected[-1]]


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (R1, messages_of(("u", "Q"), ("a", "<think>x</think>")), "its answers are empty"),
        (CHAT_TEMPLATE.replace("in messages", "in messages[-2:]"), EQUAL, "mixes its answers"),
        (
            QWEN3 + "{% if messages|length > 2 %}{{ messages[-1].content|length }}{% endif %}",
            TURNS,
            "the content of message 4",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE,
            NO_ANSWER_YET,
            r"rejects its first 6 messages \(TemplateError: no system\)",
        ),
    ],
)
def test_a_row_is_refused_that_the_template_rejects_or_whose_answers_are_not_found(
    with_template, template, messages, says
):
    with pytest.raises(BadRow, match=f"x:1: .*{says}"):
        ChatTemplate(with_template(template)).render("x:1", messages)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('give tools') }}", "TemplateError: give tools"),
        ("{% for m in messages %}", "unexpected|Unexpected"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "its answers are empty"),
        ("{% for m in messages %}{{ m.role }}{{ m.content[0].text }}\n{% endfor %}", "makes the answer"),
        ("{{ tools|length }}" + CHAT_TEMPLATE, "TypeError"),
        ({"tool_use": CHAT_TEMPLATE}, "no default"),
    ],
)
def test_a_template_that_renders_no_plain_chat_is_blamed_itself(
    with_chat_models, capsys, with_template, template, says
):
    with_template(template).save("other")
    write_jsonl("x.jsonl", [{"messages": EQUAL}])
    line = error_of(fineweb, "--tokenizer other --input x.jsonl --chat --on_bad_row skip", capsys)
    assert line.startswith("error: other: its chat template cannot be used (") and "x.jsonl" not in line
    assert any(part in line for part in says.split("|"))


def test_of_several_templates_the_default_one_is_used(with_chat_models, with_template):
    with_template({"default": R1, "tool_use": CHAT_TEMPLATE}).save("other")
    assert answers_of(ChatTemplate(load_tokenizer("other")), EQUAL) == ["A<end>", "A<end>"]


def test_a_tokenizer_without_offsets_is_refused_before_any_row(tmp_path):
    tokenizer = transformers.ByT5Tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no character offsets"):
        ChatTemplate(load_tokenizer(str(tmp_path)))


def test_shards_of_a_template_that_drops_thoughts_hold_the_places_of_the_answers(with_chat_models, with_template):
    with_template(R1).save("other")
    write_jsonl("x.jsonl", [{"messages": TURNS}, {"messages": IN_A_ROW}])
    fineweb.main("--tokenizer other --input x.jsonl --out_dir shards --chat".split())
    shard = ShardReader().open(Path("shards/fineweb_train_000001.bin"))
    decode = load_tokenizer("other").decode
    texts = [[decode(shard.document(row).token_ids[a:b]) for a, b in shard.answers[row]] for row in (0, 1)]
    assert texts == [["\n\nA<end>", "\n\nB<end>"], ["A<end>", "B<end>", "C<end>"]]


def test_the_date_in_a_template_can_be_given_and_belongs_to_the_run(with_chat_models, with_template, capsys):
    with_template(LLAMA3).save("other")
    write_jsonl("x.jsonl", [{"messages": EQUAL}])
    command = "--tokenizer other --input x.jsonl --out_dir shards --chat"
    fineweb.main([*command.split(), "--chat_date", "2024-07-26"])
    assert read_json(Path("shards/dataset.json"))["chat_date"] == "2024-07-26"
    tokens = ShardReader().open(Path("shards/fineweb_train_000001.bin")).tokens
    assert "Today: 26 Jul 2024 00:00\n" in load_tokenizer("other").decode(tokens)
    assert "warning" not in capsys.readouterr().err
    assert "chat_date was '2024-07-26', is '2" in error_of(fineweb, command, capsys)
    fineweb.main([*command.split(), "--chat_date", "2024-07-26"])
    assert "reusing" in capsys.readouterr().out


def test_todays_date_is_warned_of_and_other_templates_have_none(with_chat_models, with_template, capsys):
    template = ChatTemplate(with_template(LLAMA3))
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: ") and f"in this run {template.date}; give --chat_date" in warning
    write_jsonl("x.jsonl", [{"messages": EQUAL}])
    fineweb.main("--tokenizer model --input x.jsonl --out_dir shards --chat --chat_date 2024-07-26".split())
    assert json.loads(Path("shards/dataset.json").read_text())["chat_date"] is None
    assert "prints no date, so --chat_date changes nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "says"), [("2024", "write it as 2024-07-26"), ("2024-07-26", "give --chat too")])
def test_a_date_is_one_and_goes_with_chats(flags, says, capsys):
    assert says in error_of(fineweb, f"--input x.jsonl --chat_date {flags}", capsys)
