"""The model to train."""

import json

import pytest

from common.errors import InputError
from common.training.models import new_model, trained_model

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def config(tmp_path, model_type: str, **others) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model_type, **SMALL, **others}))
    return str(path)


def test_refuses_a_model_that_sees_the_tokens_it_should_predict(tmp_path):
    bert = config(tmp_path, "bert")
    with pytest.raises(InputError, match="sees the tokens that it should predict"):
        new_model(bert, None, 0, False)


def test_accepts_the_same_class_as_a_decoder_and_leaves_it_in_training_mode(tmp_path):
    assert new_model(config(tmp_path, "bert", is_decoder=True), None, 0, False).training


def test_refuses_a_checkpoint_that_is_not_causal(tmp_path):
    new_model(config(tmp_path, "bert", is_decoder=True), None, 0, False).save_pretrained(tmp_path / "bert")
    path = tmp_path / "bert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_decoder": False}))
    with pytest.raises(InputError):
        trained_model(str(tmp_path / "bert"), False)
