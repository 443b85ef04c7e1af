"""What an argument may be. Each check returns the value as the code needs it, or says which argument is wrong and how.

Risks are products of several arguments, up to third powers of Σ times squares of β. So that none of them overflows or
is lost, a magnitude must be 0 or lie between 1e-50 and 1e50. Nothing is excluded by that: the risk over the null risk
is the same in other units.
"""

import math
import os
import reprlib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError

SMALLEST, LARGEST = 1e-50, 1e50
MAX_SAMPLES = 10**15
"""Above it the differences between sample sizes approach the rounding of double precision."""
_MAX_SEED = 2**63 - 1
_MAX_FEATURES = 10**7


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within the bounds (`least` and `most` belong to the range, `above` and `below` do not).

    Raises:
        TheoryError: for anything else, text and truth values included.
    """
    found = _scalar(value)
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    fits = (
        found is not None
        and (least is None or found >= least)
        and (above is None or found > above)
        and (most is None or found <= most)
        and (below is None or found < below)
    )
    if found is None or not fits:
        raise TheoryError(f"{name} must be a finite number{f' {wanted}' if wanted else ''}, got {shown(value)}")
    _check_size(name, abs(found))
    return found


def shown(value: Any) -> str:
    """Return a value as a message shows it: on one line, and short."""
    return " ".join(reprlib.repr(value).split())


def _scalar(value: Any) -> float | None:
    """Return a finite number as a float; None for anything else."""
    value = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return found if math.isfinite(found) else None


def whole(name: str, value: Any, least: int = 0, most: int = MAX_SAMPLES) -> int:
    """Return a whole number from `least` to `most`.

    Raises:
        TheoryError: for anything else, text, truth values and numbers such as 3.0 included.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise TheoryError(f"{name} must be a whole number from {least} to {most}, got {shown(value)}")
    return int(value)


def features(p: Any) -> int:
    """Return a number of features."""
    return whole("the number of features p", p, 1, _MAX_FEATURES)


def seed_number(value: Any, name: str = "seed") -> int:
    """Return a seed."""
    return whole(name, value, 0, _MAX_SEED)


def flag(name: str, value: Any) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool | np.bool_):
        raise TheoryError(f"{name} must be true or false, got {shown(value)}")
    return bool(value)


def generator(value: Any) -> np.random.Generator:
    """Return a numpy generator."""
    if not isinstance(value, np.random.Generator):
        raise TheoryError(f"rng must be a numpy generator (numpy.random.default_rng), got {shown(value)}")
    return value


def sequence(name: str, value: Any) -> list[Any]:
    """Return the items of a list, a tuple or an array; at least one.

    Raises:
        TheoryError: for text, for a single value, and if there is no item.
    """
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable) or np.ndim(_shaped(value)) == 0:
        raise TheoryError(f"{name} must be a list, got {shown(value)}")
    items = list(value)
    if not items:
        raise TheoryError(f"{name} must not be empty")
    return items


def _shaped(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else (0,)


def array(name: str, value: Any, *shape: int | None, sized: bool = True) -> Floats:
    """Return numbers as an array of double precision.

    Args:
        name: what the message calls it.
        value: an array, or nested lists of numbers.
        shape: the length of each dimension; None leaves it free. Nothing at all leaves the whole shape free.
        sized: whether the largest magnitude must be within the limits of this module.

    Raises:
        TheoryError: for text, truth values, complex numbers, gaps, another shape, and NaN or infinite entries.
    """
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:  # ragged lists
        raise TheoryError(f"{name} must be an array of numbers: {' '.join(str(error).split())}") from None
    if raw.dtype.kind not in "iuf":
        raise TheoryError(f"{name} must be an array of numbers, got {shown(value)}")
    fits = len(raw.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, raw.shape, strict=False)
    )
    if (shape and not fits) or not raw.size:
        wanted = f"({', '.join('any' if n is None else str(n) for n in shape)})" if shape else "any but an empty one"
        raise TheoryError(f"{name} has shape {raw.shape}, wanted {wanted}")
    with np.errstate(over="ignore"):  # from long double
        found = raw.astype(np.float64, copy=False)
    if not np.isfinite(found).all():
        raise TheoryError(f"{name} has NaN or infinite entries")
    if sized:
        _check_size(name, float(np.abs(found).max()))
    return found


def _check_size(name: str, size: float) -> None:
    if size and not SMALLEST <= size <= LARGEST:
        raise TheoryError(
            f"{name} has a magnitude of {size:.3g}, which is not between {SMALLEST:g} and {LARGEST:g}; use other units"
        )


def check_memory(what: str, n_numbers: float) -> None:
    """Refuse what this machine's memory cannot hold, before it is asked for.

    Args:
        what: what needs the memory, such as "a covariance of p = 100000 features".
        n_numbers: how many numbers of double precision it needs at the same time.

    Raises:
        TheoryError: if there is less.
    """
    needed, there = 8 * n_numbers, _memory()
    if needed > there:
        raise TheoryError(
            f"{what} needs about {needed / 2**30:,.1f} GiB of memory, and this machine has {there / 2**30:,.1f} GiB"
        )


def check_vectors(p: int) -> None:
    """Refuse more features than the memory can hold vectors of: a few are in use at the same time."""
    check_memory(f"p = {p} features", 10.0 * p)


def _memory() -> float:
    """Return the bytes of memory of this machine; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows, or a system without these names
        return math.inf


def finite(what: str, *values: Any) -> None:
    """Refuse a result that double precision cannot hold.

    Raises:
        TheoryError: if a value is NaN or infinite.
    """
    if not all(np.isfinite(value).all() for value in values):
        raise TheoryError(f"{what} cannot be computed in double precision for these arguments: they differ too much")
