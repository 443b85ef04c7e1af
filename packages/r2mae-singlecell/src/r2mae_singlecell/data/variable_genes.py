"""Scanpy's default choice of variable genes, from moments that are gathered block by block, in one pass.

Scanpy normalises each cell to the median total, which is known only after the last cell. But means and variances of
proportions (counts divided by the cell's total) are those of the normalised counts but for the median and its square.
"""

from typing import Any

import numpy as np
import pandas as pd

from r2mae_singlecell.data.whole import add_moments, row_totals

N_BINS = 20


def normalized_dispersion(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the dispersion of each gene, relative to genes of like mean (scanpy's flavor "seurat").

    Args:
        mean: (genes,) means of the normalised counts.
        variance: (genes,) their unbiased variances.

    Returns:
        (genes,) the higher, the more variable; minus infinity for genes without counts.
    """
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    with np.errstate(divide="ignore"):
        table = pd.DataFrame(
            {"mean": np.log1p(mean), "dispersion": np.log(np.where(dispersion == 0, np.nan, dispersion))}
        )
    groups = table.groupby(pd.cut(table["mean"], bins=N_BINS), observed=True)["dispersion"]
    centre, spread = groups.transform("mean"), groups.transform("std")
    # A gene alone in its bin has no spread: scanpy gives it the dispersion 1.
    alone = spread.isna()
    spread, centre = spread.where(~alone, centre), centre.where(~alone, 0.0)
    return ((table["dispersion"] - centre) / spread).fillna(-np.inf).to_numpy()


class Moments:
    """Sums over cells that the choice of genes needs; blocks are added to it.

    Args:
        n_genes: genes.
    """

    def __init__(self, n_genes: int) -> None:
        self.sums, self.squares = np.zeros(n_genes), np.zeros(n_genes)
        self.nonzero = np.zeros(n_genes, np.int64)
        """(genes,) cells with a count of the gene."""
        self.totals: list[np.ndarray] = []
        self.highest = 0

    def add(self, part: Any) -> None:
        """Add cells: (cells, genes) CSR of whole counts, without zeros."""
        totals = row_totals(part)
        self.totals.append(totals)
        self.highest = max(self.highest, int(part.data.max(initial=0)))
        add_moments(part, totals, self.sums, self.squares, self.nonzero)

    def dispersion(self, n_cells: np.ndarray, target_sum: float | None) -> np.ndarray:
        """Return the normalised dispersion of every gene.

        Args:
            n_cells: (genes,) cells of which the gene's count is known.
            target_sum: total to which cells are normalised; None: the median of the totals that are not 0.
        """
        totals = np.concatenate(self.totals) if self.totals else np.zeros(0)
        aim = float(np.median(totals[totals > 0])) if target_sum is None else target_sum
        n = np.maximum(n_cells, 1)
        mean = self.sums / n * aim
        variance = np.maximum(self.squares / n * aim**2 - mean**2, 0.0) * n / np.maximum(n - 1, 1)
        return normalized_dispersion(mean, variance)
