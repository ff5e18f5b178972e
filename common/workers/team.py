"""Workers that do units of work: one in this process, or many on a Ray cluster. Scripts use both in the same way."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from threading import Thread
from typing import Any, Protocol

from common import cli
from common.errors import InputError


@dataclass(frozen=True)
class EngineOptions:
    """Where the workers are.

    Attributes:
        engine: local or ray.
        ray_address: of a running cluster; None is RAY_ADDRESS, or a cluster started on this machine.
        num_workers: on the cluster; None suits its machines.

    Raises:
        InputError: an address without Ray.
    """

    engine: str = "local"
    ray_address: str | None = None
    num_workers: int | None = None

    def __post_init__(self):
        if self.engine != "ray" and self.ray_address:
            raise InputError("--ray_address: only --engine ray uses it; give both or neither")


class Team(Protocol):
    """Workers that are ready.

    Attributes:
        description: what a worker says about itself; the same for all.
        num_workers: how many there should be.
        num_started: how many there are.
        set_aside: (unit, reason) for each unit that was given up because it kills workers.
    """

    description: Any
    num_workers: int
    num_started: int
    set_aside: list[tuple[Any, str]]

    def run(self, units: Iterable[Any], max_ahead: float = float("inf")) -> Iterator[tuple[int, Any, Any]]:
        """Have the workers do the units; yields (number of the unit, its part not done before this piece, piece)."""

    def status(self) -> str:
        """Text for the end of a progress bar."""


class LocalTeam:
    """One worker, in this process."""

    def __init__(self, worker: Any):
        self._worker, self.description = worker, worker.description
        self.num_workers = self.num_started = 1
        self.set_aside: list[tuple[Any, str]] = []

    def run(self, units: Iterable[Any], max_ahead: float = 0) -> Iterator[tuple[int, Any, Any]]:
        for number, unit in enumerate(units):
            for piece in self._worker(unit):
                yield number, unit, piece

    def status(self) -> str:
        return ""


class ProcessTeam:
    """One worker in each of some processes of this machine; the pieces of a unit come when all of it is done."""

    description = None

    def __init__(self, make: Callable[[], Any], num_workers: int):
        self._make, self.num_workers = make, num_workers
        self.num_started, self.set_aside = num_workers, []

    def run(self, units: Iterable[Any], max_ahead: float = 0) -> Iterator[tuple[int, Any, Any]]:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        with ProcessPoolExecutor(self.num_workers, context, _start, (self._make,)) as pool:
            running = {pool.submit(_pieces, unit): (number, unit) for number, unit in enumerate(units)}
            try:
                for done in as_completed(running):
                    for piece in done.result():
                        yield *running[done], piece
            except BrokenProcessPool:
                raise InputError(
                    "a worker was killed, perhaps for its memory; run again with fewer --num_workers"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def status(self) -> str:
        return ""


def _start(make: Callable[[], Any]) -> None:
    """Make the worker of this process, which ends with its parent. The parent handles Ctrl-C."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _worker = make()


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _pieces(unit: Any) -> list:
    return list(_worker(unit))


@contextmanager
def workers(
    options: EngineOptions,
    make: Callable[[], Any],
    rest_after: Callable[[Any, Any], Any],
    on_gpu: bool,
    processes: bool = False,
) -> Iterator[Team]:
    """The team that the options ask for, started.

    Args:
        make, rest_after, on_gpu: as in `common.workers.ray_team.RayTeam`.
        processes: the engine local takes `num_workers` processes, not one worker in this process.
    Raises:
        InputError: a worker cannot be made, Ray is not installed, or there is no cluster.
    """
    if options.engine == "local" and processes and (options.num_workers or 1) > 1:
        yield ProcessTeam(make, options.num_workers)
        return
    if options.engine == "local":
        yield LocalTeam(make())
        return
    try:
        from common.workers.ray_team import RayTeam  # slow to import, and Ray is optional
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError("--engine ray: Ray is not installed; pip install -r requirements/ray.txt") from None
    with RayTeam(make, rest_after, options.ray_address, options.num_workers, on_gpu, cli.warn) as team:
        yield team
