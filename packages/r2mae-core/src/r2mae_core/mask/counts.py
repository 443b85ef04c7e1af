"""How many positions a ratio hides: the one rule of all masks."""

from typing import Any


def n_masked(ratio: float, n: int) -> int:
    """Return how many of `n` positions `exact_mask` hides: max(1, round(ratio * n)), and never more than n."""
    return min(max(1, round(ratio * n)), n)


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of a mask.

    Raises:
        ValueError: its rows have no position.
    """
    if len(shape) == 0 or shape[-1] < 1:
        raise ValueError(f"shape must end in at least one position, got {tuple(shape)}")
    return tuple(shape)


def check_fraction(ratio: float) -> None:
    """Refuse a ratio that is not in [0, 1].

    Raises:
        ValueError: it is not.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio!r}")
