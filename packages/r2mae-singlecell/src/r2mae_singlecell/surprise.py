"""`surprise`: how unlikely each cell's and each gene's counts are, given the genes not hidden with them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from r2mae_core import atomic_path, one_writer, say
from r2mae_singlecell import options
from r2mae_singlecell.data.stores import new_h5, table_bytes, write_adata
from r2mae_singlecell.embedding import output, write_about
from r2mae_singlecell.imputation import _folds
from r2mae_singlecell.impute import gene_table
from r2mae_singlecell.likelihood import negative_binomial_nll
from r2mae_singlecell.new_cells import NewCells, in_order, new_cells, say_notes

COLUMN = "masked_nll"


def surprise(config: options.Surprise, model: Any = None) -> Path:
    """Write the negative log-likelihood of every cell and every gene, and return the path.

    Genes that the data lack are left out of both: nothing is known of their counts. Memory is bounded by a block.

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


@torch.inference_mode()
def masked_nll(cells: NewCells, mask_ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the genes of each cell, (cells,), and over the cells of each gene, (genes,).

    Every gene that the data have is hidden once. Those that they lack are hidden always; for a gene that is never
    measured the result is NaN.
    """
    module = cells.model.module
    missing = torch.from_numpy(cells.match.missing).long()
    present = torch.ones(module.n_input, dtype=torch.bool)
    present[missing] = False
    folds = [fold[present[fold]] for fold in _folds(module.n_input, mask_ratio, seed)]
    of_cells, of_genes = np.empty(len(cells)), np.zeros(module.n_input)
    for part, tensors in cells.batches():
        total = torch.zeros(part.stop - part.start, dtype=torch.float64)
        for fold in folds:
            nll = hidden_nll(module, tensors, fold, present).double().cpu()
            total += nll.sum(1)
            of_genes[fold] += nll.sum(0).numpy()
        of_cells[part] = (total / int(present.sum())).numpy()
    of_genes[~present.numpy()] = np.nan
    return of_cells, of_genes / len(cells)


def hidden_nll(module: Any, tensors: dict[str, Tensor], fold: Tensor, present: Tensor) -> Tensor:
    """Return the negative log-likelihood of hidden genes, (cells, fold).

    The library size was counted from the genes that the data have, so the means of those sum to it; where none is
    missing, this is the module's own loss.
    """
    fold, here = fold.to(module.device), present.to(module.device)
    x = tensors[REGISTRY_KEYS.X_KEY]
    logits, _, log_library = module._decoded(tensors, x.index_fill(1, fold, 0.0))
    log_total = logits.masked_fill(~here, -torch.inf).logsumexp(1, keepdim=True)
    log_mu = logits.index_select(1, fold) - log_total + log_library
    return negative_binomial_nll(log_mu, module.log_theta[fold], x.index_select(1, fold))
