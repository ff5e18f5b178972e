"""The exceptions that users see."""


class InputError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and what to do."""


class BadRow(InputError):
    """A single row of a corpus that cannot be used; the others can."""
