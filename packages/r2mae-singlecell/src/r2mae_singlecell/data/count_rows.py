"""Counts whose rows are read as scipy's CSR where they are needed: an evaluation never holds a whole atlas."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_singlecell.data.counts import CountMatrix


class CountRows:
    """Cells × genes of which `counts[cells]` is in memory, and nothing else.

    Args:
        X: what `CountMatrix` takes: sparse or dense counts, or the X of a prepared file in backed mode.
    """

    def __init__(self, X: Any) -> None:
        self._counts = CountMatrix(X)
        self.shape = self._counts.shape

    def __getitem__(self, cells: np.ndarray) -> sp.csr_matrix:
        """Return the rows of these cells, in their order, as (cells, genes) CSR float32."""
        lengths, columns, values = (part.numpy() for part in self._counts.rows(np.asarray(cells)))
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return sp.csr_matrix((values.astype(np.float32), columns.astype(np.int32), indptr), (len(cells), self.shape[1]))
