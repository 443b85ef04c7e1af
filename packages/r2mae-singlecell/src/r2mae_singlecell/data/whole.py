"""Counts are whole: blocks of a file checked, rounded where asked, and moved to the columns of the genes wanted."""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from r2mae_singlecell.data.rows import assembled, native

HIGHEST = int(np.iinfo(np.int32).max)
"""Highest count that a prepared file can hold."""
CLOSE = 1e-6
"""Relative deviation from a whole number that is rounding of floating-point numbers, not a fraction."""
FARTHEST = 1e-3
"""Absolute deviation that is a fraction, whatever the number."""
WHOLE, MISSING, NEGATIVE, INFINITE, TOO_HIGH, FRACTION, NEARLY = range(7)
"""What a value can be: a count, none of five kinds, or a count up to rounding."""


@dataclass
class Rounded:
    """How many values of a file were rounded; it is added to while the file is read."""

    close: int = 0
    """Values that were whole up to rounding, such as 0.9999999."""
    fractions: int = 0
    """Values that were truly fractional, such as 0.5."""


def selected(part: Any, columns: np.ndarray, n_columns: int) -> sp.csr_matrix:
    """Return a block with its columns moved; columns that meet are added up, and those in each row are in order.

    Args:
        part: the block.
        columns: (columns of the block,) the new position of each, or -1 for those that are left out.
        n_columns: columns of the result.
    """
    n: int = part.data.size
    data, indices, indptr = np.empty(n, part.data.dtype), np.empty(n, np.int32), np.zeros(part.shape[0] + 1, np.int32)
    in_order = _select(part.data, part.indices, part.indptr, columns, data, indices, indptr)
    moved = assembled(data[: indptr[-1]], indices[: indptr[-1]], indptr, (part.shape[0], n_columns))
    if not in_order:
        moved.has_canonical_format = False
        moved.sum_duplicates()
    return moved


@numba.njit(nogil=True)
def _select(data, indices, indptr, columns, new_data, new_indices, new_indptr):  # noqa: ANN001, ANN202
    at, in_order = 0, True
    for row in range(len(indptr) - 1):
        begin = at
        for i in range(indptr[row], indptr[row + 1]):  # no branch: which genes are kept cannot be predicted
            column = columns[indices[i]]
            new_data[at] = data[i]
            new_indices[at] = column
            at += column >= 0
        new_indptr[row + 1] = at
        for i in range(begin + 1, at):
            if new_indices[i] <= new_indices[i - 1]:
                in_order = False
    return in_order


def whole(values: np.ndarray, rounding: bool) -> tuple[np.ndarray, Rounded, int, int]:
    """Return values as int32, and what was found.

    Args:
        values: native numbers of a block.
        rounding: round what is truly fractional.

    Returns:
        The values; how many were rounded; the position of the first that is no count, or -1; and what is wrong with it:
        `MISSING`, `NEGATIVE`, `INFINITE`, `TOO_HIGH` or `FRACTION`.
    """
    result = np.empty(len(values), np.int32)
    close, fractions, position, what = _whole(values, rounding, result)
    return result, Rounded(close, fractions), position, what


@numba.njit(nogil=True)
def _whole(values, rounding, result):  # noqa: ANN001, ANN202
    close, fractions = 0, 0
    for i in range(len(values)):
        near, what = _judged(float(values[i]))
        if what == NEARLY:
            close += 1
        elif what == FRACTION and rounding:
            fractions += 1
        elif what != WHOLE:
            return close, fractions, i, what
        result[i] = np.int32(near)
    return close, fractions, -1, 0


@numba.njit(nogil=True)
def _judged(value):  # noqa: ANN001, ANN202
    """Return the nearest whole number, and what the value is."""
    near = np.rint(value)
    if not (0.0 <= near <= HIGHEST):
        if np.isnan(value):
            return near, MISSING
        if value < 0:
            return near, NEGATIVE
        return near, INFINITE if np.isinf(value) else TOO_HIGH
    distance = abs(value - near)
    if distance == 0.0:
        return near, WHOLE
    if distance <= min(CLOSE * max(value, 1.0), FARTHEST):
        return near, NEARLY
    return near, NEGATIVE if value < 0 else FRACTION


def first_wrong(values: np.ndarray) -> tuple[int, int]:
    """Return the position of the first value that is no count, or -1, and what it is: see `whole`.

    Args:
        values: (n,) numbers of any type; those that are whole up to rounding are counts.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if not values.size or kind == "b" or (kind == "u" and size < 4):
        return -1, WHOLE
    if kind in "iu" and values.min() >= 0 and values.max() <= HIGHEST:
        return -1, WHOLE
    return _first_wrong(native(values))


@numba.njit(nogil=True)
def _first_wrong(values):  # noqa: ANN001, ANN202
    for i in range(len(values)):
        _, what = _judged(float(values[i]))
        if what != WHOLE and what != NEARLY:
            return i, what
    return -1, WHOLE


def without_zeros(part: sp.csr_matrix) -> sp.csr_matrix:
    """Return a block without stored zeros; the block itself, if it has none."""
    if part.data.size and not part.data.all():
        part.eliminate_zeros()
    return part


def row_totals(part: sp.csr_matrix) -> np.ndarray:
    """Return the total of each row, as float64."""
    return _row_totals(part.data, part.indptr)


@numba.njit(nogil=True)
def _row_totals(data, indptr):  # noqa: ANN001, ANN202
    totals = np.zeros(len(indptr) - 1)
    for row in range(len(totals)):
        total = 0
        for i in range(indptr[row], indptr[row + 1]):
            total += data[i]
        totals[row] = total
    return totals


def add_moments(part: sp.csr_matrix, totals: np.ndarray, sums: np.ndarray, squares: np.ndarray, n: np.ndarray) -> None:
    """Add a block to the sums of each gene's proportions, of their squares, and of the cells that have it.

    Args:
        part: whole counts.
        totals: (cells,) total of each cell; cells without counts add nothing.
        sums: (genes,) changed in place.
        squares: (genes,) changed in place.
        n: (genes,) int64, changed in place.
    """
    _add_moments(part.data, part.indices, part.indptr, totals, sums, squares, n)


@numba.njit(nogil=True)
def _add_moments(data, indices, indptr, totals, sums, squares, n):  # noqa: ANN001, ANN202
    for row in range(len(totals)):
        for i in range(indptr[row], indptr[row + 1]):
            share = data[i] / totals[row]
            sums[indices[i]] += share
            squares[indices[i]] += share * share
            n[indices[i]] += 1


def message(what: int, value: Any) -> str:
    """Return what is wrong with a value."""
    return {
        MISSING: "a missing value (NaN)",
        NEGATIVE: f"a negative value, {value:g}",
        INFINITE: "an infinite value",
        TOO_HIGH: f"{value:g} is more than a count can be, {HIGHEST:,}",
        FRACTION: f"{value:g} is fractional",
    }[what]
