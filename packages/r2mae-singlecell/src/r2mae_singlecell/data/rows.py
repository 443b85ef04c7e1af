"""Rows of a matrix in somebody's file, as they lie there: by cells (CSR), by genes (CSC), dense, or in memory.

All give the same: scipy CSR of some rows, in native numbers that scipy can add up. A block holds at most `VALUES`.
"""

import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from r2mae_core import check_space, reserve

VALUES = 2**24
"""Values that are read at a time at most, unless one row holds more."""


class Rows(Protocol):
    """Rows that can be read in order, block by block."""

    shape: tuple[int, int]

    def end(self, start: int, block: int) -> int:
        """Return the end of a block of at most `block` rows that begins at `start` and fits the memory."""
        ...

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return the rows; their values may be anything that the file holds."""
        ...


def native(values: np.ndarray) -> np.ndarray:
    """Return numbers in one of int32, int64, uint64, float32 and float64, in this machine's byte order; else as is.

    scipy cannot add up float16, and numbers of another byte order are mistaken by compiled code.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        return values.astype(np.float32 if size <= 4 else np.float64, copy=False)
    if kind in "bi" or (kind == "u" and size < 8):
        return values.astype(np.int32 if size < 4 or (kind == "i" and size == 4) else np.int64, copy=False)
    return values.astype(np.uint64, copy=False) if kind == "u" else values


class SparseRows:
    """CSR arrays, in a file or in memory.

    Args:
        data: (n,) values; anything that can be sliced.
        indices: (n,) columns.
        indptr: (rows + 1,) where the rows begin.
        shape: rows and columns.

    Raises:
        ValueError: the arrays do not fit together.
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.data, self.indices, self.shape = data, indices, shape
        self.indptr = checked_indptr(indptr, shape[0], int(data.shape[0]), int(indices.shape[0]))

    def end(self, start: int, block: int) -> int:
        """Return the end of a block of at most `block` rows that begins at `start` and fits the memory."""
        full = int(np.searchsorted(self.indptr, self.indptr[start] + VALUES, side="right")) - 1
        return min(start + block, max(full, start + 1), self.shape[0])

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return the rows."""
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        indices = checked_indices(np.asarray(self.indices[low:high]), self.shape[1])
        return assembled(
            native(np.asarray(self.data[low:high])),
            indices,
            self.indptr[start : stop + 1] - low,
            (stop - start, self.shape[1]),
        )


class DenseRows:
    """A dense matrix in a file or in memory.

    Args:
        matrix: anything with a shape whose rows can be sliced.
        by_genes: it is genes × cells, as in a loom file.
    """

    def __init__(self, matrix: Any, *, by_genes: bool = False) -> None:
        n_rows, n_columns = (int(n) for n in matrix.shape)
        self.matrix, self.by_genes = matrix, by_genes
        self.shape: tuple[int, int] = (n_columns, n_rows) if by_genes else (n_rows, n_columns)

    def end(self, start: int, block: int) -> int:
        """Return the end of a block of at most `block` rows that begins at `start` and fits the memory."""
        return min(start + max(1, min(block, VALUES // max(self.shape[1], 1))), self.shape[0])

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return the rows."""
        part = np.asarray(self.matrix[:, start:stop].T if self.by_genes else self.matrix[start:stop])
        return sp.csr_matrix(native(part))


class TransposedRows:
    """The rows of a matrix that is stored by columns (CSC), sorted once into a scratch file.

    The columns are read in pieces; each value goes to the bucket of its row's block, and a bucket becomes rows when it
    is read. So memory is bounded, and each value is written once.

    Args:
        data: (n,) values.
        indices: (n,) rows.
        indptr: (columns + 1,) where the columns begin.
        shape: rows and columns.
        scratch: an existing folder for the scratch file, which is gone when the rows are closed.

    Raises:
        ValueError: the arrays do not fit together.
        UserError: there is not enough space for the scratch file.
    """

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int], scratch: Path) -> None:
        self.shape = shape
        starts = checked_indptr(indptr, shape[1], int(data.shape[0]), int(indices.shape[0]))
        lengths = np.zeros(shape[0], np.int64)
        for low in range(0, int(indices.shape[0]), VALUES):
            part = checked_indices(np.asarray(indices[low : low + VALUES]), shape[0])
            lengths += np.bincount(part, minlength=shape[0])
        self._ends = np.concatenate([[0], np.cumsum(lengths)])
        self._bounds = self._buckets()
        value_type = native(np.zeros(0, data.dtype)).dtype
        n_bytes = int(self._ends[-1]) * (8 + value_type.itemsize)
        check_space(scratch, n_bytes, "sorting counts that are stored by genes")
        self._folder = tempfile.TemporaryDirectory(prefix=".r2mae-by-cells-", dir=scratch)
        self._parts = [self._mapped(name, dtype) for name, dtype in (("r", "i4"), ("c", "i4"), ("v", value_type))]
        self._fill(data, indices, starts)

    def _buckets(self) -> np.ndarray:
        """Return where blocks of at most `VALUES` values and 2^14 rows begin, and the end."""
        bounds = [0]
        while bounds[-1] < self.shape[0]:
            full = int(np.searchsorted(self._ends, self._ends[bounds[-1]] + VALUES, side="right")) - 1
            bounds.append(min(bounds[-1] + 2**14, max(full, bounds[-1] + 1), self.shape[0]))
        return np.array(bounds)

    def _mapped(self, name: str, dtype: Any) -> Any:
        file, n = Path(self._folder.name) / name, int(self._ends[-1])
        if not n:
            return np.zeros(0, dtype)
        reserve(file, n * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+", shape=(n,))

    def _fill(self, data: Any, indices: Any, starts: np.ndarray) -> None:
        at = self._ends[self._bounds[:-1]].copy()
        for low in range(0, int(indices.shape[0]), VALUES // 4):
            high = min(low + VALUES // 4, int(indices.shape[0]))
            rows = np.asarray(indices[low:high]).astype(np.int64, copy=False)
            columns = np.searchsorted(starts, np.arange(low, high), side="right") - 1
            bucket = np.searchsorted(self._bounds, rows, side="right") - 1
            order = np.argsort(bucket, kind="stable")
            cuts = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=len(at)))])
            sorted_parts = rows[order], columns[order], native(np.asarray(data[low:high]))[order]
            for b in np.flatnonzero(np.diff(cuts)):
                n = cuts[b + 1] - cuts[b]
                for target, part in zip(self._parts, sorted_parts, strict=True):
                    target[at[b] : at[b] + n] = part[cuts[b] : cuts[b + 1]]
                at[b] += n

    def end(self, start: int, block: int) -> int:
        """Return the end of a block of at most `block` rows that begins at `start` and fits the memory."""
        return min(start + block, int(self._bounds[np.searchsorted(self._bounds, start, side="right")]))

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return the rows."""
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = int(np.searchsorted(self._bounds, stop, side="left"))
        low, high = int(self._ends[self._bounds[first]]), int(self._ends[self._bounds[last]])
        rows, columns, values = (np.array(part[low:high]) for part in self._parts)
        inside = (rows >= start) & (rows < stop)
        rows, columns, values = rows[inside] - start, columns[inside], values[inside]
        order = np.argsort(rows, kind="stable")  # columns of a row stay in order
        indptr = self._ends[start : stop + 1] - self._ends[start]
        return assembled(values[order], columns[order], indptr, (stop - start, self.shape[1]))

    def close(self) -> None:
        """Remove the scratch file."""
        self._parts = []
        self._folder.cleanup()


def assembled(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Return a CSR matrix of checked arrays, which scipy's constructor would read once more."""
    matrix = sp.csr_matrix(shape, dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, np.asarray(indptr, np.int32)
    return matrix


def checked_indptr(indptr: Any, n: int, n_data: int, n_indices: int) -> np.ndarray:
    """Return where rows begin, as int64.

    Raises:
        ValueError: it does not belong to a matrix of n rows with so many values.
    """
    found = np.asarray(indptr[:]).astype(np.int64)
    if len(found) != n + 1 or found[0] != 0 or (np.diff(found) < 0).any():
        raise ValueError(f"the beginnings of its {n:,} rows are out of order")
    if not found[-1] == n_data == n_indices:
        raise ValueError(f"it holds {n_data:,} values and {n_indices:,} places, not {found[-1]:,}")
    return found


def checked_indices(indices: np.ndarray, n: int) -> np.ndarray:
    """Return columns as int32.

    Raises:
        ValueError: there is no such column.
    """
    if indices.size and not (indices.min() >= 0 and indices.max() < n):
        raise ValueError(f"a value lies at the place {indices.max()}, {indices.min()}, outside 0 … {n - 1}")
    return indices.astype(np.int32, copy=False)
