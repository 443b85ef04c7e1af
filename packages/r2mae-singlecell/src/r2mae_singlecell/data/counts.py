"""Counts as sparse rows, from memory, a memory-mapped file or the GPU, made dense only on the device that trains."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from r2mae_core import UserError
from r2mae_singlecell.data.gather import column_type, gathered_rows

GPU_SHARE = 0.5  # share of the free memory that the counts may take; the rest is for the network


class SparseRows(NamedTuple):
    """Rows of a sparse matrix, compact for the transfer to the device."""

    lengths: Tensor
    """(cells,) non-zeros of each row."""
    columns: Tensor
    """(n_nonzero,) the column of each, integer."""
    values: Tensor
    """(n_nonzero,) its count."""

    def to(self, device: torch.device | str) -> "SparseRows":
        """Return the rows on a device."""
        return SparseRows(*(part.to(device, non_blocking=True) for part in self))

    def dense(self, n_genes: int) -> Tensor:
        """Return the rows as (cells, n_genes) float32, on the device where the parts are."""
        n_cells, n_nonzero = len(self.lengths), len(self.columns)
        if self.columns.device.type == "cpu":  # scipy's loop is several times faster than an index_put there
            indptr = np.concatenate([[0], np.cumsum(self.lengths.numpy())])
            parts = (self.values.numpy().astype(np.float32, copy=False), self.columns.numpy(), indptr)
            return torch.from_numpy(sp.csr_matrix(parts, (n_cells, n_genes)).toarray())
        return self._scattered(n_cells, n_genes, n_nonzero)

    def _scattered(self, n_cells: int, n_genes: int, n_nonzero: int) -> Tensor:
        """Make the rows dense on a device; the host knows the sizes, so nothing waits."""
        start = torch.arange(0, n_cells * n_genes, n_genes, device=self.lengths.device)
        places = start.repeat_interleave(self.lengths, output_size=n_nonzero).add_(self.columns)
        x = torch.zeros(n_cells * n_genes, device=places.device)
        return x.index_put_((places,), self.values.float()).view(n_cells, n_genes)


class CountMatrix:
    """Cells × genes in CSR form, from which mini-batches are gathered.

    In memory the user's own arrays are used, without a copy. An uncompressed h5ad file (such as `prepare` writes) is
    memory-mapped. On a GPU the columns and counts are kept in their smallest integer types.

    Args:
        X: scipy sparse matrix, dense array, or the X of an AnnData object in backed mode.

    Raises:
        UserError: the file's counts are compressed, so rows cannot be read one by one.
    """

    def __init__(self, X: Any) -> None:
        self.csr = _as_csr(X)
        self.shape: tuple[int, int] = self.csr.shape
        self._on_device: tuple[Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.csr.data.nbytes + self.csr.indices.nbytes + self.csr.indptr.nbytes

    def to(self, device: torch.device | str) -> "CountMatrix":
        """Keep columns and counts on the device, if it is a GPU with room for them; otherwise rows are sent there."""
        device = torch.device(device)
        if device.type == "cuda":
            columns, values = _compact(self.csr)
            if columns.nbytes + values.nbytes < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
                self._on_device = torch.from_numpy(columns).to(device), torch.from_numpy(values).to(device)
        return self

    def rows(self, cells: np.ndarray) -> SparseRows:
        """Return the rows of these cells, (cells,) int and not negative, in that order."""
        if self._on_device is not None:
            return self._gathered(cells, *self._on_device)
        return SparseRows(*(torch.from_numpy(part) for part in gathered_rows(cells, self.csr)))

    def _gathered(self, cells: np.ndarray, columns: Tensor, values: Tensor) -> SparseRows:
        """Gather on the device; the host knows the sizes, so nothing waits."""
        starts = self.csr.indptr[cells].astype(np.int64)
        ends = np.cumsum(self.csr.indptr[cells + 1] - starts)
        n_nonzero = int(ends[-1])
        lengths = np.diff(ends, prepend=0)
        both = torch.from_numpy(np.stack([lengths, starts - ends + lengths])).to(columns.device, non_blocking=True)
        offsets = both[1].repeat_interleave(both[0], output_size=n_nonzero)
        places = offsets.add_(torch.arange(n_nonzero, device=columns.device))
        return SparseRows(both[0], columns[places], values[places])


def _as_csr(X: Any) -> Any:
    if hasattr(X, "group"):  # anndata in backed mode
        return _memory_mapped(X)
    if sp.issparse(X):
        return X.tocsr()
    if not isinstance(X, np.ndarray):
        X = X[:]  # a dense data set of a file
    return sp.csr_matrix(X)


def _memory_mapped(X: Any) -> sp.csr_matrix:
    """Map the arrays of a sparse group of an h5ad file."""
    parts = [X.group[name] for name in ("data", "indices", "indptr")]
    file = X.group.file.filename
    if X.format != "csr" or any(part.chunks is not None for part in parts[:2]):
        raise UserError(
            f"the counts in {file} are compressed, chunked or stored by genes, so single cells cannot be read from it; "
            "write it with `r2mae-singlecell prepare`, or read it into memory"
        )
    data, indices = (
        np.memmap(file, part.dtype, "r", part.id.get_offset(), part.shape) if part.size else part[:]
        for part in parts[:2]
    )
    matrix = sp.csr_matrix(X.shape, dtype=data.dtype)
    # Not by the constructor, which reads every index to check it.
    matrix.data, matrix.indices, matrix.indptr = data, indices, parts[2][:].astype(indices.dtype, copy=False)
    return matrix


def _compact(csr: Any) -> tuple[np.ndarray, np.ndarray]:
    columns = csr.indices.astype(column_type(csr.shape[1]))
    highest = csr.data.max(initial=0)
    whole = np.issubdtype(csr.data.dtype, np.integer) or bool((csr.data == np.floor(csr.data)).all())
    fitting = next((t for t in (np.uint8, np.int16, np.int32) if whole and highest <= np.iinfo(t).max), np.float32)
    return columns, csr.data.astype(fitting)
