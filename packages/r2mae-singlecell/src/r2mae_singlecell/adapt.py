"""`embed --adapt`: learn the batches of new data that a model does not know (scArches); all else stays as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from r2mae_core import UserError, quiet_lightning, resolve_device
from r2mae_singlecell import options
from r2mae_singlecell.genes import kept_gene_columns
from r2mae_singlecell.new_batches import MEAN, batch_codes, known_batches
from r2mae_singlecell.new_cells import NewCells, new_cells
from r2mae_singlecell.query import MISSING

BATCH_SIZE = 128
"""Cells of an optimizer step; fewer, if there are not as many."""


def adapted(config: options.Embed, scratch: Path, model: Any) -> Any:
    """Return a model that knows the batches of a file: a query training by `R2MAE.load_query_data`, with its defaults.

    Only the cells of batches that are new to it are trained on; their counts are held in memory. The result is a
    function of the model, the data and `config.seed`.

    Args:
        config: the options of `embed`.
        scratch: folder for a temporary file.
        model: the reference.

    Raises:
        UserError: the model has no batches or knows all of the file's, a cell has none, or what `embed` refuses.
    """
    registry: Any = model.registry_
    setup = registry["setup_args"]
    if (key := setup.get("batch_key")) is None:
        raise UserError("--adapt: the model was trained without batches; leave it out")
    with new_cells(_for_reading(config), scratch, model) as cells:
        data = _query(cells, config.batch_column or key, known_batches(registry))
    data.obs[key] = data.obs[config.batch_column or key].astype(str)
    if (labels := setup.get("labels_key")) is not None and labels not in data.obs:
        data.obs[labels] = "unknown"  # they are not used in training
    if (layer := setup.get("layer")) is not None:
        data.layers[layer] = data.X
    device = resolve_device(config.device)
    accelerator = "cpu" if device == "cpu" else "gpu"
    with torch.random.fork_rng(), quiet_lightning():
        torch.manual_seed(config.seed)  # the weights of the new batches
        query = type(model).load_query_data(data, model, accelerator=accelerator)
        query.train(
            max_epochs=config.adapt_epochs,
            batch_size=min(BATCH_SIZE, data.n_obs),
            train_size=1.0,
            shuffle_set_split=False,
            accelerator=accelerator,
            devices=1,
            plan_kwargs={"lr": config.adapt_lr, "seed": config.seed},
            enable_progress_bar=config.progress,
        )
    query.gene_columns_ = kept_gene_columns(model)
    return query


def _for_reading(config: options.Embed) -> Any:
    """Return the options that open the file whatever its batches are."""
    return replace(config, adapt=False, out_model=None, batch=MEAN)


def _query(cells: NewCells, column: str, known: list[str]) -> Any:
    """Return the cells of new batches as AnnData with the model's genes; those that the file lacks are marked.

    Raises:
        UserError: there is no such column, a cell has no batch, or fewer than two cells are of a new one.
    """
    obs: Any = cells.file.obs
    if column not in obs:
        raise UserError(f"--adapt: the data have no column {column!r} of batches; name it with --batch_column")
    if (n := int(obs[column].isna().sum())) > 0:
        first = str(obs.index[obs[column].isna()][0])
        raise UserError(f"--adapt: {n:,} cells have no batch in the column {column!r}, such as {first!r}")
    new = batch_codes(obs[column], known) < 0
    if new.sum() < 2:
        raise UserError(
            f"--adapt: {int(new.sum())} cells are of batches new to the model, by the column {column!r}; two or more "
            "are needed to learn from: leave it out"
        )
    parts = [block[new[start : start + block.shape[0]]] for start, block in cells.blocks()]
    counts = sp.csr_matrix(sp.vstack(parts, format="csr"), dtype=np.float32)
    var = pd.DataFrame(index=pd.Index(cells.genes))
    var[MISSING] = np.isin(np.arange(len(var)), cells.match.missing)
    return anndata.AnnData(counts, obs=obs[new].copy(), var=var)
