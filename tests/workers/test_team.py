"""The worker in this process, and the options that say where workers are."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from common.errors import InputError
from common.workers.team import EngineOptions, LocalTeam, ProcessTeam, workers


class Letters:
    """A worker that gives the letters of a word one by one, and notes what it does."""

    description = "letters"

    def __init__(self):
        self.done = []

    def __call__(self, word):
        for letter in word:
            self.done.append(letter)
            yield letter.upper()


def test_the_local_worker_does_the_units_in_order():
    team = LocalTeam(Letters())
    assert list(team.run(["ab", "", "c"])) == [(0, "ab", "A"), (0, "ab", "B"), (2, "c", "C")]
    assert list(team.run([])) == []
    assert (team.description, team.num_workers, team.num_started, team.set_aside) == ("letters", 1, 1, [])
    assert team.status() == ""


def test_the_local_worker_does_nothing_ahead():
    given, worker = [], Letters()

    def units():
        for word in ("ab", "cd"):
            given.append(word)
            yield word

    running = LocalTeam(worker).run(units())
    assert (given, worker.done) == ([], [])
    assert next(running) == (0, "ab", "A")
    assert (given, worker.done) == (["ab"], ["a"])
    assert next(running) == (0, "ab", "B")
    assert next(running) == (1, "cd", "C")
    assert (given, worker.done) == (["ab", "cd"], ["a", "b", "c"])


def fails(word):
    yield word
    raise InputError(f"{word}: damaged")


fails.description = "fails"


def test_an_error_of_the_local_worker_ends_the_run():
    found = []
    with pytest.raises(InputError, match="a: damaged"):
        found.extend(piece for *_, piece in LocalTeam(fails).run(["a", "b"]))


def test_the_engine_local_makes_one_worker():
    made = []

    def make():
        made.append(Letters())
        return made[-1]

    with workers(EngineOptions(num_workers=4), make, lambda unit, piece: None, on_gpu=False) as team:
        assert isinstance(team, LocalTeam)
        assert [piece for *_, piece in team.run(["ab"])] == ["A", "B"]
    assert len(made) == 1


@pytest.mark.parametrize("num_workers", [None, 3])
def test_options_that_go_together_are_accepted(num_workers):
    assert EngineOptions(num_workers=num_workers).engine == "local"
    assert EngineOptions("ray", None, num_workers).ray_address is None
    assert EngineOptions("ray", "auto", num_workers).ray_address == "auto"


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:6379"])
def test_an_address_without_ray_is_refused_by_flag(address):
    with pytest.raises(InputError, match=r"^--ray_address: only --engine ray uses it"):
        EngineOptions("local", address)
    with pytest.raises(InputError, match="--ray_address"):
        EngineOptions(ray_address=address)


def test_without_ray_installed_the_engine_ray_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "common.workers.ray_team", raising=False)
    options = EngineOptions("ray")
    with (
        pytest.raises(InputError, match=r"^--engine ray: .*requirements/ray\.txt"),
        workers(options, Letters, lambda unit, piece: None, on_gpu=False),
    ):
        pass


def killed(word):
    os.kill(os.getpid(), signal.SIGKILL)
    yield word


killed.description = "killed"


@pytest.mark.parametrize("num_workers", [None, 1, 2])
def test_processes_do_all_units(num_workers):
    options = EngineOptions(num_workers=num_workers)
    with workers(options, Letters, lambda unit, piece: None, on_gpu=False, processes=True) as team:
        assert isinstance(team, ProcessTeam if num_workers == 2 else LocalTeam)
        assert sorted(team.run(["ab", "", "c"])) == [(0, "ab", "A"), (0, "ab", "B"), (2, "c", "C")]


@pytest.mark.parametrize(("worker", "wanted"), [(fails, "a: damaged"), (killed, "a worker was killed")])
def test_an_error_in_a_process_ends_the_run(worker, wanted):
    with pytest.raises(InputError, match=wanted):
        list(ProcessTeam(partial(partial, worker), 2).run(["a", "b"]))


def sleeps(word):
    print(word, flush=True)
    time.sleep(300)
    yield word


ROOT = Path(__file__).parents[2]  # not of tests.conftest, whose torch each process would load
RUN = "from tests.workers.test_team import *; list(ProcessTeam(partial(partial, sleeps), 2).run('ab'))"


def test_workers_end_with_their_killed_parent():
    process = subprocess.Popen([sys.executable, "-c", RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert {process.stdout.readline() for _ in range(2)} == {"a\n", "b\n"}
    process.kill()
    process.communicate(timeout=30)  # until the last process that could write has ended
