"""Scanpy's default choice of variable genes, from moments that can be gathered block by block."""

import numpy as np
import pandas as pd

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
