"""The one error that a command turns into a message instead of a traceback."""


class UserError(ValueError):
    """Something that the user can mend: the message says what was wrong, where, and what to do."""
