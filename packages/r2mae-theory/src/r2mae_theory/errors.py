"""What can go wrong, each with its own name, all of them `ValueError`s."""


class TheoryError(ValueError):
    """Input that the theory, a simulation or the advice cannot use; the message says what and why."""


class DivergentRiskError(TheoryError):
    """The asymptotic risk is infinite: at the interpolation threshold, or for a range that reaches 1 above it."""


class ConvergenceError(TheoryError):
    """The fixed point was not found within the allowed number of evaluations."""


class DataError(TheoryError):
    """A user's data set cannot be read or has too little in it."""
