"""Windows of many documents, packed into one row of tokens for each forward pass; nothing is padded."""

from collections.abc import Callable, Hashable, Iterable, Iterator

import numpy as np
import torch

Window = tuple[Hashable, np.ndarray]
# A key of its own, and its windows: each one context token and its targets.
Document = tuple[Hashable, list[np.ndarray]]


class Batch:
    """Some windows behind each other.

    Args:
        windows: (key of the document, one context token and its targets).
        pinned: lay the tensors where a GPU can fetch them while it computes.
        ends_document: whether the last window is its document's last.

    >>> batch = Batch([("a", np.array([5, 6, 7])), ("b", np.array([8, 9]))])
    >>> batch.lengths, batch.input_ids.tolist(), batch.targets.tolist(), batch.positions.tolist()
    ([2, 1], [5, 6, 8], [6, 7, 9], [0, 1, 0])
    """

    def __init__(self, windows: list[Window], pinned: bool = False, ends_document: bool = True):
        self.windows, self.pinned, self.ends_document = windows, pinned, ends_document
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
        return (
            Batch(self.windows[:middle], self.pinned, ends_document=False),
            Batch(self.windows[middle:], self.pinned, self.ends_document),
        )


def fill_batches(documents: Iterable[Document], max_tokens: Callable[[], int], pinned: bool) -> Iterator[Batch]:
    """Put successive documents together, up to `max_tokens()` tokens in a batch.

    A longer document has batches of its own, and a longer window one for itself. So every batch but those inside such
    a document ends where a document ends, and a run that starts there fills the same batches as one that came by.
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
