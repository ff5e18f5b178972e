"""Flags that were not given come from the records of earlier steps."""

import json
from pathlib import Path

import pytest

from common.errors import InputError
from common.hub import DEFAULT_MODEL
from common.scoring.known import known_flags, reference_values, scores_of, split_references
from tests.conftest import tiny_model

NAMES = ("base_model", "reference_model", "tokenizer", "seq_len", "score_separator", "score_tokens")
NONE = dict.fromkeys(NAMES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Two scored corpora, and a reference model."""
    monkeypatch.chdir(tmp_path)
    for name, seq_len in (("data", 64), ("data/mine", 128)):
        Path(name).mkdir(exist_ok=True)
        record = {
            "base_model": f"{name}/base",
            "reference_model": f"{name}/masked",
            "tokenizer": f"{name}/base",
            "seq_len": seq_len,
            "score_separator": name == "data",
            "score_tokens": 7 if name == "data" else None,
            "data": [f"{name}/shards/*.bin"],
        }
        Path(name, "ai_scores.json").write_text(json.dumps(record))
    Path("reference-model").mkdir()
    Path("reference-model/attention_influence.json").write_text('{"base_model": "small"}')
    tiny_model("Llama", max_position_embeddings=512).save_pretrained("small")


def test_the_record_of_the_scores_comes_first():
    assert known_flags(NONE, Path("data/mine/ai_scores.parquet")) == {
        "base_model": "data/mine/base",
        "reference_model": "data/mine/masked",
        "reference_of": {},
        "tokenizer": None,
        "seq_len": 128,
        "score_separator": False,
        "score_tokens": None,
    }
    assert known_flags(NONE, Path("data/ai_scores.parquet"))["score_tokens"] == 7


def test_what_is_given_stays():
    given = dict(zip(NAMES, ["b", "r", "t", 5, False, 9], strict=True))
    assert known_flags(given, Path("data/ai_scores.tsv")) == given | {"reference_of": {}}
    assert known_flags({"base_model": None}, Path("data/ai_scores.tsv")) == {"base_model": "data/base"}


def test_without_scores_the_reference_knows_its_base_and_the_base_its_context():
    expected = {"base_model": "small", "reference_model": "reference-model", "tokenizer": None, "seq_len": 512}
    assert known_flags(NONE) == expected | {"reference_of": {}, "score_separator": True, "score_tokens": None}
    assert known_flags(NONE, Path("data/other.tsv"))["base_model"] == "small"
    tiny_model("Llama", max_position_embeddings=100_000).save_pretrained("long")
    assert known_flags(NONE | {"base_model": "long"})["seq_len"] == 4096
    Path("reference-model/attention_influence.json").unlink()
    assert known_flags(NONE | {"seq_len": 7})["base_model"] == DEFAULT_MODEL


def test_another_tokenizer_is_remembered():
    record = json.loads(Path("data/ai_scores.json").read_text()) | {"tokenizer": "tiktoken:gpt2"}
    Path("data/ai_scores.json").write_text(json.dumps(record))
    assert known_flags(NONE, Path("data/ai_scores.tsv"))["tokenizer"] == "tiktoken:gpt2"


def test_a_doc_id_finds_the_usual_table_if_it_was_made_from_its_shard():
    assert scores_of(["data/shards/a:0-9", "data/shards/b:5-7"]) == Path("data/ai_scores.tsv")
    assert scores_of(["data/shards/a:0-9", "data/mine/shards/b:5-7"]) is None
    Path("data/ai_scores.json").unlink()
    assert scores_of(["data/shards/a:0-9"]) is None


def test_a_damaged_record_is_named():
    Path("data/ai_scores.json").write_text("{")
    with pytest.raises(InputError, match=r"data/ai_scores\.json: not JSON"):
        known_flags(NONE, Path("data/ai_scores.tsv"))


def test_a_checkpoint_s_code_does_not_run_and_nobody_is_asked(monkeypatch):
    config = json.loads(Path("small/config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    Path("small/config.json").write_text(json.dumps(config))
    Path("small/own.py").write_text("import os\nos.system('touch pwned')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert known_flags(NONE | {"trust_remote_code": False})["seq_len"] == 4096
    assert not Path("pwned").exists()


def test_references_of_domains_come_from_the_record_unless_they_are_given():
    record = json.loads(Path("data/ai_scores.json").read_text()) | {"reference_of": {"code": "masked-code"}}
    Path("data/ai_scores.json").write_text(json.dumps(record))
    Path("lang=en/masked").mkdir(parents=True)
    found = known_flags(NONE, Path("data/ai_scores.tsv"))
    assert (found["reference_model"], found["reference_of"]) == ("data/masked", {"code": "masked-code"})
    for given, expected in {
        "other": ("other", {}),
        "lang=en/masked": ("lang=en/masked", {}),  # which is a folder
        "default=a maths=b= c=d": ("a", {"maths": "b=", "c": "d"}),
    }.items():
        found = known_flags(NONE | {"reference_model": given.split()}, Path("data/ai_scores.tsv"))
        assert (found["reference_model"], found["reference_of"]) == expected
        assert split_references(reference_values(*expected)) == expected


@pytest.mark.parametrize(
    "damage",
    [{"reference_of": ["a"]}, {"reference_of": {"a": 1}}, {"seq_len": "64"}, {"score_tokens": "x"}, {"base_model": 3}],
)
def test_a_damaged_record_is_refused_in_a_line(damage):
    record = json.loads(Path("data/ai_scores.json").read_text()) | damage
    Path("data/ai_scores.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"data/ai_scores.json: {min(damage)} is not as step 5 wrote it"):
        known_flags(NONE, Path("data/ai_scores.tsv"))
