"""Real counts without a download: the blood cells that scanpy ships, turned back into integers."""

import warnings
from importlib import resources
from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError

# scanpy (BSD-3-Clause) ships 700 of the 68,579 peripheral blood mononuclear cells of Zheng et al. 2017 (10x Genomics,
# CC BY 4.0) with 765 genes: scaled values in X, log1p of counts per 10,000 in raw.X, and the totals in obs["n_counts"].
_FILE = ("scanpy.datasets", "10x_pbmc68k_reduced.h5ad")


def load_pbmc() -> Any:
    """Return the 700 blood cells as AnnData with integer counts (CSR, float32) in X and `cell_type` in `obs`.

    The counts are exact: n_counts · expm1(raw.X) / 10,000 deviates from whole numbers by at most 0.08.

    Raises:
        UserError: the installed scanpy no longer ships the file, or ships another one.
    """
    import anndata

    file = resources.files(_FILE[0]) / _FILE[1]
    if not file.is_file():
        raise UserError(f"this scanpy does not ship {_FILE[1]}; install one that does, such as scanpy 1.11")
    with resources.as_file(file) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is in an old form of h5ad
        source: Any = anndata.read_h5ad(path)
    raw = source.raw.X.toarray() if sp.issparse(source.raw.X) else np.asarray(source.raw.X)
    counts = np.expm1(raw) * source.obs["n_counts"].to_numpy()[:, None] / 1e4
    whole = counts.round()
    if np.abs(counts - whole).max() > 0.1:
        raise UserError(f"{_FILE[1]} of this scanpy does not hold log-normalised counts; install scanpy 1.11")
    adata: Any = anndata.AnnData(sp.csr_matrix(whole.astype(np.float32)))
    adata.obs_names, adata.var_names = source.obs_names, source.raw.var_names
    adata.obs["cell_type"] = source.obs["bulk_labels"].astype("category").cat.remove_unused_categories()
    return adata
