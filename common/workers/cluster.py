"""Work on a Ray cluster: units go to workers as they become free, and again to others when a worker is lost."""

import logging
import os
import pickle
import re
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from common.errors import InputError, one_line
from common.text.tokenization import NUM_THREADS

PROJECT = Path(__file__).resolve().parents[2]
TRIALS = 3  # a unit that kills so many workers is set aside
BEGUN = "begun"
# A worker goes on once the driver has what it yielded, so none ends before the driver knows that it has begun.
STREAMING = {"num_returns": "streaming", "_generator_backpressure_num_objects": 1}
PATIENCE = 60  # seconds until a worker that does not start is spoken of
REASON_CHARS = 200


class _Actor:
    """A process on the cluster that holds a worker. It is sent as it stands here, so nothing here may need the project.

    What `start` is given makes the worker, which called with a unit yields the unit's pieces.
    """

    def start(self, pickled_make: bytes, project: str, folder: str, num_threads: int) -> Any:
        """Make the worker, in the folder that the driver runs in; returns the worker's facts."""
        os.environ["OMP_NUM_THREADS"] = os.environ[NUM_THREADS] = str(num_threads)
        os.chdir(folder)
        sys.path.insert(0, project)
        self._worker = pickle.loads(pickled_make)()
        return self._worker.facts

    def work(self, unit: Any) -> Iterator[Any]:
        yield BEGUN
        yield from self._worker(unit)


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class _Running(NamedTuple):
    actor: Any
    number: int
    left: Any
    begun: bool = False  # only then is the unit to blame for the worker's end


class Cluster:
    """Workers on a Ray cluster. Enter it to start them, leave it to stop them.

    Args:
        make: makes a worker, called in each worker's process. A worker has `facts`, which must be the same in all, and
            is called with a unit to yield its pieces.
        behind: what is left of a unit behind a piece, None for nothing.
        address: of a running cluster; None takes RAY_ADDRESS, or starts one on this machine.
        num_workers: None is one for each GPU of the cluster; where there is none, one for each machine.
        on_gpu: give every worker a GPU of its own, if the cluster has any; otherwise a share of the smallest machine's
            cores.
        on_failure: called with a line on every worker that is lost.

    Attributes:
        facts: what the first worker to start said of itself.
        num_workers: how many there should be.
        num_started: how many there are.
        failures: workers lost so far.
        set_aside: (unit, reason) of what was given up after killing `TRIALS` workers.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        behind: Callable[[Any, Any], Any],
        address: str | None,
        num_workers: int | None,
        on_gpu: bool,
        on_failure: Callable[[str], None] = lambda line: None,
    ):
        self._make, self._behind, self._on_gpu = make, behind, on_gpu
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.num_workers, self.on_failure = num_workers, on_failure
        self.facts, self.failures, self.num_started, self.set_aside = None, 0, 0, []
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0
        self._aside_in_a_row = 0

    def __enter__(self) -> "Cluster":
        self._check_address()
        stopping = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            raise self._not_reached(error) from None
        finally:
            for number, handler in stopping:  # Ray puts its own in their place
                signal.signal(number, handler)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            self._resources, default = self._share(nodes)
            self.num_workers = self.num_workers or default
            for _ in range(self.num_workers):
                self._start()
            while self.facts is None:
                self._wait(PATIENCE)
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(self, *_error) -> None:
        ray.shutdown()

    def _check_address(self) -> None:
        """Raise InputError if nothing listens at `host:port`, for which Ray would look without end."""
        if match := re.fullmatch(r"\[?([^/]+?)]?:([0-9]{1,5})", self._address):
            try:
                socket.create_connection((match[1], int(match[2])), timeout=PATIENCE).close()
            except (OSError, OverflowError) as error:
                raise self._not_reached(error) from None

    def _not_reached(self, error: Exception) -> InputError:
        reason = one_line(str(error))[:REASON_CHARS]
        if self._address == "local":
            return InputError(f"--engine ray: Ray does not start on this machine ({reason})")
        return InputError(
            f"--ray_address {self._address}: no Ray cluster is reached there ({reason}); start one (ray start --head), "
            "set RAY_AUTH_MODE=token if it wants a token, or leave the flag out for one on this machine"
        )

    def _share(self, nodes: list[dict]) -> tuple[dict, int]:
        """What a worker gets, and how many workers there are unless somebody says otherwise."""
        if not nodes:
            raise InputError("the Ray cluster has no machine with a core; add one with `ray start --address …`")
        num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if self._on_gpu and num_gpus:
            return {"num_gpus": 1, "num_cpus": 1}, num_gpus
        per_node = -(-(self.num_workers or len(nodes)) // len(nodes))
        share = min(node["CPU"] for node in nodes) / per_node
        return {"num_cpus": int(share) if share >= 1 else share}, len(nodes)

    def status(self) -> str:
        """What there is to show beside a progress bar."""
        return f", {self.num_started} of {self.num_workers} workers, {self.failures} failures"

    def run(self, units: Iterable[Any], max_ahead: float = float("inf")) -> Iterator[tuple[int, Any, Any]]:
        """Have the workers do the units.

        Args:
            max_ahead: how far beyond the first unit that is not done another may be begun.
        Yields:
            (number of the unit, the unit or what was left of it, piece) as they come; pieces of one unit in order.
        Raises:
            InputError: raised in a worker; or no worker is left; or unit after unit is set aside.
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
                    left = self._behind(left, piece)
                running[stream] = _Running(actor, number, left, begun=True)

    def _start(self) -> None:
        actor = ray.remote(_Actor).options(**self._resources, scheduling_strategy="SPREAD").remote()
        make = ray.cloudpickle.dumps(self._make)
        num_threads = max(1, int(self._resources["num_cpus"]))
        self._starting[actor.start.remote(make, str(PROJECT), str(Path.cwd()), num_threads)] = actor

    def _wait(self, seconds: float, running: Iterable[Any] = ()) -> list[Any]:
        """Wait for something to happen; take new workers in, and return the streams that have something to say."""
        if not (self._starting or self._idle or running):
            raise InputError(f"no worker is left, and {self._failed_starts} could not be started; see the warnings")
        ready, _ = ray.wait([*self._starting, *running], num_returns=1, timeout=seconds, fetch_local=False)
        if not ready and not running:
            self.on_failure(f"no worker has started yet; each needs {self._resources} of the cluster")
        for ref in ready:
            if actor := self._starting.pop(ref, None):
                try:
                    facts = ray.get(ref)
                except RayError as error:
                    self._not_started(actor, error)
                    continue
                if self.facts is not None and facts != self.facts:
                    raise InputError(
                        "two workers loaded different models or tokenizers; every machine needs the same files"
                    )
                self.facts = facts
                self.num_started += 1
                self._idle.append(actor)
        return [ref for ref in ready if ref in running]

    def _not_started(self, actor: Any, error: RayError) -> None:
        """What keeps the first worker from starting ends the run; later, it is that machine's own trouble."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if self.facts is None and isinstance(cause, OSError | ImportError):
            raise InputError(
                f"a worker cannot start: {type(cause).__name__}: {cause}; every machine needs the same project, models "
                "and installed packages, under the same paths"
            )
        if self.facts is None and isinstance(cause, InputError):
            raise cause
        self._lost(actor, error, "a worker did not start")
        self._failed_starts += 1
        if self._failed_starts < TRIALS * self.num_workers:
            self._start()

    def _lost(self, actor: Any, error: RayError, what: str = "a worker was lost") -> str:
        """Count a worker that is no more, and say so; returns why it is."""
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
