"""A thread that fetches items before they are needed."""

from collections.abc import Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

READ_AHEAD = 2

T = TypeVar("T")


def read_ahead(items: Iterator[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """The same items, fetched by a thread while the caller works on earlier ones; up to `depth` of them wait.

    The thread is a daemon, so that an iterator that hangs does not keep the program from ending.
    """
    fetched: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
    stopped, end = Event(), object()

    def hand_over(item: T | object | None, error: BaseException | None = None) -> None:
        handed = False
        while not (handed or stopped.is_set()):
            with suppress(Full):
                fetched.put((item, error), timeout=0.5)
                handed = True

    def fetch() -> None:
        try:
            for item in items:
                hand_over(item)
                if stopped.is_set():
                    return
            hand_over(end)
        except BaseException as error:
            hand_over(None, error)

    Thread(target=fetch, daemon=True).start()
    try:
        while True:
            item, error = fetched.get()
            if error:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
