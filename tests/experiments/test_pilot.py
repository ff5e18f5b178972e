import json

import numpy as np
import pilot
import pytest

from common.errors import InputError
from common.model.checkpoints import Runtime
from common.scoring.pair import PairOptions, load_pair
from common.shards.documents import Document
from common.table.guards import novel
from common.text.corpus import SourceDocument
from tests.conftest import SENTENCES, save_pair

LONG = "A long sentence. " * 200


def pieces(*sources: str) -> list[SourceDocument]:
    """Long documents, each the next piece of its source."""
    return [SourceDocument(LONG, f"{name}#{number}", "novels") for number, name in enumerate(sources)]


def test_no_document_of_the_pool_is_from_the_source_of_a_held_out_one(monkeypatch):
    monkeypatch.setattr(pilot, "HELD_OUT", 3)
    documents = pieces(*"ababcabdcdabab")
    pool, held_out = pilot.split(documents, scored=8)
    assert {document.id[0] for document in held_out} == {"c", "d"}  # the sources with the fewest scored documents
    assert [document.id for document in pool] == ["a#0", "b#1", "a#2", "b#3", "a#5", "b#6"]


def test_sources_without_a_scored_document_are_held_out_first(monkeypatch):
    monkeypatch.setattr(pilot, "HELD_OUT", 2)
    pool, held_out = pilot.split(pieces(*"aabbcc"), scored=4)
    assert ([each.id[0] for each in pool], [each.id for each in held_out]) == (list("aabb"), ["c#4", "c#5"])


def test_a_domain_of_one_source_is_refused():
    with pytest.raises(InputError, match="novels: not enough sources"):
        pilot.split(pieces(*"aaaa"), scored=2)


def test_an_id_that_is_not_unique_is_refused(tmp_path):
    path = tmp_path / "news.jsonl"
    path.write_text(2 * (json.dumps({"id": "one#1", "text": LONG}) + "\n"))
    with pytest.raises(InputError, match=r"news.jsonl: 2 documents have the id 'one#1'"):
        pilot.documents_of([str(path)])


@pytest.mark.parametrize("end", [" ", "\n"])
def test_a_text_is_cut_before_the_longest_length_at_the_end_of_a_word_or_line(end):
    text = ("word" + end) * 1000
    assert len(text) > len(pilot.cut(text)) > pilot.LONGEST - 6
    assert text.startswith(pilot.cut(text) + end)


@pytest.fixture(scope="module")
def pair(bpe_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, bpe_folder, [(0, 1), (1, 0)])
    return load_pair(PairOptions(f"{folder}/model", f"{folder}/reference-model", 64, runtime=Runtime(device="cpu")))


def test_the_table_is_what_the_scorer_says_of_each_document(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(pilot, "CHUNK", 2)
    documents = [SourceDocument(" ".join(SENTENCES[k : 2 * k + 3] * 2), f"{k}", "news") for k in range(5)]
    pilot.score(pair, documents[:2], tmp_path)
    pilot.score(pair, documents[2:], tmp_path)  # as a run that continues
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000.npz", "000001.npz", "000002.npz"]
    rows = pilot.table(pilot.read_losses(tmp_path)).set_index("id")
    for document in documents:
        ids = np.array([*pair.tokenizer.encode(document.text), pair.tokenizer.separator_id])
        windows = Document("", 0, ids, ids[-1], "").windows(pilot.SEQ_LEN, pair.tokenizer.bos_id)
        losses, row = pair.scorer.score(list(windows)), rows.loc[document.id]
        wanted = {"L_base": losses.means().L_base, "L_ref": losses.means().L_ref, "AI_Score": losses.means().AI_Score}
        targets = np.arange(1, len(ids))
        wanted |= {f"AI_Score_novel_{n}": losses.of(novel(ids, n)[1:]).means().AI_Score for n in pilot.NGRAMS}
        wanted |= {f"AI_Score_first_{n}": losses.of(targets < n).means().AI_Score for n in pilot.FIRST}
        assert row[list(wanted)].to_dict() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
        assert (row["num_tokens"], row["num_chars"]) == (len(ids), len(document.text))
    assert rows["repetition"].min() > 0.3


def test_a_damaged_file_of_losses_is_named(tmp_path):
    (tmp_path / "000000.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"000000.npz: not losses of this script"):
        pilot.read_losses(tmp_path)
