"""Batches: windows of many documents, packed into one row of tokens for each forward pass, without padding."""

from collections.abc import Callable, Hashable, Iterable, Iterator

import numpy as np
import torch

# A document's key with one of its windows, or with all; a window is one context token and its targets.
KeyedWindow = tuple[Hashable, np.ndarray]
KeyedWindows = tuple[Hashable, list[np.ndarray]]


class Batch:
    """Windows, one after another.

    Args:
        windows: each with the key of its document.
        pinned: put the tensors into memory from which a GPU can copy while it computes.
        ends_document: whether the last window is its document's last.

    >>> batch = Batch([("a", np.array([5, 6, 7])), ("b", np.array([8, 9]))])
    >>> batch.lengths, batch.input_ids.tolist(), batch.targets.tolist(), batch.positions.tolist()
    ([2, 1], [5, 6, 8], [6, 7, 9], [0, 1, 0])
    >>> batch.edges  # where windows begin and the last one ends
    tensor([0, 2, 3], dtype=torch.int32)
    """

    def __init__(self, windows: list[KeyedWindow], pinned: bool = False, ends_document: bool = True):
        self.windows, self.pinned, self.ends_document = windows, pinned, ends_document
        self.lengths = [len(window) - 1 for _, window in windows]
        columns = (
            np.concatenate([window[:-1] for _, window in windows]),
            np.concatenate([window[1:] for _, window in windows]),
            np.concatenate([np.arange(length) for length in self.lengths]),
            np.cumsum([0, *self.lengths], dtype=np.int32),
        )
        tensors = (torch.from_numpy(column) for column in columns)
        self.input_ids, self.targets, self.positions, self.edges = (x.pin_memory() if pinned else x for x in tensors)

    def halves(self) -> tuple["Batch", "Batch"]:
        """The same windows as two batches; needs at least two windows."""
        middle = len(self.windows) // 2
        return (
            Batch(self.windows[:middle], self.pinned, ends_document=False),
            Batch(self.windows[middle:], self.pinned, self.ends_document),
        )


def fill_batches(documents: Iterable[KeyedWindows], max_tokens: Callable[[], int], pinned: bool) -> Iterator[Batch]:
    """Put successive documents together, up to `max_tokens()` tokens in a batch.

    A longer document has its own batches, and a longer window its own batch. So each batch, except inside such a long
    document, ends where a document ends, and a run that starts there fills the same batches as an uninterrupted one.
    """
    taken, num_tokens = [], 0
    for key, windows in documents:
        length = sum(len(window) - 1 for window in windows)
        if taken and num_tokens + length > max_tokens():
            yield Batch(taken, pinned)
            taken, num_tokens = [], 0
        if length > max_tokens():
            yield from _batches_of_one(key, windows, max_tokens, pinned)
        else:
            taken += [(key, window) for window in windows]
            num_tokens += length
    if taken:
        yield Batch(taken, pinned)


def _batches_of_one(key: Hashable, windows: list[np.ndarray], max_tokens, pinned: bool) -> Iterator[Batch]:
    taken, num_tokens = [], 0
    for window in windows:
        if taken and num_tokens + len(window) - 1 > max_tokens():
            yield Batch(taken, pinned, ends_document=False)
            taken, num_tokens = [], 0
        taken.append((key, window))
        num_tokens += len(window) - 1
    yield Batch(taken, pinned)
