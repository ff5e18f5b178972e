"""Who does the units of work: this process, or workers on a Ray cluster; both look the same to the scripts."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common import cli
from common.errors import InputError


@dataclass(frozen=True)
class EngineOptions:
    """What users can say about it.

    Attributes:
        engine: local or ray.
        ray_address: of a running cluster, None for RAY_ADDRESS or one of our own on this machine.
        num_workers: on the cluster; None suits its machines.
    """

    engine: str
    ray_address: str | None
    num_workers: int | None


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """--engine and --ray_address; a script has its own --num_workers."""
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="local is this process; ray is many, on one machine or a cluster (requirements/ray.txt)",
    )
    parser.add_argument(
        "--ray_address", help="a running cluster's host:port, or auto (default: RAY_ADDRESS, or one started here)"
    )


def engine_options(args: argparse.Namespace) -> EngineOptions:
    """What `add_engine_flags` read, and --num_workers."""
    if args.engine != "ray" and args.ray_address:
        raise InputError("--ray_address: only --engine ray uses it; give both or neither")
    return EngineOptions(args.engine, args.ray_address, args.num_workers)


class Here:
    """One worker, in this process. Looks like `common.workers.cluster.Cluster`, which says what is what."""

    num_workers, num_started, set_aside = 1, 1, ()

    def __init__(self, worker: Any):
        self._worker, self.facts = worker, worker.facts

    def run(self, units: Iterable[Any], max_ahead: float = 0) -> Iterator[tuple[int, Any, Any]]:
        """Do the units one by one; yields (number, unit, piece)."""
        for number, unit in enumerate(units):
            for piece in self._worker(unit):
                yield number, unit, piece

    def status(self) -> str:
        """What there is to show beside a progress bar: nothing."""
        return ""


@contextmanager
def workers(
    options: EngineOptions, make: Callable[[], Any], behind: Callable[[Any, Any], Any], on_gpu: bool
) -> Iterator[Any]:
    """The workers that the options ask for, started.

    Args:
        make, behind, on_gpu: as of `common.workers.cluster.Cluster`.
    Raises:
        InputError: a worker cannot be made, or there is no Ray or no cluster.
    """
    if options.engine == "local":
        yield Here(make())
        return
    try:
        from common.workers.cluster import Cluster  # slow, and not everybody has it
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError("--engine ray: Ray is not installed; pip install -r requirements/ray.txt") from None
    with Cluster(make, behind, options.ray_address, options.num_workers, on_gpu, cli.warn) as cluster:
        yield cluster
