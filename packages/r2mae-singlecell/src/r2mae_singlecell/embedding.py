"""`embed`: the embedding of every cell, as h5ad."""

from pathlib import Path
from typing import Any

from r2mae_core import atomic_path, check_output, default_run_path, one_writer, run_identities, say
from r2mae_singlecell import options
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.data.stores import new_h5, table_bytes, write_adata
from r2mae_singlecell.evaluate import refuse_data
from r2mae_singlecell.pretrain import load_run


def embed(config: options.Embed) -> Path:
    """Write the embedding of every cell as h5ad and return its path.

    Raises:
        UserError: the folder holds no finished model, or one of other genes; the file is there already, is an input, or
            does not fit on the disk.
    """
    import anndata

    path = config.out or default_run_path("r2mae-singlecell", "embed").with_suffix(".h5ad")
    refuse_data([config.run], "embed RUN DATA")
    check_output(path, [config.run, config.data], overwrite=config.overwrite)
    run_identities([config.run], "singlecell")
    adata = read_prepared(config.data)
    obs = adata.obs.copy()  # scvi-tools adds columns of its own
    model = load_run(config.run, adata, config.device)
    with one_writer(path, folder=False):
        embedding: Any = {"X_r2mae": model.get_latent_representation()}
        n_bytes = embedding["X_r2mae"].nbytes + table_bytes(obs)
        with atomic_path(path) as temporary, new_h5(temporary, n_bytes, path) as file:
            write_adata(file, anndata.AnnData(obs=obs, obsm=embedding))
    return path


def embed_command(config: options.Embed) -> None:
    """Run `r2mae-singlecell embed`."""
    say(f"Done: {embed(config)} (obs, obsm['X_r2mae'])")
