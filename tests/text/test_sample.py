"""Text from the sample packages."""

import hashlib

from common.text.sample import sample_documents, sample_sentences


def test_the_sample_is_the_same_everywhere():
    documents = list(sample_documents())
    domains = [d.domain for d in documents]
    assert {domain: domains.count(domain) for domain in domains} == dict.fromkeys(
        ["plays", "prose", "maths", "code", "manual", "licences"], 67
    )
    assert len({d.text for d in documents}) == len({d.id for d in documents}) == 402
    assert all(250 <= len(d.text) <= 600 for d in documents)
    texts = repr([(d.text, d.id, d.domain) for d in documents]).encode()
    assert hashlib.sha256(texts).hexdigest() == "7f318b96d128cda5d7427ac21974ce1556682d2efdc59d3f1656ed2899f0e80f"


def test_the_sample_sentences_are_those_of_the_fixed_package():
    sentences = sample_sentences()
    assert len(sentences) > 3000
    assert sentences == sample_sentences()
    assert any("Dominica was the last of the Caribbean islands to be colonized by Europeans" in s for s in sentences)
