"""`impute`: every gene predicted from those not hidden with it, also genes that the data lack; block by block."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from r2mae_core import UserError, atomic_path, one_writer, say
from r2mae_singlecell import options
from r2mae_singlecell.data.stores import new_h5, table_bytes, write_adata
from r2mae_singlecell.embedding import new_array, output, write_about
from r2mae_singlecell.genes import kept_gene_columns
from r2mae_singlecell.imputation import _folds
from r2mae_singlecell.new_cells import NewCells, in_order, new_cells, say_notes


def impute(config: options.Impute, model: Any = None) -> Path:
    """Write the imputed expression of every cell as h5ad and return its path. Memory is bounded by a block of cells.

    Args:
        config: the options; run and data may stand in either order.
        model: in place of that of `config.run`.

    Raises:
        UserError: what `embed` refuses, or a gene is unknown to the model.
    """
    import anndata

    config = config if model is not None else in_order(config)
    path = output(config, "impute", ".h5ad", model)
    with one_writer(path, folder=False), new_cells(config, path.parent, model) as cells:
        wanted = gene_positions(cells, config.genes)
        obs, shape = cells.file.obs, (len(cells), len(wanted))
        with (
            atomic_path(path) as temporary,
            new_h5(temporary, 4 * shape[0] * shape[1] + table_bytes(obs), path) as file,
        ):
            write_adata(file, anndata.AnnData(obs=obs, var=gene_table(cells).iloc[wanted]))
            if "X" in file:
                del file["X"]  # an empty one
            rows = new_array(file, "X", shape)
            for part, expression in imputed(cells, config, wanted):
                rows[part] = expression
            write_about(file, cells)
        say_notes(cells)
    return path


def impute_command(config: options.Impute) -> None:
    """Run `r2mae-singlecell impute`."""
    say(f"Done: {impute(config)} (X, obs, var)")


@torch.inference_mode()
def imputed(cells: NewCells, config: options.Impute, wanted: np.ndarray) -> Any:
    """Yield which cells, and their expression, (cells, wanted) float32: no value is computed from its own count."""
    model: Any = cells.model
    folds = [torch.from_numpy(wanted)] if config.genes else _folds(model.module.n_input, config.mask_ratio, config.seed)
    total = config.library_size
    for part, tensors in cells.batches():
        row = np.empty((part.stop - part.start, model.module.n_input), dtype=np.float32)
        for fold in folds:
            row[:, fold] = model._decoded(tensors, fold, None, total)[:, fold]
        yield part, row[:, wanted]


def gene_positions(cells: NewCells, names: tuple[str, ...]) -> np.ndarray:
    """Return the positions of genes among the model's, by their name or in a column that names them; all, if none.

    Raises:
        UserError: the model does not know a gene, or knows several of that name.
    """
    if not names:
        return np.arange(len(cells.genes))
    found = []
    for name in names:
        for column in (cells.genes, *kept_gene_columns(cells.model).values()):
            there = [i for i, known in enumerate(column) if known == name]
            if len(there) > 1:
                raise UserError(f"--genes: the model has {len(there)} genes called {name!r}; name one by its id")
            if there:
                found.append(there[0])
                break
        else:
            raise UserError(f"--genes: the model does not know {name!r}; it names genes like {cells.genes[0]!r}")
    return np.array(found)


def gene_table(cells: NewCells) -> pd.DataFrame:
    """Return the model's genes as a table, with their other names and whether the data have them."""
    table = pd.DataFrame(kept_gene_columns(cells.model), index=pd.Index(cells.genes))
    table["measured"] = ~np.isin(np.arange(len(table)), cells.match.missing)
    return table
