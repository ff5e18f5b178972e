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
from tests.conftest import SENTENCES, error_of, save_pair, write_jsonl

LONG = "A long sentence. " * 200


@pytest.fixture(autouse=True)
def code(monkeypatch):
    """Forty functions in place of Python's library, which takes long to read."""
    found = [SourceDocument(f"def f{k}(): " * 300, f"{k}", "code") for k in range(40)]
    monkeypatch.setattr(pilot, "code", lambda: found)


def pieces(*sources: str) -> list[SourceDocument]:
    """Long documents, each the next piece of its source."""
    return [SourceDocument(LONG, f"{name}#{number}", "novels") for number, name in enumerate(sources)]


def test_held_out_documents_come_from_sources_in_turn_and_the_pool_holds_none_of_these(monkeypatch):
    monkeypatch.setattr(pilot, "FEWEST", 3)
    documents = pieces(*"aaaaaaaaaaaabbcd" * 2, *"efghij" * 3)
    pool, held_out = pilot.split(documents, scored=32)
    sources = [document.id[0] for document in held_out]
    assert set(sources) == {*"efghij", "c"} or set(sources) == {*"efghij", "d"}  # a tenth of 32 scored documents
    assert len(set(sources[:7])) == 7 and len(sources) == 20
    assert [each.id for each in pool] == [each.id for each in documents[:32] if each.id[0] not in sources]


def test_a_domain_without_enough_to_hold_out_is_refused():
    with pytest.raises(InputError, match=r"novels: 0 documents .* can be held out"):
        pilot.split(pieces(*"aaaa"), scored=2)
    with pytest.raises(InputError, match=r"novels: 2 documents .* 10 are needed"):
        pilot.split(pieces(*"aaaabb"), scored=4)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"news.jsonl": []}, r"news.jsonl: no document of 400 characters"),
        ({"news.jsonl": ["short"]}, r"news.jsonl: no document of 400 characters"),
        ({"code.jsonl": [LONG]}, r"code.jsonl: there are other"),
        (
            {"news.a.jsonl": [LONG], "news.b.jsonl": [LONG]},
            r"news.b.jsonl: there are other",
        ),
    ],
)
def test_files_without_documents_or_of_one_domain_are_refused(tmp_path, files, says):
    for name, texts in files.items():
        write_jsonl(tmp_path / name, [{"id": f"{k}", "text": text} for k, text in enumerate(texts)])
    with pytest.raises(InputError, match=says):
        pilot.documents_of([f"{tmp_path}/*.jsonl"])


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
def folder(bpe_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, bpe_folder, [(0, 1), (1, 0)])
    return folder


@pytest.fixture(scope="module")
def pair(folder):
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


def test_losses_are_used_again_but_not_those_of_another_model_or_text(folder, tmp_path, monkeypatch, capsys):
    path = tmp_path / "news.jsonl"
    write_jsonl(path, [{"id": f"{k}.txt", "text": f"{k} " + LONG} for k in range(40)])
    flags = f"{path} --base_model {folder}/model --work {tmp_path} --out {tmp_path}/pilot.parquet --documents 20"
    ours = f"{flags} --reference_model {folder}/reference-model --dtype float32"
    pilot.main(ours.split())
    first = (tmp_path / "pilot.parquet").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pilot, "score", None)
        pilot.main(ours.split())
    assert (tmp_path / "pilot.parquet").read_bytes() == first
    assert "dtype was 'float32'" in error_of(pilot, ours.replace("float32", "bfloat16"), capsys)
    other = f"--reference_model {folder}/model --dtype float32"
    assert "reference" in error_of(pilot, f"{flags} {other}", capsys)
    write_jsonl(path, [{"id": f"{k}.txt", "text": f"{k} " + LONG.replace("long", "rich")} for k in range(40)])
    assert "news, 0.txt: scored with another text" in error_of(pilot, ours, capsys)
    assert (tmp_path / "pilot.parquet").read_bytes() == first
