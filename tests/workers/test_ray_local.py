"""A Ray cluster that the script starts on this machine: where its files lie, and what the environment may say."""

import shutil
import stat
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import ray

from common.errors import InputError
from common.workers.ray_team import TMPDIR_BYTES, RayTeam


class Echo:
    """A worker that gives its units back."""

    description = "echo"

    def __call__(self, unit):
        yield unit


one_worker = partial(RayTeam, Echo, lambda unit, piece: None, None, 1, on_gpu=False)


@pytest.fixture(params=[0, 1, 60])
def tmpdir_name(request, monkeypatch):
    """A TMPDIR in which Ray can just start, and longer ones."""
    parent = tempfile.mkdtemp(dir="/tmp")
    name = Path(parent, "x" * (TMPDIR_BYTES + request.param - len(parent) - 1))
    name.mkdir()
    monkeypatch.setenv("TMPDIR", str(name))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield name
    shutil.rmtree(parent)


def test_a_cluster_starts_in_a_short_private_folder_if_tmpdir_is_too_long(tmpdir_name):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    before = set(Path("/tmp").glob("ray-*"))
    with one_worker() as team:
        assert [piece for *_, piece in team.run("ab")] == ["a", "b"]
        new = set(Path("/tmp").glob("ray-*")) - before
        too_long = len(str(tmpdir_name)) > TMPDIR_BYTES
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in new] == [0o700] * too_long
        assert (tmpdir_name / "ray").exists() != too_long
    assert not any(folder.exists() for folder in new)


def test_a_stale_address_in_the_environment_is_named_as_that(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"^RAY_ADDRESS=127.0.0.1:1: no Ray cluster .* or unset RAY_ADDRESS for"):
        one_worker().__enter__()
