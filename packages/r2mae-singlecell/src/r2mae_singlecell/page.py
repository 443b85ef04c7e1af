"""`report RUN…`: one HTML page of runs, with a UMAP of the cells that their models were trained on."""

from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import Example, Page, Reporter, RunSummary, UserError, png_of, write_page_command
from r2mae_singlecell.cli import COMMANDS
from r2mae_singlecell.data.prepared import data_source, read_prepared
from r2mae_singlecell.evaluate import RANK_BY
from r2mae_singlecell.plots import plot_columns
from r2mae_singlecell.pretrain import load_run
from r2mae_singlecell.report import SHOWN, two_dimensions

N_CELLS = 3000


def page_command(config: Page) -> None:
    """Run `r2mae-singlecell report RUN…`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-singlecell", COMMANDS, RANK_BY, umap, how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "model.json").exists():
        return None
    return (
        "from r2mae_singlecell import R2MAE\n\n"
        f"model = R2MAE.from_export({run.path.name + '/model'!r})  # wherever the run folder lies\n"
        f"# The embedding of any file of cells: r2mae-singlecell embed {run.path.name} cells.h5ad\n"
    )


def umap(run: RunSummary) -> list[Example]:
    """Return a UMAP of a pretrained model's embedding of its prepared cells; nothing for other runs.

    Raises:
        UserError: the data are not there, or are others; the model is damaged.
    """
    if how_to_load(run) is None or "DATA" not in run.sources:
        return []
    place = Path(str(run.data))
    if not place.exists():
        raise UserError(f"{place} is not there, so no cells can be embedded")
    adata: Any = read_prepared(place)
    if data_source(adata)["DATA"] != run.sources["DATA"]:
        raise UserError(f"{place} holds other cells than those that the run was trained on")
    model = load_run(run.path, adata, "cpu")
    n = adata.n_obs
    chosen = np.sort(np.random.default_rng(0).choice(n, min(N_CELLS, n), replace=False))
    obs = adata.obs.iloc[chosen]
    columns = [name for name in SHOWN if name in obs and obs[name].nunique() > 1][:3]
    points = two_dimensions(model.get_latent_representation(indices=chosen.tolist()), 0)
    figure = plot_columns({"embedding": points}, obs[columns], place.name)
    caption = f"UMAP of the embedding of {len(chosen):,} of {n:,} cells" + (
        f", by {', '.join(columns)}." if columns else "."
    )
    return [Example("The embedding of the cells", png_of(figure), caption=caption, wide=True)]
