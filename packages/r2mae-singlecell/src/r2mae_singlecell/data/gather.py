"""Rows of a CSR matrix, copied by a compiled loop: no public way of scipy, numpy or torch is as fast for a mini-batch.

The loop is compiled when it is first used, once per process and types of arrays, in about a second.
"""

import numba
import numpy as np


def gathered_rows(
    cells: np.ndarray, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lengths, columns and values of these rows of a CSR matrix, as copies in memory.

    Args:
        cells: (cells,) rows, not negative.
        indptr: (n_rows + 1,) where each row starts.
        indices: (n_nonzero,) columns; may be memory-mapped.
        data: (n_nonzero,) values; may be memory-mapped.

    Raises:
        IndexError: there is no such row.
    """
    starts = indptr[cells]
    lengths = indptr[cells + 1] - starts
    return lengths, _copied(indices, starts, lengths), _copied(data, starts, lengths)


def _copied(part: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    target = np.empty(int(lengths.sum(dtype=np.int64)), part.dtype)
    _copy(np.asarray(part), starts, lengths, target)  # asarray: a memory map as the plain array that numba knows
    return target


@numba.njit
def _copy(part, starts, lengths, target):  # noqa: ANN001, ANN202
    end = 0
    for row in range(len(starts)):
        begin, end = end, end + lengths[row]
        there, here = part[starts[row] : starts[row] + lengths[row]], target[begin:end]
        for i in range(len(here)):  # not here[:] = there, which numba does not vectorise
            here[i] = there[i]
