"""Windows of many documents, packed into one row of tokens for each forward pass; nothing is padded."""

from collections.abc import Callable, Hashable, Iterable, Iterator

import numpy as np
import torch

Window = tuple[Hashable, np.ndarray]


class Batch:
    """Some windows behind each other.

    Args:
        windows: (key, one context token and its targets).
        pinned: lay the tensors where a GPU can fetch them while it computes.

    >>> batch = Batch([("a", np.array([5, 6, 7])), ("b", np.array([8, 9]))])
    >>> batch.lengths, batch.input_ids.tolist(), batch.targets.tolist(), batch.positions.tolist()
    ([2, 1], [5, 6, 8], [6, 7, 9], [0, 1, 0])
    """

    def __init__(self, windows: list[Window], pinned: bool = False):
        self.windows, self.pinned = windows, pinned
        self.lengths = [len(window) - 1 for _, window in windows]
        columns = (
            np.concatenate([window[:-1] for _, window in windows]),
            np.concatenate([window[1:] for _, window in windows]),
            np.concatenate([np.arange(length) for length in self.lengths]),
        )
        tensors = (torch.from_numpy(column) for column in columns)
        self.input_ids, self.targets, self.positions = (x.pin_memory() if pinned else x for x in tensors)

    def halves(self) -> tuple["Batch", "Batch"]:
        """The same windows as two batches; there must be two windows at least."""
        middle = len(self.windows) // 2
        return Batch(self.windows[:middle], self.pinned), Batch(self.windows[middle:], self.pinned)


def fill_batches(windows: Iterable[Window], max_tokens: Callable[[], int], pinned: bool) -> Iterator[Batch]:
    """Put successive windows together, up to `max_tokens()` tokens each; a longer window has a batch of its own."""
    taken, num_tokens = [], 0
    for key, window in windows:
        if taken and num_tokens + len(window) - 1 > max_tokens():
            yield Batch(taken, pinned)
            taken, num_tokens = [], 0
        taken.append((key, window))
        num_tokens += len(window) - 1
    if taken:
        yield Batch(taken, pinned)
