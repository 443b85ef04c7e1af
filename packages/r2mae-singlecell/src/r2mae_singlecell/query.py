"""New data for a trained model: other genes, other batches."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.model.base import ArchesMixin

from r2mae_singlecell.checks import check_gene_names, check_genes
from r2mae_singlecell.frozen import freezing
from r2mae_singlecell.saved import check_saved

logger = logging.getLogger(__name__)
MISSING = "r2mae_missing"
"""Column of a query's `var`: marks genes that the reference has and the query lacks."""


class QueryMixin(ArchesMixin):
    """Methods of `R2MAE` that map a query to a reference."""

    missing_genes_: np.ndarray | None
    is_query_: bool
    query_options_: dict[str, bool] | None

    @classmethod
    def prepare_query_anndata(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        adata: AnnData,
        reference_model: Any,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Give a query the reference's genes in its order. Missing genes are treated as hidden ones.

        A missing gene is a column of zeros, which is what a hidden gene is in training: the model was trained for it.
        `adata.var["r2mae_missing"]` marks them, and training on the query leaves them out of the loss.

        Args:
            adata: the query.
            reference_model: a model, or the folder of a saved one.
            return_reference_var_names: return only the reference's genes.
            inplace: change `adata`, or return a new one.

        Raises:
            UserError: what `load` refuses of a saved model, or genes of one name.
        """
        reference_model = _checked(reference_model)
        if adata is not None:
            check_gene_names(adata)
        names: Any = super().prepare_query_anndata(adata, reference_model, return_reference_var_names=True)
        if return_reference_var_names:
            return names
        present = names.isin(adata.var_names)
        prepared: Any = super().prepare_query_anndata(adata, reference_model, inplace=inplace)
        target = adata if inplace else prepared
        target.var[MISSING] = ~present
        if n_missing := int((~present).sum()):
            logger.info("%d of %d genes are missing in the query and treated as hidden.", n_missing, len(names))
        return prepared

    @classmethod
    def load_query_data(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, adata: Any = None, reference_model: Any = None, **kwargs: Any
    ) -> Any:
        """Return a copy of the reference that can be trained on a query with new batches (scArches).

        It trains without weight decay: Adam would move the frozen weights by it, at full speed.

        Args:
            adata: the query, after `prepare_query_anndata`.
            reference_model: a model, or the folder of a saved one.
            **kwargs: scvi-tools' options of what is frozen.

        Raises:
            UserError: the genes are not the reference's, or what `load` refuses of a saved model.
        """
        reference_model = _checked(reference_model)
        if adata is not None and reference_model is not None:
            check_gene_names(adata)
            names = super().prepare_query_anndata(adata, reference_model, return_reference_var_names=True)
            check_genes(adata, names)
        model = super().load_query_data(adata, reference_model, **kwargs)  # pyright: ignore[reportArgumentType]
        model.query_options_ = freezing(kwargs)
        model.is_query_ = not model.query_options_["unfrozen"]
        lacks = None if adata is None or MISSING not in adata.var else np.flatnonzero(adata.var[MISSING].to_numpy())
        model.missing_genes_ = lacks  # not those that an earlier query lacked
        return model


def _checked(reference: Any) -> Any:
    """Return a model, or the folder of a saved one as scvi-tools takes it, checked before it is read."""
    if not isinstance(reference, str | Path):
        return reference
    check_saved(reference)
    return str(reference)
