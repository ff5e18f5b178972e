"""Workers on a Ray cluster: units go to free workers, and again to others if a worker is lost."""

import logging
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from common.errors import InputError, one_line

PROJECT = Path(__file__).resolve().parents[2]
TRIALS = 3  # a unit that kills this many workers is set aside
BEGUN = "begun"
# A worker waits until the driver has each item, so the driver sees BEGUN before the worker can end.
STREAMING = {"num_returns": "streaming", "_generator_backpressure_num_objects": 1}
PATIENCE = 60  # seconds until a warning about a worker that does not start
REASON_CHARS = 200
# The longest TMPDIR in which Ray can start: the path of a socket has at most 107 bytes, and Ray adds up to 68.
TMPDIR_BYTES = 39


class _Actor:
    """A process on the cluster that holds a worker. Ray sends this class by value, so it must not import the project.

    `start` makes the worker; the worker, called with a unit, yields the unit's pieces.
    """

    def start(self, pickled_make: bytes, project: str, folder: str, num_threads: int) -> Any:
        """Make the worker, in the driver's current folder; returns the worker's description."""
        os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(num_threads)
        os.chdir(folder)
        sys.path.insert(0, project)
        self._worker = pickle.loads(pickled_make)()
        return self._worker.description

    def work(self, unit: Any) -> Iterator[Any]:
        yield BEGUN
        yield from self._worker(unit)


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class _Running(NamedTuple):
    actor: Any
    number: int
    left: Any
    begun: bool = False  # only a unit that has begun counts as the cause of a lost worker


class RayTeam:
    """A `common.workers.team.Team` on a Ray cluster. Enter it to start the workers, leave it to stop them.

    Args:
        make: makes a worker, in the worker's process. A worker has a `description`, which must be the same for all, and
            yields the pieces of a unit when it is called with the unit.
        rest_after: called with a unit and a piece; returns the part of the unit after the piece, None if there is none.
        address: of a running cluster; None is RAY_ADDRESS, or a new cluster on this machine.
        num_workers: None is one for each GPU of the cluster; without GPUs, one for each machine.
        on_gpu: give each worker its own GPU if the cluster has any; otherwise a worker gets a share of the cores of the
            smallest machine.
        on_failure: called with a line about each worker that is lost.

    Attributes:
        failures: workers lost so far.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        rest_after: Callable[[Any, Any], Any],
        address: str | None,
        num_workers: int | None,
        on_gpu: bool,
        on_failure: Callable[[str], None] = lambda line: None,
    ):
        self._make, self._rest_after, self._on_gpu = make, rest_after, on_gpu
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._from_environment = not address
        self.num_workers, self.on_failure = num_workers, on_failure
        self.description, self.failures, self.num_started, self.set_aside = None, 0, 0, []
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0
        self._aside_in_a_row = 0

    def __enter__(self) -> "RayTeam":
        self._check_address()
        self._folder = self._short_folder()
        stopping = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            ray.init(
                address=self._address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=self._folder and f"{self._folder.name}/ray",  # open to all; the folder around it is not
            )
        except (OSError, ValueError, RuntimeError, RayError) as error:
            self._stop()
            raise self._not_reached(error) from None
        finally:
            for number, handler in stopping:  # Ray replaces them
                signal.signal(number, handler)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            self._resources, default = self._share(nodes)
            self.num_workers = self.num_workers or default
            for _ in range(self.num_workers):
                self._start()
            while self.description is None:
                self._wait(PATIENCE)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_error) -> None:
        self._stop()

    def _stop(self) -> None:
        ray.shutdown()
        if self._folder:
            self._folder.cleanup()

    def _short_folder(self) -> tempfile.TemporaryDirectory | None:
        """A private folder for a new cluster if TMPDIR, where Ray puts its own, is too long for sockets."""
        usual = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", ""))
        if self._address != "local" or len(os.fsencode(usual)) <= TMPDIR_BYTES:
            return None
        return tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)

    def _check_address(self) -> None:
        """Raise InputError if nothing listens at `host:port`; Ray itself would wait without end."""
        if match := re.fullmatch(r"\[?([^/]+?)]?:([0-9]{1,5})", self._address):
            try:
                socket.create_connection((match[1], int(match[2])), timeout=PATIENCE).close()
            except (OSError, OverflowError) as error:
                raise self._not_reached(error) from None

    def _not_reached(self, error: Exception) -> InputError:
        reason = one_line(str(error))[:REASON_CHARS]
        if self._address == "local":
            return InputError(f"--engine ray: Ray does not start on this machine ({reason})")
        source, without = f"--ray_address {self._address}", "leave the flag out"
        if self._from_environment:
            source, without = f"RAY_ADDRESS={self._address}", "unset RAY_ADDRESS"
        return InputError(
            f"{source}: no Ray cluster is reached there ({reason}); start one (ray start --head), set "
            f"RAY_AUTH_MODE=token if it wants a token, or {without} for one on this machine"
        )

    def _share(self, nodes: list[dict]) -> tuple[dict, int]:
        """The resources of a worker, and the default number of workers."""
        if not nodes:
            raise InputError("the Ray cluster has no machine with a core; add one with `ray start --address …`")
        num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if self._on_gpu and num_gpus:
            return {"num_gpus": 1, "num_cpus": 1}, num_gpus
        per_node = -(-(self.num_workers or len(nodes)) // len(nodes))
        share = min(node["CPU"] for node in nodes) / per_node
        return {"num_cpus": int(share) if share >= 1 else share}, len(nodes)

    def status(self) -> str:
        return f", {self.num_started} of {self.num_workers} workers, {self.failures} failures"

    def run(self, units: Iterable[Any], max_ahead: float = float("inf")) -> Iterator[tuple[int, Any, Any]]:
        """Have the workers do the units.

        Args:
            max_ahead: how many units after the oldest unfinished one may be started.
        Yields:
            (number of the unit, the rest of the unit, piece) as pieces arrive; the pieces of one unit are in order.
        Raises:
            InputError: a worker raised it; or no worker is left; or too many units in a row are set aside.
        """
        fresh, again, failed = enumerate(units), deque(), Counter()
        running: dict[Any, _Running] = {}
        exhausted, following = False, 0
        while True:
            while self._idle and (again or not exhausted):
                oldest = min([run.number for run in running.values()] + [number for number, _ in again], default=None)
                if again:
                    number, unit = again.popleft()
                elif oldest is not None and following - oldest >= max_ahead:
                    break
                elif (item := next(fresh, None)) is None:
                    exhausted = True
                    break
                else:
                    number, unit = item
                    following = number + 1
                actor = self._idle.pop()
                running[actor.work.options(**STREAMING).remote(unit)] = _Running(actor, number, unit)
            if not running and not again and exhausted:
                return
            for stream in self._wait(PATIENCE, running):
                actor, number, left, begun = running.pop(stream)
                try:
                    piece = ray.get(next(stream))
                except StopIteration:
                    self._idle.append(actor)
                    continue
                except RayError as error:
                    if isinstance(error, RayTaskError) and isinstance(error.cause, InputError):
                        raise error.cause from None
                    self.num_started -= 1
                    reason = self._lost(actor, error)
                    self._start()
                    failed[number] += begun
                    if left is not None and failed[number] == TRIALS:
                        self._set_aside(left, reason)
                    elif left is not None:
                        again.append((number, left))
                    continue
                if piece != BEGUN:
                    self._aside_in_a_row = 0
                    yield number, left, piece
                    left = self._rest_after(left, piece)
                running[stream] = _Running(actor, number, left, begun=True)

    def _start(self) -> None:
        actor = ray.remote(_Actor).options(**self._resources, scheduling_strategy="SPREAD").remote()
        make = ray.cloudpickle.dumps(self._make)
        num_threads = max(1, int(self._resources["num_cpus"]))
        self._starting[actor.start.remote(make, str(PROJECT), str(Path.cwd()), num_threads)] = actor

    def _wait(self, seconds: float, running: Iterable[Any] = ()) -> list[Any]:
        """Wait for an event; add workers that have started, and return the streams that have a piece."""
        if not (self._starting or self._idle or running):
            raise InputError(f"no worker is left, and {self._failed_starts} could not be started; see the warnings")
        ready, _ = ray.wait([*self._starting, *running], num_returns=1, timeout=seconds, fetch_local=False)
        if not ready and not running:
            self.on_failure(f"no worker has started yet; each needs {self._resources} of the cluster")
        for ref in ready:
            if actor := self._starting.pop(ref, None):
                try:
                    description = ray.get(ref)
                except RayError as error:
                    self._not_started(actor, error)
                    continue
                if self.description is not None and description != self.description:
                    raise InputError(
                        "two workers loaded different models or tokenizers; every machine needs the same files"
                    )
                self.description = description
                self.num_started += 1
                self._idle.append(actor)
        return [ref for ref in ready if ref in running]

    def _not_started(self, actor: Any, error: RayError) -> None:
        """End the run if the first worker does not start; if a later one does not, only warn."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if self.description is None and isinstance(cause, OSError | ImportError):
            raise InputError(
                f"a worker cannot start: {type(cause).__name__}: {cause}; every machine needs the same project, models "
                "and installed packages, under the same paths"
            )
        if self.description is None and isinstance(cause, InputError):
            raise cause
        self._lost(actor, error, "a worker did not start")
        self._failed_starts += 1
        if self._failed_starts < TRIALS * self.num_workers:
            self._start()

    def _lost(self, actor: Any, error: RayError, what: str = "a worker was lost") -> str:
        """Count and report a worker that is gone; returns the reason."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        reason = one_line(f"{type(cause).__name__}: {str(cause).rpartition('Worker exit detail: ')[2]}")[:REASON_CHARS]
        self.failures += 1
        self.on_failure(f"{what} ({reason})")
        ray.kill(actor)
        return reason

    def _set_aside(self, unit: Any, reason: str) -> None:
        self.set_aside.append((unit, reason))
        self._aside_in_a_row += 1
        if self._aside_in_a_row > TRIALS + self.num_workers:
            raise InputError(f"{self._aside_in_a_row} units in a row killed {TRIALS} workers each; the last: {reason}")
