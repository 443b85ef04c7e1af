"""The one error that a command turns into a message instead of a traceback."""


class UserError(ValueError):
    """An error that the user can fix: the message says what was wrong, where, and what to do."""
