"""Clean a user's table, and read it from a file (`files`)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2mae_theory.arguments import check_memory, shown
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import DataError

MIN_SAMPLES = 10
_SMALLEST, _LARGEST = 1e-100, 1e100  # squares of a feature's values must be within double precision


@dataclass(frozen=True)
class Table:
    """A clean numeric table and what was dropped to make it so."""

    X: Floats
    """Samples by features, finite, no constant feature; shape (n, p)."""
    names: tuple[str, ...]
    columns: NDArray[np.intp]
    """Each feature's column in the original table, shape (p,)."""
    notes: tuple[str, ...]
    """One sentence for each kind of loss, with counts and names."""
    width: int
    """How many columns the original table has."""


@dataclass(frozen=True)
class RawTable:
    """A table as a file holds it: its numeric columns."""

    X: ArrayLike
    names: list[str] | None = None
    columns: list[int] | None = None
    """Where the numeric columns are in the file; None: all of them are numeric."""
    width: int | None = None
    notes: list[str] = field(default_factory=list)


def clean(X: ArrayLike | RawTable) -> Table:
    """Drop rows with missing or infinite values and constant features, and note it.

    Features with more than half of their values missing are dropped first, so that they do not cost every row.

    Raises:
        DataError: if fewer than 10 samples or 2 features remain, or the table is not numeric and two-dimensional.
    """
    raw = X if isinstance(X, RawTable) else RawTable(X)
    data = numeric(raw.X)
    labels = [str(k) for k in range(data.shape[1])] if raw.names is None else raw.names
    places = list(range(data.shape[1])) if raw.columns is None else raw.columns
    losses = list(raw.notes)
    kept = np.arange(data.shape[1])

    def drop(bad: NDArray[np.bool_], why: str) -> None:
        nonlocal data, kept
        if bad.any():
            losses.append(f"dropped {bad.sum()} {why}: {some([labels[k] for k in kept[bad]])}")
            data, kept = data[:, ~bad], kept[~bad]

    if len(data):
        drop(np.isfinite(data).mean(axis=0) < 0.5, "features with more than half of their values missing")
    holes = np.logical_not(np.isfinite(data).all(axis=1))
    if holes.any():
        losses.append(f"dropped {holes.sum()} of {len(holes)} rows with missing or infinite values")
        data = data[~holes]
    if len(data) < MIN_SAMPLES:
        raise DataError(f"only {len(data)} complete samples, at least {MIN_SAMPLES} are needed" + because(losses))
    size = np.abs(data).max(axis=0)
    if (odd := (size > _LARGEST) | ((size > 0) & (size < _SMALLEST))).any():
        raise DataError(
            f"features have magnitudes that are not between {_SMALLEST:g} and {_LARGEST:g}: "
            f"{some([f'{labels[k]} ({size[j]:.3g})' for j, k in enumerate(kept) if odd[j]])}; use other units"
        )
    drop(data.std(axis=0) <= 1e-12 * size, "constant features")
    if data.shape[1] < 2:
        raise DataError(f"only {data.shape[1]} usable features, at least 2 are needed" + because(losses))
    columns = np.array([places[k] for k in kept], dtype=np.intp)
    return Table(data, tuple(labels[k] for k in kept), columns, tuple(losses), raw.width or len(labels))


def numeric(X: Any) -> Floats:
    """Return samples by features in double precision; gaps are NaN.

    Raises:
        DataError: for text, complex numbers, dates and anything else that is not a number, and for another shape.
    """
    try:
        raw = np.asarray(X)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:  # ragged lists
        raise DataError(f"the table is not numeric: {' '.join(str(error).split())}") from None
    if raw.dtype.kind == "O" and raw.ndim == 2:
        odd = next((item for item in raw.flat if not (item is None or isinstance(item, int | float | np.number))), None)
        if odd is not None:
            raise DataError(f"the table is not numeric: it holds {shown(odd)}")
    elif raw.dtype.kind not in "biuf":
        raise DataError(f"the table is not numeric: its type is {raw.dtype}")
    if raw.ndim != 2:
        raise DataError(f"expected samples by features, got an array of shape {raw.shape}")
    check_memory(f"a table of {raw.shape[0]} samples × {raw.shape[1]} features", 3.0 * raw.size)
    try:
        with np.errstate(over="ignore"):  # of long double: becomes infinite, which counts as missing
            return np.array(raw, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"the table is not numeric: {' '.join(str(error).split())}") from None


def because(notes: list[str]) -> str:
    """Return notes in brackets for the end of a message."""
    return f" ({'; '.join(notes)})" if notes else ""


def some(names: list[str], limit: int = 5) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")
