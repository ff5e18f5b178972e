"""Probes: what they ask, within their budget, the same for the same seed; and their file."""

import json
import os
import re
import subprocess
import sys

import pytest

from common.errors import InputError
from common.model.probes import (
    TEMPLATES,
    Probe,
    ProbeOptions,
    build_probes,
    read_probes,
    usable_sentences,
    write_probes,
)
from common.text.tokenization import TextTokenizer
from tests.conftest import ROOT, SENTENCES

BUDGET = 700
KEY = re.compile(r"[A-Za-z0-9]{32}")


def build(tokenizer, sentences=None, num_probes=6, max_tokens=BUDGET, shots=3, key_length=32, seed=0, **more):
    sentences = usable_sentences(SENTENCES, tokenizer) if sentences is None else sentences
    options = ProbeOptions(num_probes, max_tokens, shots, key_length, seed, **more)
    return list(build_probes(sentences, tokenizer, options))


def parse(probe):
    """The object, the demonstrations as pairs, and the key in question."""
    lines = [line for line in probe.prompt.split("\n") if line]
    if probe.template == "published":
        assert "JSON" in lines.pop(0) and lines.pop() == "answer:"
    question = lines.pop()
    return json.loads(lines[0]), list(zip(lines[1::2], lines[2::2], strict=True)), question


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_probe_asks_for_the_value_of_a_key(tokenizer, template):
    probes = build(tokenizer, template=template)
    assert [probe.id for probe in probes] == list(range(6))
    for probe in probes:
        pairs, demonstrations, question = parse(probe)
        assert all(KEY.fullmatch(key) for key in pairs)
        assert len(set(pairs.values())) == len(pairs) > 4
        assert probe.answer == pairs[question]
        assert len(dict(demonstrations)) == 3
        assert dict(demonstrations).items() <= pairs.items()
        assert question not in dict(demonstrations)
        assert probe.prompt.count(probe.answer) == 1
        assert probe.prompt.count(question) == 2


def test_the_published_template_has_an_instruction_blank_lines_and_a_cue_for_the_question_alone(bpe):
    (plain,) = build(bpe, SENTENCES[:6], num_probes=1, max_tokens=100_000, template="plain")
    (probe,) = build(bpe, SENTENCES[:6], num_probes=1, max_tokens=100_000)
    (lookup, *rest, question, end) = plain.prompt.split("\n")
    instruction, published = probe.prompt.split("\n", 1)
    assert "value" in instruction and "{" not in instruction and end == ""
    demonstrations = "".join(f"{key}\n{value}\n\n" for key, value in zip(rest[::2], rest[1::2], strict=True))
    assert published == f"{lookup}\n\n{demonstrations}{question}\nanswer:\n"
    assert (plain.template, probe.template, probe.answer) == ("plain", "published", plain.answer)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_answer_has_the_same_tokens_in_the_object_and_after_the_prompt(tokenizer, template):
    for probe in build(tokenizer, template=template):
        before = tokenizer.encode(probe.prompt)
        answer = tokenizer.encode(probe.prompt + probe.answer)[len(before) :]
        assert tokenizer.decode(answer).strip() == probe.answer
        assert any(before[i : i + len(answer)] == answer for i in range(len(before)))


def test_shots_and_key_length_are_the_caller_s(bpe):
    for shots in (0, 1, 5):
        for probe in build(bpe, num_probes=2, shots=shots, key_length=8):
            pairs, demonstrations, _ = parse(probe)
            assert len(demonstrations) == shots
            assert {len(key) for key in pairs} == {8}


def test_neither_question_nor_demonstrations_have_a_fixed_place(bpe):
    places, shown = set(), set()
    for probe in build(bpe, num_probes=20):
        pairs, demonstrations, question = parse(probe)
        places.add(list(pairs).index(question))
        shown.add(list(pairs).index(demonstrations[0][0]))
    assert len(places) > 2
    assert len(shown) > 2


def used(probe, tokenizer):
    """Tokens with the BOS that the tokenizer itself adds."""
    return len(tokenizer.hf(probe.prompt + probe.answer, split_special_tokens=True)["input_ids"])


def test_the_budget_holds_and_no_further_pair_would_fit(tokenizer):
    sentences = usable_sentences(SENTENCES, tokenizer)
    dearest_pair = max(len(tokenizer.encode(f'"{"Q7" * 16}": "{sentence}", ')) for sentence in sentences)
    for probe in build(tokenizer, num_probes=10):
        assert BUDGET - dearest_pair - 8 < used(probe, tokenizer) <= BUDGET
        assert probe.num_tokens == used(probe, tokenizer)
        assert len(parse(probe)[0]) < len(sentences)


def test_the_bos_counts_towards_the_budget(bpe, bos_bpe):
    (probe,) = build(bpe, num_probes=1)
    exact = used(probe, bpe)
    assert build(bpe, num_probes=1, max_tokens=exact) == [probe]
    (shorter,) = build(bos_bpe, num_probes=1, max_tokens=exact)
    assert used(shorter, bos_bpe) <= exact
    assert len(parse(shorter)[0]) == len(parse(probe)[0]) - 1


def test_few_sentences_are_all_shown(bpe):
    (probe,) = build(bpe, SENTENCES[:6], num_probes=1, max_tokens=100_000)
    assert sorted(parse(probe)[0].values()) == sorted(SENTENCES[:6])


def test_a_seed_gives_the_same_probes_again(bpe):
    first = build(bpe, seed=7)
    assert build(bpe, seed=7) == first
    assert not {probe.prompt for probe in build(bpe, seed=8)} & {probe.prompt for probe in first}
    assert build(bpe, num_probes=3, seed=7) == first[:3]


def test_a_seed_gives_the_same_bytes_in_another_process(bpe, bpe_folder, tmp_path):
    arguments = f"{SENTENCES[:6]}, tokenizer, ProbeOptions(3, 600, 2, 32, 5)"
    program = (
        "from common.model.probes import ProbeOptions, build_probes, write_probes\n"
        "from common.text.tokenization import load_tokenizer\n"
        f"tokenizer = load_tokenizer({bpe_folder!r})\n"
        f"write_probes({str(tmp_path / 'there')!r}, build_probes({arguments}))"
    )
    # sets of strings come in another order under another hash seed
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True)
    write_probes(tmp_path / "here", build_probes(SENTENCES[:6], bpe, ProbeOptions(3, 600, 2, 32, 5)))
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes() != b""


def test_no_other_value_contains_the_answer(bpe):
    short = "the small fox sits here"
    sentences = [short, *(f"{word} {short} again" for word in ("now", "then", "so", "and", "but"))]
    probes = build(bpe, sentences, num_probes=40, shots=0)
    assert short in {probe.answer for probe in probes}
    assert all(probe.prompt.count(probe.answer) == 1 for probe in probes)


def test_answers_beyond_ascii_are_in_the_context_unchanged(tokenizer):
    sentences = [f"naïve café {word} 你好" for word in ("Größe", "señor", "Ελλάδα", "мир", "∑√")]
    for probe in build(tokenizer, sentences, num_probes=2, max_tokens=2000):
        assert probe.prompt.count(probe.answer) == 1
        assert probe.answer in sentences


@pytest.mark.parametrize(
    "settings", [{"max_tokens": 60}, {"sentences": SENTENCES[:3]}, {"sentences": []}, {"shots": 16}, {"shots": 40}]
)
def test_what_cannot_hold_the_demonstrations_is_refused(bpe, settings):
    with pytest.raises(InputError, match="probe 0: "):
        build(bpe, **settings)


class Cut(TextTokenizer):
    """Tokens are what a pattern finds."""

    name, bos_id = "cut", None

    def __init__(self, pattern):
        self.pattern = pattern

    def encode_batch(self, texts):
        return [re.findall(self.pattern, text) for text in texts]


def test_a_tokenizer_that_merges_across_the_ends_of_an_answer_is_refused():
    assert len(build(Cut(r"\w+|\W"), SENTENCES)) == 6
    for merging in (r"\n?\w+|\W", r'"?\w+|\W', r'\w+"?|\W'):
        with pytest.raises(InputError, match=r"^cut: .* newline or the quotation marks"):
            build(Cut(merging), [f"{sentence} now" for sentence in SENTENCES])


def test_an_answer_that_the_instruction_holds_is_not_asked(bpe):
    held = TEMPLATES["published"][0].partition(".")[0]
    for probe in build(bpe, [held, *SENTENCES[:6]], num_probes=30, shots=0):
        assert probe.answer != held


def test_usable_sentences_are_distinct_and_plain():
    kept = ["one two three four five", "the same here, naïve 你好 isn't it", " ".join("abcdefghijklmnopqrstuvwxyzABCD")]
    dropped = ["one two three four", kept[2] + " E", 'he said "no" to all of it', "a back\\slash is in this one", ""]
    dropped += ["a tab\tis in this one too", "a line\nbreak is in this one", "...", "   "]
    given = [kept[0] + ".", *dropped, f"  {kept[1]}?! ", kept[0], kept[2]]
    assert usable_sentences(given, Cut(r"\S+")) == kept
    assert usable_sentences([], Cut(r"\S+")) == []


def test_what_is_written_is_read(tmp_path, bpe):
    path = tmp_path / "probes.jsonl"
    probes = [*build(bpe), Probe(6, "{“größe”: 你好\u2028\x85\x0c🙂}\n", "你好\u2028\x85\x0c🙂")]
    write_probes(path, probes)
    assert read_probes(path) == probes
    assert [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == list(range(7))


def test_a_file_without_templates_is_read_as_plain(tmp_path):
    path = tmp_path / "probes.jsonl"
    path.write_text(GOOD)
    assert read_probes(path) == [Probe(0, "a: b c\n", "b c", "plain", None)]


GOOD = '{"id": 0, "prompt": "a: b c\\n", "answer": "b c"}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "not a probe"),
        ("{", "not a probe"),
        ("[1, 2]", "not a probe"),
        ('"id prompt answer"', "not a probe"),
        ('{"id": 1, "prompt": "a b"}', "'answer'"),
        ('{"prompt": "a b", "answer": "b"}', "'id'"),
        ('{"id": 1, "prompt": 5, "answer": "b"}', "must be texts"),
        ('{"id": 1, "prompt": "a b", "answer": null}', "must be texts"),
        ('{"id": 1, "prompt": "a b", "answer": ""}', "not empty"),
        ('{"id": 1, "prompt": "a b", "answer": "b", "template": 2}', "must be texts"),
        ('{"id": 1, "prompt": "a b", "answer": "c"}', "0 times"),
        ('{"id": 1, "prompt": "a b b", "answer": "b"}', "2 times"),
        ('{"id": 1, "prompt": "a aa", "answer": "aa a"}', "0 times"),
        (b'{"id": 1, "prompt": "\xff b", "answer": "b"}', "not a probe"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, says):
    path = tmp_path / "probes.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode() + b"\n")
    with pytest.raises(InputError) as raised:
        read_probes(path)
    assert str(raised.value).startswith(f"{path}:2: ")
    assert says in str(raised.value)


def test_a_file_without_probes_is_refused(tmp_path):
    path = tmp_path / "probes.jsonl"
    with pytest.raises(InputError, match=r"probes\.jsonl: cannot be read"):
        read_probes(path)
    path.write_text("")
    with pytest.raises(InputError, match=r"probes\.jsonl: no probes"):
        read_probes(path)
