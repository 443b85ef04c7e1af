"""The errors that a command turns into a message instead of a traceback."""


class UserError(ValueError):
    """An error that the user can fix: the message says what was wrong, where, and what to do."""


class InterruptedTrainingError(UserError):
    """The user stopped a training; it can be resumed."""


class LostTrainingError(UserError):
    """A training whose loss or weights are not finite. Others of the same kind may go well."""
