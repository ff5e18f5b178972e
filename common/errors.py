"""The exceptions that users see, and text of unknown origin made safe to show."""

from collections.abc import Sequence

MOST_NAMES, NAME_CHARS = 6, 40  # in a message


class InputError(Exception):
    """An error that the user can fix. The message is one line: what is wrong, where, and what to do."""


class BadRow(InputError):
    """A row of a corpus that cannot be used; other rows may be fine."""


def visible(text: str) -> str:
    """`text` with control characters, which could steer a terminal, as escapes; line breaks and tabs stay.

    >>> visible("red: \\x1b[31m")
    'red: \\\\x1b[31m'
    """
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """`text` as a single line without tabs: safe to show, and it cannot break a row of a table."""
    return visible(" ".join(text.split()))


def few(names: Sequence[str]) -> str:
    """The first names, each up to a length, and how many more there are: short enough for a message."""
    shown = ", ".join(repr(name[:NAME_CHARS]) for name in names[:MOST_NAMES])
    return f"{shown} and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else shown
