"""Where counts lie: in memory, mapped from a file, or behind what gives blocks of rows, such as a chunked file.

All of them are read through `CountSource`, so whatever scvi-tools trains on can be trained on here.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell.checks import remedy
from r2mae_singlecell.data.gather import column_type, gathered_rows
from r2mae_singlecell.data.memory import available_memory, gigabytes
from r2mae_singlecell.data.whole import first_wrong, message

MEMORY_SHARE = 0.5  # share of the available memory that counts may take; the rest is for the network and other programs
_READERS = 8  # threads: a disk answers several requests at once, one at a time it mostly waits
_SAMPLED = 8, 256  # blocks, and rows of each, from which the size of what is not stored as CSR is estimated


class Arrays(NamedTuple):
    """The arrays of a CSR matrix, whose types may differ: a file with 2³¹ values has short columns and long places."""

    indptr: np.ndarray
    """(cells + 1,) where each row begins."""
    indices: np.ndarray
    """(n_nonzero,) columns."""
    data: np.ndarray
    """(n_nonzero,) counts."""
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.data.nbytes + self.indices.nbytes + self.indptr.nbytes

    def matrix(self) -> sp.csr_matrix:
        """Return the same arrays as scipy's matrix, unread: its constructor would read every column to check it."""
        short = np.iinfo(self.indices.dtype).max >= len(self.data)
        matrix: Any = sp.csr_matrix(self.shape, dtype=self.data.dtype)
        matrix.data, matrix.indices = self.data, self.indices
        matrix.indptr = self.indptr.astype(self.indices.dtype, copy=False) if short else self.indptr
        return matrix


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Lengths (cells,), columns (n_nonzero,) and values (n_nonzero,) of rows."""
Span = tuple[int, int]
"""First row, and the row after the last."""


class CountSource(Protocol):
    """Counts, cells × genes, wherever they lie."""

    shape: tuple[int, int]
    gap: int
    """Wanted rows at most so far apart are best read in one piece, with what lies between."""

    @property
    def nbytes(self) -> int:
        """Bytes as CSR in memory, estimated where that is unknown."""
        ...

    def rows(self, cells: np.ndarray) -> Rows:
        """Return the rows of these cells, not negative, in that order."""
        ...

    def read(self, spans: Sequence[Span], buffers: "Buffers") -> Arrays:
        """Return the rows of spans, one after another, in arrays that the next call with these buffers reuses."""
        ...


class Buffers:
    """Memory that is used again, and grows as needed: fresh pages would cost as much as reading them."""

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def get(self, name: str, n: int, dtype: Any) -> np.ndarray:
        """Return (n,) of a type, with whatever it held."""
        kept = self._kept.get(name)
        if kept is None or len(kept) < n or kept.dtype != dtype:
            kept = self._kept[name] = np.empty(n + n // 8, dtype)
        return kept[:n]


class InMemory:
    """Counts in memory as CSR."""

    gap = 1

    def __init__(self, arrays: Arrays) -> None:
        self.arrays, self.shape, self.nbytes = arrays, arrays.shape, arrays.nbytes

    def rows(self, cells: np.ndarray) -> Rows:
        """See `CountSource`."""
        return gathered_rows(cells, self.arrays)

    def read(self, spans: Sequence[Span], buffers: Buffers) -> Arrays:
        """See `CountSource`."""
        lengths, columns, values = self.rows(_rows_of(spans))
        return Arrays(_places(lengths), columns, values, (len(lengths), self.shape[1]))


class Mapped(InMemory):
    """Counts of an h5ad file whose arrays lie in it in one piece: `prepare` writes such files."""

    gap = 8

    def __init__(self, group: Any) -> None:
        parts = [group[name] for name in ("indices", "data")]
        self.file = Path(group.file.filename)
        self._offsets = [part.id.get_offset() for part in parts]
        indices, data = (
            np.memmap(self.file, part.dtype, "r", part.id.get_offset(), part.shape) if part.size else part[:]
            for part in parts
        )
        # The places keep their type: as short as the columns they would wrap around from 2³¹ values on.
        super().__init__(Arrays(group["indptr"][:], indices, data, _shape(group.attrs["shape"])))
        self._descriptor: int | None = None

    @cached_property
    def _fits(self) -> bool:
        """Whether the system's cache can hold most of it, so that a memory map is the quickest way."""
        return self.nbytes <= MEMORY_SHARE * available_memory()

    def rows(self, cells: np.ndarray) -> Rows:
        """See `CountSource`."""
        if self._fits:
            lengths, columns, values = super().rows(cells)
            check_read(lengths, values, cells, self.file)
            return lengths, columns, values
        runs = np.split(cells, np.flatnonzero(np.diff(cells) != 1) + 1) if len(cells) else []
        found = self.read([(int(run[0]), int(run[-1]) + 1) for run in runs], Buffers())
        columns = found.indices.astype(column_type(self.shape[1]), copy=False)
        return np.diff(found.indptr), columns, found.data

    def read(self, spans: Sequence[Span], buffers: Buffers) -> Arrays:
        """Read by `preadv`: a memory map would bring whole read-aheads of pages in, and count as the process's own."""
        if self._descriptor is None:
            self._descriptor = os.open(self.file, os.O_RDONLY)
        indptr = self.arrays.indptr
        bounds = [(int(indptr[start]), int(indptr[stop])) for start, stop in spans]
        n = sum(end - begin for begin, end in bounds)
        found, pieces = [], []
        for name, like, offset in zip(("indices", "data"), self.arrays[1:3], self._offsets, strict=True):
            target, at = buffers.get(name, n, like.dtype), 0
            for begin, end in bounds:
                pieces.append((target[at : at + end - begin], (offset or 0) + begin * like.itemsize))
                at += end - begin
            found.append(target)
        self._read_pieces(pieces)
        lengths = np.concatenate(
            [np.diff(indptr[start : stop + 1]) for start, stop in spans] or [np.zeros(0, np.int64)]
        )
        check_read(lengths, found[1], _rows_of(spans), self.file)
        return Arrays(_places(lengths), found[0], found[1], (len(lengths), self.shape[1]))

    def _read_pieces(self, pieces: Sequence[tuple[np.ndarray, int]]) -> None:
        """Fill each array with what the file holds from a place on, several at a time."""
        assert self._descriptor is not None
        descriptor, shares = self._descriptor, [pieces[k::_READERS] for k in range(min(_READERS, len(pieces)))]

        def fill(share: Sequence[tuple[np.ndarray, int]]) -> None:
            for piece, offset in share:
                _read_fully(descriptor, piece, offset, self.file)

        with ThreadPoolExecutor(_READERS) as readers:
            list(readers.map(fill, shares))

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # pyright: ignore[reportArgumentType]


class Sliced:
    """Counts of anything that gives the rows of a slice: chunked and dense files, zarr, dask, AnnCollection.

    Args:
        X: has `X[start:stop]`, sparse or dense, which may have to be computed.
        shape: cells, genes.
        where: how messages call it.
        nbytes: if known.
    """

    gap = 64  # a chunk that is decompressed has about so many rows, or more

    def __init__(self, X: Any, shape: tuple[int, int], where: Any, nbytes: int | None = None) -> None:
        self.X, self.shape, self.where, self._nbytes = X, shape, where, nbytes

    def block(self, start: int, stop: int) -> Any:
        """Return checked rows as CSR."""
        part = self.X[start:stop]
        part = as_csr(part.compute() if hasattr(part, "compute") else part)
        check_read(np.diff(part.indptr), part.data, np.arange(start, stop), self.where)
        return part

    def rows(self, cells: np.ndarray) -> Rows:
        """See `CountSource`."""
        if not len(cells):
            return np.zeros(0, np.int64), np.zeros(0, column_type(self.shape[1])), np.zeros(0, np.float32)
        if cells.max() >= self.shape[0]:
            raise IndexError(f"there is no row {cells.max()} of {self.shape[0]}")
        wanted, places = np.unique(cells, return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > self.gap) + 1)
        parts: list[Any] = [self.block(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs]
        return gathered_rows(places, sp.vstack(parts, format="csr"))

    def read(self, spans: Sequence[Span], buffers: Buffers) -> Arrays:
        """See `CountSource`."""
        return _as_arrays(sp.vstack([self.block(*span) for span in spans], format="csr"))

    def loaded(self) -> InMemory:
        """Return all of it in memory, read block by block."""
        starts = range(0, self.shape[0], 4096)
        parts = [self.block(start, min(start + 4096, self.shape[0])) for start in starts]
        return InMemory(_as_arrays(sp.vstack(parts, format="csr") if parts else sp.csr_matrix(self.shape)))

    @property
    def nbytes(self) -> int:
        """See `CountSource`."""
        if self._nbytes is None:
            self._nbytes = self._estimated()
        return self._nbytes

    def _estimated(self) -> int:
        n, (blocks, size) = self.shape[0], _SAMPLED
        starts = np.unique(np.linspace(0, max(n - size, 0), blocks).astype(int))
        parts = [self.block(int(start), min(int(start) + size, n)) for start in starts if n]
        seen = sum(part.shape[0] for part in parts)
        return int(sum(_as_arrays(part).nbytes for part in parts) / max(seen, 1) * n)


def count_source(X: Any) -> CountSource:
    """Return what reads a matrix of counts, cells × genes, as AnnData keeps it.

    Args:
        X: a matrix or array in memory, dense or sparse; the X or a layer of an AnnData object in backed mode; a
            `sparse_dataset`; a data set of h5py or zarr; a dask array; a layer of scvi-tools' `CollectionAdapter`.

    Raises:
        UserError: a file stores the counts by genes, and they do not fit into memory.
    """
    if hasattr(X, "collection") and hasattr(X, "key"):  # scvi-tools' stand-in for a layer of an AnnCollection
        return Sliced(X, (len(X.collection), len(X.collection.var_names)), "the collection")
    if hasattr(X, "compute"):
        return Sliced(X, _shape(X.shape), "the dask array")
    if sp.issparse(X) or isinstance(X, np.ndarray):
        return InMemory(_as_arrays(as_csr(X)))
    if hasattr(X, "group"):  # a sparse group of an h5ad file or a zarr store
        return _of_group(X)
    return Sliced(X, _shape(X.shape), _place(X))


def _of_group(X: Any) -> CountSource:
    parts = [X.group[name] for name in ("data", "indices", "indptr")]
    n_values, where = int(parts[0].shape[0]), _place(X.group)
    nbytes = n_values * (parts[0].dtype.itemsize + 4) + 8 * (X.shape[0] + 1)
    if X.format != "csr":
        if 2 * nbytes > available_memory():  # both layouts at once
            raise UserError(
                f"the counts in {where} are stored by genes (CSC), so cells cannot be read from it one by one, and "
                f"{gigabytes(2 * nbytes)} to turn them round do not fit into memory; `r2mae-singlecell prepare` "
                "writes a file by cells"
            )
        arrays = _as_arrays(as_csr(X.to_memory()))
        check_read(np.diff(arrays.indptr), arrays.data, np.arange(arrays.shape[0]), where)
        return InMemory(arrays)
    in_one_piece = hasattr(X.group, "file") and all(
        part.chunks is None and part.dtype.isnative and part.dtype != np.float16 for part in parts[:2]
    )
    if in_one_piece and all(part.id.get_offset() is not None or not part.size for part in parts[:2]):
        return Mapped(X.group)
    return Sliced(X, _shape(X.shape), where, nbytes)


def as_csr(X: Any) -> sp.csr_matrix:
    """Return a matrix in memory as CSR of a type that scipy, numba and torch know: float16 becomes float32."""
    values = X.data if sp.issparse(X) else X
    dtype = np.dtype(np.float32) if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    if values.dtype != dtype:
        X = X.astype(dtype)
    return X.tocsr() if sp.issparse(X) else sp.csr_matrix(np.asarray(X))


def check_read(lengths: np.ndarray, values: np.ndarray, cells: np.ndarray, where: Any) -> None:
    """Refuse values that cannot be counts, as they come from a file.

    Args:
        lengths: (cells,) values of each row.
        values: (n_nonzero,).
        cells: (cells,) the rows' positions in the file.
        where: the file.

    Raises:
        UserError: a value is no count; with the first such cell.
    """
    position, what = first_wrong(values)
    if what:
        cell = cells[np.searchsorted(np.cumsum(lengths), position, side="right")]
        raise UserError(
            f"{where}: {message(what, values[position])} (cell {cell:,}, counted from 0), so it is no count; "
            + remedy(what)
        )


def _shape(shape: Any) -> tuple[int, int]:
    return int(shape[0]), int(shape[1])


def _place(X: Any) -> str:
    """Return what names a group or data set of a file in messages."""
    file = getattr(X, "file", None)  # of h5py
    return str(getattr(file, "filename", None) or getattr(X, "store_path", None) or "the file")


def _as_arrays(csr: Any) -> Arrays:
    return Arrays(csr.indptr, csr.indices, csr.data, _shape(csr.shape))


def _rows_of(spans: Sequence[Span]) -> np.ndarray:
    return np.concatenate([np.arange(start, stop) for start, stop in spans] or [np.zeros(0, np.int64)])


def _places(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _read_fully(descriptor: int, target: np.ndarray, offset: int, file: Path) -> None:
    view = memoryview(target.view(np.uint8))  # pyright: ignore[reportArgumentType]
    while len(view):
        n = os.preadv(descriptor, [view], offset)  # at most 2 GiB a call
        if n == 0:
            raise UserError(f"{file} is cut off: it ends before its counts do; prepare it again")
        view, offset = view[n:], offset + n
