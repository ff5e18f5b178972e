"""The one exception that users see."""


class InputError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and what to do."""
