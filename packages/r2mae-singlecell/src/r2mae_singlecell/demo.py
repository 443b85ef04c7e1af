"""`r2mae-singlecell demo`: R2MAE beside fixed ratios, scVI and PCA on 700 real blood cells."""

import time
from typing import Any

import numpy as np

from r2mae_core import (
    Record,
    RunFolder,
    device_name,
    open_run,
    report,
    resolve_device,
    resolved,
    say,
    scheme,
    scheme_name,
    stamped,
    with_seed,
)
from r2mae_singlecell.options import Demo

SCHEMES = ("r2mae", "fixed", "low", "high", "mdlm")
"""Of the paper's single-cell schemes (table 4); the others take part in `reproduce`."""
TASK = "pbmc"
N_FOLDS = 3


def demo(config: Demo) -> RunFolder:
    """Pretrain, evaluate, print the table, draw the figures, and return the run folder."""
    start = time.perf_counter()
    from r2mae_singlecell.baselines import BaselineSettings, log_normalized, pca, scvi_predictor, train_scvi
    from r2mae_singlecell.data.pbmc import load_pbmc
    from r2mae_singlecell.evaluate import RANK_BY
    from r2mae_singlecell.plots import plot_pearson, plot_umap
    from r2mae_singlecell.pretrain import pretrain_run, pretraining_split, training_of
    from r2mae_singlecell.reconstruction import reconstruction_pearson

    device = resolve_device(config.device)
    adata = load_pbmc()
    run = open_run("r2mae-singlecell", "demo", config.out, resolved(config))
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

    def judge(z: np.ndarray, predict: Any, name: str, seed: int) -> list[Record]:
        hidden = reconstruction_pearson(predict, adata.X, hidden_cells, task=TASK, scheme=name, seed=seed)
        return [*probe_cells(z, labels, name, seed), *hidden]

    cells = [(name, seed) for seed in range(config.n_seeds) for name in (*SCHEMES, *scvi_names)]
    for i, (name, seed) in enumerate(cells):
        began = time.perf_counter()
        if name in scvi_names:
            settings = BaselineSettings(config.epochs, config.batch_size, device=device, seed=seed)
            model = train_scvi(name, adata, settings)
            records += judge(model.get_latent_representation(), scvi_predictor(model), name, seed)
        else:
            sampler = with_seed(scheme(name, "singlecell"), seed)
            folder = RunFolder(
                run.path / "models" / f"{name}-{seed}", resolved(config), facts={"scheme": name, "seed": seed}
            )
            model = pretrain_run(adata, sampler, folder, training_of(config), task=TASK, seed=seed, progress=False)
            z = model.get_latent_representation()
            if seed == 0 and name == "r2mae":
                shown = {"R2MAE": z, **shown}
            records += judge(z, model.predict_proportions, scheme_name(sampler, "singlecell"), seed)
        if config.progress:
            say(f"[{i + 1}/{len(cells)}] {name}-{seed}: {time.perf_counter() - began:.0f} s")
    records = stamped(records, device_name(device))
    report(run, records, RANK_BY, f"{adata.n_obs} blood cells, {len(np.unique(labels))} cell types")
    say(f"balanced_accuracy: cell types by a linear probe on cells it was not fitted to, {N_FOLDS}-fold.")
    say(f"pearson@r: prediction of hidden genes when a fraction r is hidden, on {len(hidden_cells)} unseen cells.")
    curves = run.save_figure("pearson.png", plot_pearson(records, "Prediction of hidden genes, 700 blood cells"))
    points = {name: _umap(z) for name, z in shown.items()}
    picture = run.save_figure("umap.png", plot_umap(points, list(labels), "700 blood cells"))
    say(f"Figure: {curves}\nFigure: {picture}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
    return run


def probe_cells(embedding: np.ndarray, labels: np.ndarray, name: str, seed: int = 0) -> list[Record]:
    """Probe cell types across cells, since these have no donors: stratified folds, the paper's grid inside each."""
    from sklearn.model_selection import StratifiedKFold

    from r2mae_singlecell.metrics import balanced_accuracy
    from r2mae_singlecell.probing import fit_logistic

    start, values = time.perf_counter(), []
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(embedding, labels):
        mean, deviation = embedding[train].mean(axis=0), embedding[train].std(axis=0)
        X = (embedding - mean) / np.where(deviation > 0, deviation, 1.0)
        probe = fit_logistic(X[train], labels[train], np.arange(len(train)), n_folds=N_FOLDS)
        values.append(balanced_accuracy(labels[test], probe.model.predict(X[test])))
    seconds = time.perf_counter() - start
    return [Record(TASK, "balanced_accuracy", float(np.mean(values)), name, seed, len(labels), "test", seconds)]


def _umap(embedding: np.ndarray) -> np.ndarray:
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(embedding.astype(np.float32))
    sc.pp.neighbors(adata, use_rep="X", random_state=0)
    sc.tl.umap(adata, random_state=0)
    return np.asarray(adata.obsm["X_umap"])
