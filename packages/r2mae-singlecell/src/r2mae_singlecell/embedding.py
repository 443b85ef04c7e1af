"""`embed`: the embedding of the cells of any file, written as it is computed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2mae_core import UserError, atomic_path, check_output, default_run_path, one_writer, say
from r2mae_singlecell import options
from r2mae_singlecell.data.stores import new_h5, table_bytes, write_adata
from r2mae_singlecell.new_cells import NewCells, in_order, load_model, new_cells, say_notes

KEY = "X_r2mae"


def embed(config: options.Embed, model: Any = None) -> Path:
    """Write the embedding of every cell as h5ad and return its path. Memory is bounded by a block of cells.

    Args:
        config: the options; run and data may stand in either order.
        model: in place of that of `config.run`.

    Raises:
        UserError: the folder holds no finished model, too few of its genes are found, a batch is unknown, a value is no
            count; the file is there already, is an input, or does not fit on the disk.
    """
    import anndata

    config = config if model is not None else in_order(config)
    path = output(config, "embed", ".h5ad", model)
    if config.out_model is not None:
        model = learn_batches(config, Path(config.out_model), path.parent, model)
    with one_writer(path, folder=False), new_cells(config, path.parent, model) as cells:
        obs, shape = cells.file.obs, (len(cells), cells.model.module.n_latent)
        n_bytes = 4 * shape[0] * shape[1] + table_bytes(obs)
        with atomic_path(path) as temporary, new_h5(temporary, n_bytes, path) as file:
            write_adata(file, anndata.AnnData(obs=obs))
            rows = new_array(file["obsm"], KEY, shape)
            for part, z in latents(cells):
                rows[part] = z
            write_about(file, cells)
        say_notes(cells)
    return path


def learn_batches(config: options.Embed, folder: Path, scratch: Path, model: Any) -> Any:
    """Return the model with the batches of the data learned, after writing it.

    Raises:
        UserError: what `adapted` refuses, or the folder is there already.
    """
    from r2mae_singlecell.adapt import adapted

    check_output(folder, [config.data, config.run if model is None else None])
    if folder.exists():
        raise UserError(f"--out_model {folder} is there already; name another folder")
    query = adapted(config, scratch, model or load_model(config.run, config.device))
    say(f"Adapted model: {query.export(folder)}")
    return query


def output(config: options.NewData, command: str, suffix: str, model: Any) -> Path:
    """Return the file that a command writes, after a check.

    Raises:
        UserError: it is there already, or is an input.
    """
    path = getattr(config, "out", None) or default_run_path("r2mae-singlecell", command).with_suffix(suffix)
    check_output(path, [config.data, config.run if model is None else None], overwrite=config.overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def embed_command(config: options.Embed) -> None:
    """Run `r2mae-singlecell embed`."""
    say(f"Done: {embed(config)} (obs, obsm['{KEY}'])")


ABOUT = "r2mae_new_data"
"""Key of `uns`: how the cells were fitted to the model."""


@torch.inference_mode()
def latents(cells: NewCells) -> Any:
    """Yield which cells, and their latents, (cells, n_latent) float32."""
    module = cells.model.module
    for part, tensors in cells.batches():
        yield part, module.inference(**module._get_inference_input(tensors))["z"].float().cpu().numpy()


def new_array(group: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Return a new dense float32 array in an open h5ad file, to be filled."""
    array = group.create_dataset(name, shape, np.float32)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def write_about(file: Any, cells: NewCells) -> None:
    """Write how the cells were fitted to the model."""
    from anndata.io import write_elem

    write_elem(file["uns"], ABOUT, cells.about())
