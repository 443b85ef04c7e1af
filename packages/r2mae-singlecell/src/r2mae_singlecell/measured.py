"""Which genes were measured in which cells; counts that nobody has seen are in no mean."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from r2mae_singlecell.data.prepared import missing_genes
from r2mae_singlecell.data.splitter import FILE, file_rows, lacking_genes
from r2mae_singlecell.query import MISSING


@dataclass(frozen=True)
class Measured:
    """Of a model's genes, (files, genes) bool, and the row of each cell."""

    table: Tensor
    rows: Tensor | None = None
    """(cells,) int64; None: each batch says its own, or all are of the first row."""

    def of(self, tensors: dict[str, Tensor], cells: slice | None = None) -> Tensor:
        """Return what was measured in the cells of a batch: (genes,) bool if the same in all, else (cells, genes)."""
        if len(self.table) == 1:
            return self.table[0]
        if self.rows is not None and cells is not None:
            return self.table[self.rows[cells]]
        return self.table[tensors[FILE].flatten().cpu()]

    def in_cells(self, cells: np.ndarray) -> np.ndarray:
        """Return what was measured in cells at these positions of the data, (cells, genes) bool."""
        if self.rows is None:
            return np.broadcast_to(self.table[0].numpy(), (len(cells), self.table.shape[1]))
        return self.table[self.rows[torch.from_numpy(np.asarray(cells))]].numpy()

    def everywhere(self, cells: np.ndarray) -> np.ndarray:
        """Return what was measured in each of these cells, (genes,) bool."""
        rows = [0] if self.rows is None else np.unique(self.rows.numpy()[cells])
        return self.table[rows].all(0).numpy()

    def left_out(self, cells: np.ndarray) -> str:
        """Say how many genes were not measured in how many of these cells; "": every gene was in all."""
        rows = np.zeros(len(cells), int) if self.rows is None else self.rows.numpy()[cells]
        n_lacked = (~self.table).sum(1).numpy()
        concerned = n_lacked[rows] > 0
        if not concerned.any():
            return ""
        lowest, highest = n_lacked[rows][concerned].min(), n_lacked[rows][concerned].max()
        genes = f"{highest:,}" if lowest == highest else f"{lowest:,} to {highest:,}"
        return (
            f"{int(concerned.sum()):,} of {len(cells):,} cells come from files that lack {genes} of "
            f"{self.table.shape[1]:,} genes: these are left out of what is computed for the cells"
        )


def measured_in_data(data: Any, missing: np.ndarray | None, n_genes: int) -> Measured:
    """Return what was measured in data that have the model's genes.

    Args:
        data: AnnData, prepared of several files or by `prepare_query_anndata` or neither.
        missing: positions of genes that a query lacks, where `data` do not mark them.
        n_genes: of the model.
    """
    present = torch.ones(n_genes, dtype=torch.bool)
    if MISSING in getattr(data, "var", ()):
        present[torch.from_numpy(np.flatnonzero(data.var[MISSING].to_numpy(dtype=bool)))] = False
    elif missing is not None:
        present[torch.from_numpy(missing)] = False
    lacking = lacking_genes(data)
    return Measured(present[None]) if lacking is None else Measured(present & ~lacking, file_rows(data))


def measured_in_file(adata: Any, var: Any, columns: np.ndarray, missing: np.ndarray, n_genes: int) -> Measured:
    """Return what was measured in a file whose genes were matched with the model's.

    Args:
        adata: the file if it is a prepared one, else None.
        var: its table of genes.
        columns: (genes of the file,) the position of each in the model, or -1.
        missing: positions in the model that the file has not.
        n_genes: of the model.
    """
    present = torch.ones(n_genes, dtype=torch.bool)
    present[torch.from_numpy(np.asarray(missing)).long()] = False
    if MISSING in var:
        marked = columns[var[MISSING].to_numpy(dtype=bool)]
        present[torch.from_numpy(marked[marked >= 0]).long()] = False
    if adata is None or not (lacks := missing_genes(adata)):
        return Measured(present[None])
    table = present.repeat(1 + len(lacks), 1)
    for row, positions in enumerate(lacks.values(), 1):
        there = columns[positions]
        table[row, torch.from_numpy(there[there >= 0]).long()] = False
    return Measured(table, file_rows(adata))


@torch.inference_mode()
def mean_nll(
    module: Any, batches: Iterable[tuple[dict[str, Tensor], Tensor]], folds: list[Tensor], measured: Measured
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean negative log-likelihood of hidden counts, of each cell and of each gene, float64.

    Every gene is hidden once; those that a cell's file lacks are hidden always, and are in no mean.

    Args:
        module: the network, in evaluation mode.
        batches: tensors, and what was measured in their cells.
        folds: positions of the genes that are hidden together.
        measured: of all cells.

    Returns:
        (cells,) over the measured genes, and (genes,) over the cells in which it was measured; NaN where there is none.
    """
    anywhere = measured.table.any(0)
    folds = [found for fold in folds if len(found := fold[anywhere[fold]])]
    cells, of_genes = [], np.zeros(module.n_input)
    n_of_genes = np.zeros(module.n_input, dtype=np.int64)
    for tensors, here in batches:
        present = here.to(module.device)
        tensors = {**tensors, REGISTRY_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY] * present}
        known = None if bool(here.all()) else present
        n_cells = len(tensors[REGISTRY_KEYS.X_KEY])
        there = here.expand(n_cells, -1)
        total = torch.zeros(n_cells, dtype=torch.float64)
        for fold in folds:
            nll = module.hidden_nll(tensors, fold.to(module.device), known).double().cpu()
            nll = nll.where(there[:, fold], 0.0)
            total += nll.sum(1)
            of_genes[fold] += nll.sum(0).numpy()
        cells.append((total / there.sum(1)).numpy())
        n_of_genes += there.sum(0).numpy()
    with np.errstate(invalid="ignore"):
        return np.concatenate(cells), of_genes / n_of_genes
