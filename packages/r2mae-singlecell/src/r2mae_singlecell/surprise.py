"""`surprise`: how unlikely each cell's and each gene's counts are, given the genes not hidden with them."""

from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import atomic_path, one_writer, say
from r2mae_singlecell import options
from r2mae_singlecell.data.stores import new_h5, table_bytes, write_adata
from r2mae_singlecell.embedding import output, write_about
from r2mae_singlecell.imputation import _folds
from r2mae_singlecell.impute import gene_table
from r2mae_singlecell.measured import mean_nll
from r2mae_singlecell.new_cells import NewCells, in_order, new_cells, say_notes

COLUMN = "masked_nll"


def surprise(config: options.Surprise, model: Any = None) -> Path:
    """Write the negative log-likelihood of every cell and every gene, and return the path.

    Genes that the data, or the file of a cell, lack are left out of both: nothing is known of their counts. Memory is
    bounded by a block.

    Args:
        config: the options; run and data may stand in either order.
        model: in place of that of `config.run`.

    Raises:
        UserError: what `embed` refuses.
    """
    import anndata

    config = config if model is not None else in_order(config)
    path = output(config, "surprise", ".h5ad", model)
    with one_writer(path, folder=False), new_cells(config, path.parent, model) as cells:
        obs, var = cells.file.obs.copy(), gene_table(cells)
        obs[COLUMN], var[COLUMN] = masked_nll(cells, config.mask_ratio, config.seed)
        with atomic_path(path) as temporary:
            if path.suffix == ".tsv":
                table = obs if config.table == "cells" else var
                table[[COLUMN]].to_csv(temporary, sep="\t", index_label=config.table.removesuffix("s"))
            else:
                with new_h5(temporary, table_bytes(obs) + table_bytes(var), path) as file:
                    write_adata(file, anndata.AnnData(obs=obs, var=var))
                    write_about(file, cells)
        say_notes(cells)
    return path


def surprise_command(config: options.Surprise) -> None:
    """Run `r2mae-singlecell surprise`."""
    say(f"Done: {surprise(config)} ({COLUMN})")


def masked_nll(cells: NewCells, mask_ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the genes of each cell, and over the cells of each gene; see `mean_nll`."""
    folds = _folds(cells.model.module.n_input, mask_ratio, seed)
    batches = ((tensors, cells.measured.of(tensors, part)) for part, tensors in cells.batches())
    return mean_nll(cells.model.module, batches, folds, cells.measured)
