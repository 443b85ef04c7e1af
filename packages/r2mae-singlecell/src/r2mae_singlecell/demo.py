"""`r2mae-singlecell demo`: R2MAE beside fixed ratios, scVI and PCA on 700 real blood cells."""

import time
from typing import Any

import numpy as np

from r2mae_core import Record, RunFolder, compare, scheme, with_seed
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.files import write_text
from r2mae_core.run_folder import default_run_path
from r2mae_singlecell.options import Demo
from r2mae_singlecell.records import RANK_BY, stamped

# Of the paper's single-cell schemes (table 4); the others take part in `reproduce`.
SCHEMES = {
    "r2mae": "r2mae",
    "fixed 0.25": "fixed",
    "low 0.1": "low",
    "high 0.5": "high",
    "mdlm": "mdlm",
}
N_FOLDS = 3


def demo(config: Demo) -> RunFolder:
    """Pretrain, evaluate, print the table, draw the figures, and return the run folder."""
    start = time.perf_counter()
    from r2mae_singlecell.baselines import BaselineSettings, log_normalized, pca, scvi_predictor, train_scvi
    from r2mae_singlecell.data.pbmc import load_pbmc
    from r2mae_singlecell.evaluate import reconstruction_pearson
    from r2mae_singlecell.plots import plot_pearson, plot_umap
    from r2mae_singlecell.pretrain import pretrain_run, pretraining_split, training_of

    device = resolve_device(config.device)
    adata = load_pbmc()
    run = RunFolder(config.out or default_run_path("r2mae-singlecell", "demo"), resolved(config))
    scvi_names = ("scvi", f"scvi={config.n_latent}")
    n_models = config.n_seeds * (len(SCHEMES) + len(scvi_names))
    say(
        f"{n_models} models ({len(SCHEMES)} ratio schemes and 2 sizes of scVI × {config.n_seeds} seeds) on "
        f"{adata.n_obs} blood cells × {adata.n_vars} genes, on {device_name(device)}"
    )
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    hidden_cells = pretraining_split(adata.n_obs)[1]
    expression = log_normalized(adata.X)
    records = [
        *probe_cells(expression.toarray(), labels, "log-norm"),
        *probe_cells(pca(expression, 50), labels, "pca 50"),
    ]
    shown: dict[str, Any] = {"PCA": pca(expression, 50)}
    done = 0
    for seed in range(config.n_seeds):
        for name, key in SCHEMES.items():
            folder = RunFolder(
                run.path / "models" / f"{key}-{seed}", {**resolved(config), "scheme": name, "seed": seed}
            )
            sampler = with_seed(scheme(key, "singlecell"), seed)
            model = pretrain_run(adata, sampler, folder, training_of(config), seed=seed, progress=False)
            z = model.get_latent_representation()
            if seed == 0 and name == "r2mae":
                shown = {"R2MAE": z, **shown}
            records += probe_cells(z, labels, name, seed)
            predict = model.predict_proportions
            records += reconstruction_pearson(predict, adata.X, hidden_cells, scheme=name, seed=seed, task="PBMC")
            done = _progress(config, done, n_models, f"{name}, seed {seed}")
        for name in scvi_names:
            model = train_scvi(
                name, adata, BaselineSettings(config.epochs, config.batch_size, device=device, seed=seed)
            )
            records += probe_cells(model.get_latent_representation(), labels, name, seed)
            predict = scvi_predictor(model)
            records += reconstruction_pearson(predict, adata.X, hidden_cells, scheme=name, seed=seed, task="PBMC")
            done = _progress(config, done, n_models, f"{name}, seed {seed}")
    records = stamped(records, device)
    run.write_results(records)
    table = compare(records, RANK_BY)
    write_text(run.path / "table.md", table.markdown())
    say(table.rich(f"{adata.n_obs} blood cells, {len(np.unique(labels))} cell types"))
    say(f"balanced_accuracy: cell types by a linear probe on cells it was not fitted to, {N_FOLDS}-fold.")
    say(f"pearson@r: prediction of hidden genes when a fraction r is hidden, on {len(hidden_cells)} unseen cells.")
    curves = run.save_figure("pearson.png", plot_pearson(records, "Prediction of hidden genes, 700 blood cells"))
    points = {name: _umap(z) for name, z in shown.items()}
    picture = run.save_figure("umap.png", plot_umap(points, list(labels), "700 blood cells"))
    say(f"Figures: {curves}, {picture}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
    return run


def probe_cells(embedding: np.ndarray, labels: np.ndarray, name: str, seed: int = 0) -> list[Record]:
    """Probe cell types across cells, since these have no donors: stratified folds, the paper's grid inside each."""
    from sklearn.model_selection import StratifiedKFold

    from r2mae_singlecell.probing import balanced_accuracy, fit_logistic

    start, values = time.perf_counter(), []
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(embedding, labels):
        mean, deviation = embedding[train].mean(axis=0), embedding[train].std(axis=0)
        X = (embedding - mean) / np.where(deviation > 0, deviation, 1.0)
        probe = fit_logistic(X[train], labels[train], np.arange(len(train)), n_folds=N_FOLDS)
        values.append(balanced_accuracy(labels[test], probe.model.predict(X[test])))
    seconds = time.perf_counter() - start
    return [Record("PBMC", "balanced_accuracy", float(np.mean(values)), name, seed, len(labels), "test", seconds)]


def _umap(embedding: np.ndarray) -> np.ndarray:
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(embedding.astype(np.float32))
    sc.pp.neighbors(adata, use_rep="X", random_state=0)
    sc.tl.umap(adata, random_state=0)
    return np.asarray(adata.obsm["X_umap"])


def _progress(config: Demo, done: int, total: int, what: str) -> int:
    if config.progress:
        say(f"  [{done + 1}/{total}] {what}")
    return done + 1
