"""Counts as sparse rows, from memory, a file or the GPU, made dense only on the device that trains."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from r2mae_core import VERIFIED, UserError
from r2mae_singlecell.data.gather import column_type
from r2mae_singlecell.data.memory import available_memory
from r2mae_singlecell.data.sources import Arrays, CountSource, InMemory, Mapped, Sliced, count_source

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
    """Counts of all cells, read row by row wherever they lie, or kept on the GPU.

    Args:
        X: cells × genes, whatever `count_source` takes. What is in memory or mapped is not copied, if it is CSR.

    Raises:
        UserError: what `count_source` refuses.
    """

    def __init__(self, X: Any) -> None:
        self.source: CountSource = count_source(X)
        self.shape: tuple[int, int] = self.source.shape
        self._on_device: tuple[Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes as CSR in memory; estimated for what is not stored so."""
        return self.source.nbytes

    @property
    def csr(self) -> Arrays:
        """The three arrays, in memory or mapped.

        Raises:
            UserError: there are none, because the counts are read block by block.
        """
        if not isinstance(self.source, InMemory):
            raise UserError("these counts are read block by block, so there is no CSR matrix of them")
        return self.source.arrays

    def loaded(self) -> "CountMatrix":
        """Read into memory what has no quick way to single rows."""
        if isinstance(self.source, Sliced):
            self.source = self.source.loaded()
        return self

    def to(self, device: torch.device | str) -> "CountMatrix":
        """Keep columns and counts on the device, if it is a GPU with room for them; otherwise rows are sent there."""
        device = torch.device(device)
        # Both compact arrays lie in memory on their way, so they must fit there too.
        if device.type == "cuda" and isinstance(self.source, InMemory) and self.nbytes < available_memory():
            columns, values = _compact(self.csr)
            if columns.nbytes + values.nbytes < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
                self._on_device = torch.from_numpy(columns).to(device), torch.from_numpy(values).to(device)
        return self

    def rows(self, cells: np.ndarray) -> SparseRows:
        """Return the rows of these cells, (cells,) int and not negative, in that order.

        Raises:
            UserError: a value of a file is no count.
        """
        if self._on_device is not None:
            return self._gathered(cells, *self._on_device)
        return SparseRows(*(torch.from_numpy(part) for part in self.source.rows(cells)))

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

    def digest(self, found: Any) -> None:
        """Add what names the counts to a hash. Of large files, evenly spread rows stand for all of them."""
        if isinstance(self.source, InMemory) and (self.nbytes <= VERIFIED or not isinstance(self.source, Mapped)):
            for part in self.csr[:3]:
                found.update(f"{part.shape} ".encode())
                found.update(np.ascontiguousarray(part))
            return
        n = self.shape[0]
        starts = range(0, n, _PIECE) if self.nbytes <= VERIFIED else np.linspace(0, n - _PIECE, 64).astype(int)
        found.update(f"{self.shape} ".encode())
        for start in starts:
            for part in self.source.rows(np.arange(start, min(start + _PIECE, n))):
                found.update(np.ascontiguousarray(part))


_PIECE = 1024  # rows that are read at a time for a digest


def _compact(csr: Any) -> tuple[np.ndarray, np.ndarray]:
    columns = csr.indices.astype(column_type(csr.shape[1]))
    highest = csr.data.max(initial=0)
    whole = np.issubdtype(csr.data.dtype, np.integer) or bool((csr.data == np.floor(csr.data)).all())
    fitting = next((t for t in (np.uint8, np.int16, np.int32) if whole and highest <= np.iinfo(t).max), np.float32)
    return columns, csr.data.astype(fitting)
