"""Names of checkpoints that are no folder: one question to the hub, one line."""

import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from common.errors import InputError
from common.hub import require_checkpoint
from tests.conftest import ROOT


@pytest.fixture
def asked(monkeypatch):
    """The names that the hub is asked for; it answers with `error`, if that is set."""
    names = []

    def model_info(_api, name, timeout):
        assert timeout <= 10
        names.append(name)
        if error := getattr(model_info, "error", None):
            raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    return model_info, names


@pytest.mark.parametrize(
    "name", ["{}/none", "data/SmolLM-135", "./model", "../model", "a/b/c", "~/model", "no name!", "/none"]
)
def test_a_path_that_does_not_exist_is_no_name_of_the_hub(tmp_path, monkeypatch, asked, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    name = name.format(tmp_path)
    with pytest.raises(InputError, match="no such file or folder; check the path"):
        require_checkpoint(name)
    assert not asked[1]


def test_the_hub_is_asked_once(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    model_info, names = asked
    require_checkpoint("owner/model")
    require_checkpoint("gpt2")
    assert names == ["owner/model", "gpt2"]
    (tmp_path / "gpt2").mkdir()
    require_checkpoint("gpt2")
    assert names == ["owner/model", "gpt2"]
    for error, says in [
        (ConnectionError("no\nnetwork"), r"owner/none: no such folder, and the hub cannot be asked \(Conn.*no network"),
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "owner/none: no such folder, and no such model"),
    ]:
        model_info.error = error
        with pytest.raises(InputError, match=says):
            require_checkpoint("owner/none")
    model_info.error = GatedRepoError.__new__(GatedRepoError)
    require_checkpoint("owner/gated")


def test_what_is_in_the_cache_needs_no_hub(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    found = {("owner/model", "tokenizer.json"): "/cache/tokenizer.json"}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: found.get((name, file)))
    require_checkpoint("owner/model")
    assert not asked[1]


@pytest.mark.parametrize(
    "command",
    [
        "fineweb.py --version sample --tokenizer no-such-owner/no-such-model",
        "make_reference_model.py --base_model no-such-model --retrieval_heads heads.txt",
        "pretrain.py --config no-such-model --data x.bin",
    ],
)
def test_a_name_that_is_unknown_gives_one_line(tmp_path, command):
    """With or without a network."""
    script, *flags = command.split()
    done = subprocess.run([sys.executable, ROOT / script, *flags], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "no such f" in done.stderr
