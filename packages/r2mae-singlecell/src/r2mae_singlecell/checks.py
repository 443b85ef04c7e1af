"""Checks of the data before a model sees them: what is refused, and what is only warned about."""

import logging
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError

logger = logging.getLogger(__name__)


def check_counts(adata: Any, layer: str | None) -> None:
    """Refuse counts that cannot be counts; scvi-tools itself warns of fractional ones.

    Args:
        adata: the data.
        layer: key of `adata.layers`, or None for `adata.X`. Data in backed mode is not read here: `prepare` checks it.

    Raises:
        UserError: the layer is missing, a count is negative or NaN, or a gene's name appears twice.
    """
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if layer is not None and layer not in adata.layers:
        known = [key for key in adata.layers if key is not None]
        raise UserError(f"{where} does not exist; layers: {known or 'none'}")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise UserError(
            f"{len(twice)} gene names appear more than once in adata.var_names, such as {twice[0]!r}; "
            "call adata.var_names_make_unique() first"
        )
    X = adata.X if layer is None else adata.layers[layer]
    if sp.issparse(X) or isinstance(X, np.ndarray):
        check_matrix(X, where)


def check_matrix(X: Any, where: str) -> None:
    """Refuse negative counts and NaN, and warn of empty cells.

    Raises:
        UserError: a count is negative or NaN.
    """
    values = X.data if sp.issparse(X) else X
    if values.size and not values.min() >= 0:  # NaN fails the comparison
        n_bad = int((~(values >= 0)).sum())
        raise UserError(
            f"{where} has {n_bad:,} negative or missing values, so it does not hold counts; give the layer with raw "
            "counts (setup_anndata(adata, layer=...)): scaled or normalised data cannot be used"
        )
    n_empty = int((np.asarray(X.sum(axis=1)).ravel() == 0).sum())
    if n_empty:
        warnings.warn(
            f"{n_empty:,} cells of {where} have no counts; their library size is taken as 1 and their embedding is "
            "meaningless. scanpy.pp.filter_cells(adata, min_counts=1) removes them.",
            UserWarning,
            stacklevel=4,
        )
    n_silent = int((np.asarray(X.sum(axis=0)).ravel() == 0).sum())
    if n_silent:
        logger.info("%d genes of %s have no counts in any cell.", n_silent, where)


def check_genes(adata: Any, names: Any) -> None:
    """Refuse data whose genes are not the model's, in its order.

    Raises:
        UserError: genes are missing, surplus or in another order.
    """
    if len(adata.var_names) == len(names) and (np.asarray(adata.var_names) == np.asarray(names)).all():
        return
    missing, surplus = len(set(names) - set(adata.var_names)), len(set(adata.var_names) - set(names))
    what = f"{missing:,} are missing and {surplus:,} are unknown to it" if missing or surplus else "the order differs"
    raise UserError(
        f"the genes are not those of the model: {what}; call R2MAE.prepare_query_anndata(adata, model), which sorts "
        "them and treats missing genes as hidden"
    )
