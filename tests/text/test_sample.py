"""Text from the sample packages."""

from common.text.sample import sample_documents, sample_sentences


def test_the_sample_has_enough_documents_in_enough_domains():
    documents = list(sample_documents())
    domains = {d.domain for d in documents}
    assert len(documents) >= 400
    assert domains == {"plays", "prose", "maths", "code", "manual", "licences"}
    assert len({d.text for d in documents}) == len({d.id for d in documents}) == len(documents)
    assert all(400 <= len(d.text) <= 2000 for d in documents)


def test_the_sample_sentences_are_those_of_the_fixed_package():
    sentences = sample_sentences()
    assert len(sentences) > 3000
    assert sentences == sample_sentences()
    assert any("Dominica was the last of the Caribbean islands to be colonized by Europeans" in s for s in sentences)
