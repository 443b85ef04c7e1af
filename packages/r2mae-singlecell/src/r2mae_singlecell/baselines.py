"""What an embedding has to beat: the expression, its principal components, scVI, or any embedding of the user."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError

NAMES = ("log-norm", "pca", "scvi", "scvi=N", "obsm:KEY", "shuffled")


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


def check_baseline(name: str) -> None:
    """Refuse a name that is not a baseline.

    Raises:
        UserError: it is not one.
    """
    if name in ("log-norm", "pca", "scvi", "shuffled") or name.startswith("obsm:"):
        return
    if name.startswith("scvi=") and name.removeprefix("scvi=").isdigit():
        return
    raise UserError(f"unknown baseline {name!r}; known: {', '.join(NAMES)} (N: latent size)")


def baseline_embedding(name: str, adata: Any, settings: BaselineSettings) -> Any:
    """Return the embedding of a baseline, (cells, features).

    Args:
        name: "log-norm" (also "shuffled", whose labels the probe shuffles), "pca", "scvi", "scvi=512", "obsm:X_scgpt".
        adata: prepared counts.
        settings: training settings of scVI, and of the principal components.

    Raises:
        UserError: the name is unknown, or `obsm` has no such key.
    """
    check_baseline(name)
    if name in ("log-norm", "shuffled"):
        return log_normalized(adata.X[:])
    if name == "pca":
        return pca(log_normalized(adata.X[:]), settings.n_components, settings.seed)
    if name.startswith("obsm:"):
        key = name.removeprefix("obsm:")
        if key not in adata.obsm:
            raise UserError(f"adata.obsm has no {key!r}; its keys: {list(adata.obsm) or 'none'}")
        return np.asarray(adata.obsm[key])
    return train_scvi(name, adata, settings).get_latent_representation()


def pca(X: Any, n_components: int, seed: int = 0) -> np.ndarray:
    """Return principal components of sparse data, centred without making it dense."""
    from sklearn.decomposition import PCA

    n_components = min(n_components, min(X.shape) - 1)
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(X)


def train_scvi(name: str, adata: Any, settings: BaselineSettings) -> Any:
    """Return scVI trained on the counts with its batches: its own size, or an equal latent size (`scvi=512`).

    It trains on the same 90 % of the cells as the masked models.
    """
    import scvi

    from r2mae_core import quiet_lightning
    from r2mae_singlecell.data.splitter import pretraining_split

    data = adata.to_memory() if adata.isbacked else adata.copy()
    n_latent = int(name.removeprefix("scvi=")) if name.startswith("scvi=") else 10
    with quiet_lightning():
        scvi.settings.seed = settings.seed
        scvi.model.SCVI.setup_anndata(data, batch_key="batch" if "batch" in data.obs else None)
        model = scvi.model.SCVI(data, n_latent=n_latent, gene_likelihood="nb")
        split = [*pretraining_split(data.n_obs), np.array([], dtype=int)]
        model.train(
            max_epochs=settings.epochs,
            batch_size=settings.batch_size,
            accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
            enable_progress_bar=False,
            datasplitter_kwargs={"drop_last": True, "external_indexing": split},
        )
    return model


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
