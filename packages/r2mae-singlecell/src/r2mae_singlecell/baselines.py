"""What an embedding has to beat: the expression, its principal components, scVI, or any embedding of the user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError, derived_seed
from r2mae_singlecell.data.count_rows import CountRows
from r2mae_singlecell.data.counts import CountMatrix

PCA_CELLS = 100_000
"""Cells that principal components are computed from, if there are more."""
NAMES = ("log-norm", "pca", "scvi", "scvi=N", "obsm:KEY", "shuffled")
LARGEST_LATENT = 65_536


@dataclass(frozen=True)
class BaselineSettings:
    """Training settings of the baselines that are trained."""

    epochs: int = 50
    batch_size: int = 400
    n_components: int = 50
    device: str = "auto"
    seed: int = 0


def log_normalized(counts: Any, target_sum: float = 1e4) -> sp.csr_matrix:
    """Return log1p of the counts scaled to `target_sum` per cell, sparse float32."""
    csr = sp.csr_matrix(counts, dtype=np.float32)
    totals = np.maximum(np.asarray(csr.sum(axis=1)).ravel(), 1.0)
    scaled: Any = sp.diags_array((target_sum / totals).astype(np.float32)) @ csr
    return scaled.log1p().tocsr()


def check_baseline(name: str, adata: Any = None) -> None:
    """Refuse a name that is not a baseline, or is none in these data.

    Raises:
        UserError: it is not one, or `obsm` has no such embedding.
    """
    if name.startswith("obsm:") and adata is not None:
        _given_embedding(name.removeprefix("obsm:"), adata)
    if name in ("log-norm", "pca", "scvi", "shuffled") or name.startswith("obsm:"):
        return
    size = name.removeprefix("scvi=")
    if size != name and size.isascii() and size.isdigit() and len(size) < 10 and 1 <= int(size) <= LARGEST_LATENT:
        return
    raise UserError(
        f"unknown baseline {name!r}; known: {', '.join(NAMES)} (N: latent size, from 1 to {LARGEST_LATENT:,})"
    )


def _given_embedding(key: str, adata: Any) -> np.ndarray:
    """Return an embedding of the user's.

    Raises:
        UserError: there is none of this name, or it is not a table of numbers.
    """
    if key not in adata.obsm:
        raise UserError(f"adata.obsm has no {key!r}; its keys: {', '.join(adata.obsm) or 'none'}")
    values = adata.obsm[key]
    values = np.asarray(values.toarray() if sp.issparse(values) else values)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not values.shape[1]:
        raise UserError(f"adata.obsm[{key!r}] is {values.dtype} of shape {values.shape}; cells × numbers are needed")
    if len(values) != adata.n_obs:
        raise UserError(f"adata.obsm[{key!r}] has {len(values):,} rows and the data have {adata.n_obs:,} cells")
    return values


def baseline_rows(
    name: str, adata: Any, settings: BaselineSettings
) -> tuple[Callable[[np.ndarray], Any], tuple[str, ...]]:
    """Return the function that embeds the cells that are asked for, and remarks on how.

    Args:
        name: "log-norm" (also "shuffled", whose labels the probe shuffles), "pca", "scvi", "scvi=512", "obsm:X_scgpt".
        adata: prepared counts, in memory or not.
        settings: training settings of scVI, and of the principal components.

    Returns:
        Cells' indices → (cells, features), sparse for the expression and dense otherwise; remarks.

    Raises:
        UserError: the name is unknown, or `obsm` has no such key.
    """
    check_baseline(name, adata)
    if name in ("log-norm", "shuffled"):
        counts = CountRows(adata.X)
        return lambda cells: log_normalized(counts[cells]), ()
    if name == "pca":
        return _pca_rows(CountRows(adata.X), settings)
    if name.startswith("obsm:"):
        values = _given_embedding(name.removeprefix("obsm:"), adata)
        return lambda cells: values[cells], ()
    model = train_scvi(name, adata, settings)
    return lambda cells: model.get_latent_representation(indices=cells), ()


def baseline_embedding(name: str, adata: Any, settings: BaselineSettings) -> Any:
    """Return the embedding of a baseline for all cells, (cells, features); the arguments are those of `baseline_rows`.

    Raises:
        UserError: the name is unknown, or `obsm` has no such key.
    """
    return baseline_rows(name, adata, settings)[0](np.arange(adata.n_obs))


def _pca_rows(counts: CountRows, settings: BaselineSettings) -> tuple[Callable[[np.ndarray], Any], tuple[str, ...]]:
    """Return the projection on principal components, of all cells or of as many random ones as memory should hold."""
    n_cells = counts.shape[0]
    cells = np.arange(n_cells)
    if n_cells > PCA_CELLS:
        rng = np.random.default_rng(derived_seed(settings.seed, "principal components"))
        cells = np.sort(rng.choice(n_cells, PCA_CELLS, replace=False))
    fitted = _fitted_pca(log_normalized(counts[cells]), settings.n_components, settings.seed)
    remark = f"pca: the components are those of {len(cells):,} random cells of {n_cells:,}"
    return lambda rows: fitted.transform(log_normalized(counts[rows])), (remark,) if n_cells > PCA_CELLS else ()


def pca(X: Any, n_components: int, seed: int = 0) -> np.ndarray:
    """Return principal components of sparse data, centred without making it dense.

    Raises:
        UserError: there are fewer than two cells or genes.
    """
    return _fitted_pca(X, n_components, seed).transform(X)


def _fitted_pca(X: Any, n_components: int, seed: int) -> Any:
    from sklearn.decomposition import PCA

    n_components = min(n_components, min(X.shape) - 1)
    if n_components < 1:
        raise UserError(f"{X.shape[0]} cells × {X.shape[1]} genes have no principal components; leave out pca")
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit(X)


def train_scvi(name: str, adata: Any, settings: BaselineSettings) -> Any:
    """Return scVI trained on the counts with its batches: its own size, or an equal latent size (`scvi=512`).

    It trains on the same 90 % of the cells as the masked models.

    Raises:
        UserError: scvi-tools cannot train on these counts.
    """
    import scvi

    from r2mae_core import quiet_lightning
    from r2mae_singlecell.data.splitter import check_training_cells, pretraining_split

    data = _for_scvi(adata)
    n_latent = int(name.removeprefix("scvi=")) if name.startswith("scvi=") else 10
    with quiet_lightning():
        scvi.settings.seed = settings.seed
        scvi.model.SCVI.setup_anndata(data, batch_key="batch" if "batch" in data.obs else None)
        model = scvi.model.SCVI(data, n_latent=n_latent, gene_likelihood="nb")
        split = [*pretraining_split(data.n_obs), np.array([], dtype=int)]
        check_training_cells(len(split[0]))
        try:
            model.train(
                max_epochs=settings.epochs,
                # With fewer cells than a batch, and the last batch left out, scVI would silently train on nothing.
                batch_size=min(settings.batch_size, len(split[0])),
                accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
                enable_progress_bar=False,
                datasplitter_kwargs={"drop_last": True, "external_indexing": split},
            )
        except (ValueError, FloatingPointError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"{name} cannot be trained on these counts ({reason}); leave it out of --baselines"
            ) from None
    return model


def _for_scvi(adata: Any) -> Any:
    """Return counts and covariates that scvi-tools may add columns to; counts in a prepared file stay memory-mapped."""
    import anndata

    counts = CountMatrix(adata.X).csr.matrix() if adata.isbacked else adata.X
    return anndata.AnnData(counts, obs=adata.obs.copy(), var=adata.var[[]].copy())


def scvi_predictor(model: Any) -> Any:
    """Return a predictor for `reconstruction_pearson`: scVI on counts whose hidden genes are zero."""
    import torch
    from scvi import REGISTRY_KEYS

    @torch.inference_mode()
    def predict(cells: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        (tensors,) = model._make_data_loader(model.adata, indices=cells, batch_size=len(cells))
        tensors[REGISTRY_KEYS.X_KEY] = tensors[REGISTRY_KEYS.X_KEY].index_fill(1, torch.from_numpy(hidden), 0.0)
        outputs = model.module.forward(tensors, inference_kwargs={"n_samples": 1}, compute_loss=False)[1]
        return outputs["px"].get_normalized("scale").cpu().numpy()

    return predict
