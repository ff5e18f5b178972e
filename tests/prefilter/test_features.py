"""The numbers that a text becomes, against a slow count of the same."""

import re
from collections import Counter

import numpy as np
import pytest

from common.prefilter import features
from common.prefilter.features import FEATURES, KINDS, LONGEST, MARKS, features_of
from tests.conftest import SENTENCES

TEXTS = [
    "",
    " ",
    "a",
    "a",
    "The cat, the cat and the 3 Cats: 12 cats!\n\tThe_cat (antidisestablishmentarianism) é漢 é漢",
    " ".join(SENTENCES),
    "ha " * 300,
]


def kind_of(word: bytes) -> str:
    if re.fullmatch(rb"[^\w\x80-\xff]", word):
        return "mark"
    if word[:1].isdigit():
        return "number"
    return "capital" if word[:1].isupper() else "short" if len(word) < 7 else "long"


def counted(text: str) -> dict[str, float]:
    """Features by a loop over words."""
    data = text.encode()
    words = re.findall(rb"[A-Za-z0-9_\x80-\xff]+|[^\sA-Za-z0-9_\x80-\xff]", data)
    total, kinds, distinct = max(len(words), 1), Counter(map(kind_of, words)), Counter(map(kind_of, {*words}))
    triples = {*zip(words, words[1:], words[2:], strict=False)}
    return {
        "bytes": np.log1p(len(data)),
        "word_bytes": len(data) / total,
        "upper": len(re.findall(rb"[A-Z]", data)) / max(len(data), 1),
        "not_ascii": sum(byte > 127 for byte in data) / max(len(data), 1),
        **{f"mark_{mark}": data.count(mark) / max(len(data), 1) for mark in MARKS},
        **{f"all_{kind}": kinds[kind] / total for kind in KINDS},
        **{f"distinct_{kind}": distinct[kind] / total for kind in KINDS},
        "distinct_words": len({*words}) / total,
        "distinct_triples": len(triples) / total,
    }


def test_features_are_what_a_loop_over_words_counts():
    found = features_of(TEXTS)
    assert found.shape == (len(TEXTS), len(FEATURES))
    for text, row in zip(TEXTS, found, strict=True):
        named = dict(zip(FEATURES, row, strict=True))
        wanted = counted(text)
        assert {name: named[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("at_once", [1, 100, 10**6])
def test_features_do_not_depend_on_the_other_texts(monkeypatch, at_once):
    monkeypatch.setattr(features, "AT_ONCE", at_once)
    alone = np.concatenate([features_of([text]) for text in TEXTS])
    np.testing.assert_array_equal(features_of(TEXTS), alone)
    np.testing.assert_array_equal(features_of(TEXTS[::-1]), alone[::-1])


def test_text_that_repeats_compresses_and_has_less_entropy():
    compressed, entropy = (FEATURES.index(name) for name in ("compressed", "entropy"))
    prose, repeated = features_of(TEXTS[-2:])
    assert repeated[compressed] < 0.1 < prose[compressed] < 1
    assert repeated[entropy] == pytest.approx(np.log2(3))
    assert 3.5 < prose[entropy] < 5


def test_only_the_beginning_of_a_very_long_text_is_looked_at():
    beginning = "é is a word. " * (LONGEST // 10)
    np.testing.assert_array_equal(features_of([beginning]), features_of([beginning + "more"]))
