"""What can go wrong, each with its own name; a command prints the message instead of a traceback."""

from r2mae_core import UserError


class TheoryError(UserError):
    """Input that the theory, a simulation or the advice cannot use; the message says what and why."""


class DivergentRiskError(TheoryError):
    """The asymptotic risk is infinite: at the interpolation threshold, or for a range that reaches 1 above it."""


class ConvergenceError(TheoryError):
    """The fixed point was not found within the allowed number of evaluations."""


class DataError(TheoryError):
    """A user's data set cannot be read or holds too little."""
