"""Rows of a CSR matrix, copied by a compiled loop: no public way of scipy, numpy or torch is as fast for a mini-batch.

The loop is compiled when it is first used, once per process and types of arrays, in about a second.
"""

from typing import Any

import numba
import numpy as np


def gathered_rows(cells: np.ndarray, csr: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lengths, columns and values of rows of a CSR matrix, as copies in memory.

    Args:
        cells: (cells,) rows, not negative.
        csr: the matrix, or its `Arrays`, which may be memory-mapped.

    Returns:
        (cells,); (n_nonzero,) in the smallest type that holds every column, as less memory is written and sent to a
        device that way; (n_nonzero,) in the matrix's type.

    Raises:
        IndexError: there is no such row.
    """
    starts = csr.indptr[cells]
    lengths = csr.indptr[cells + 1] - starts
    columns = _copied(csr.indices, starts, lengths, column_type(csr.shape[1]))
    return lengths, columns, _copied(csr.data, starts, lengths, csr.data.dtype)


def column_type(n_columns: int) -> type[np.signedinteger]:
    """Return int16 if it holds every column, else int32."""
    return np.int16 if n_columns - 1 <= np.iinfo(np.int16).max else np.int32


def _copied(part: np.ndarray, starts: np.ndarray, lengths: np.ndarray, dtype: Any) -> np.ndarray:
    target = np.empty(int(lengths.sum(dtype=np.int64)), dtype)
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
