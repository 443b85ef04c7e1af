"""`r2mae-singlecell demo`: R2MAE beside fixed ratios, scVI and PCA on 700 real blood cells."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from r2mae_core import (
    NO_PRETRAINING,
    SHUFFLED_WEIGHTS,
    Record,
    RunFolder,
    cell_name,
    device_name,
    open_run,
    page_line,
    permute_weights,
    positive_control,
    resolve_device,
    resolved,
    run_pretraining,
    say,
    scheme,
    scheme_name,
    show_table,
    stamped,
    walk_grid,
    with_seed,
    write_text,
)
from r2mae_singlecell.baselines import BaselineSettings, log_normalized, pca, scvi_predictor, train_scvi
from r2mae_singlecell.data.pbmc import load_pbmc
from r2mae_singlecell.data.prepared import data_source
from r2mae_singlecell.data.splitter import pretraining_split
from r2mae_singlecell.evaluate import RANK_BY
from r2mae_singlecell.linear_probes import fit_logistic
from r2mae_singlecell.metrics import balanced_accuracy
from r2mae_singlecell.options import Demo, Pretrain
from r2mae_singlecell.plots import plot_pearson, plot_umap
from r2mae_singlecell.pretrain import SingleCells, load_run
from r2mae_singlecell.r2mae import R2MAE
from r2mae_singlecell.reconstruction import reconstruction_pearson

SCHEMES = ("r2mae", "fixed", "low", "high", "mdlm")
"""Of the paper's single-cell schemes (table 4); `reproduce` has the others too."""
CONTROLS = {"untrained": NO_PRETRAINING, "shuffled": SHUFFLED_WEIGHTS}
"""Networks that must not have learnt anything: folder → row of the table."""
TASK = "pbmc"
N_FOLDS = 3


class BloodCells(SingleCells):
    """Pretraining on the cells that scanpy carries."""

    @override
    def opened(self) -> Any:
        return load_pbmc()


def demo(config: Demo) -> RunFolder:
    """Pretrain, evaluate, print the table, draw the figures, and return the run folder."""
    start = time.perf_counter()
    device = resolve_device(config.device)
    adata = load_pbmc()
    sources = data_source(adata)
    with open_run("r2mae-singlecell", "demo", config.out, resolved(config), sources=sources) as run:
        names = (*SCHEMES, "scvi", f"scvi={config.n_latent}")
        say(
            f"{len(names) * len(config.seeds)} models ({len(SCHEMES)} ratio schemes and 2 sizes of scVI × "
            f"{len(config.seeds)} seeds) on {adata.n_obs} blood cells × {adata.n_vars} genes, on "
            f"{device_name(device)}, beside networks with {NO_PRETRAINING}, or with {SHUFFLED_WEIGHTS}"
        )
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        expression = log_normalized(adata.X)
        components = pca(expression, 50)
        plain = [*probe_cells(expression.toarray(), labels, "log-norm"), *probe_cells(components, labels, "pca 50")]
        cells = {
            cell_name(name, seed): partial(_measure, config, name, seed, device)
            for seed in config.seeds
            for name in (*names, *CONTROLS)
        }
        records = [*stamped(plain, device_name(device)), *walk_grid(run, cells)]
        run.write_results(records)
        show_table(run, records, RANK_BY, f"{adata.n_obs} blood cells, {len(np.unique(labels))} cell types")
        lines = verdict(records)
        for line in lines:
            say(line)
        write_text(run.path / "verdict.txt", "".join(f"{line}\n" for line in lines))
        say(f"balanced_accuracy: cell types by a linear probe on cells it was not fitted to, {N_FOLDS}-fold.")
        n_unseen = len(pretraining_split(adata.n_obs)[1])
        say(f"pearson@r: prediction of hidden genes when a fraction r is hidden, on {n_unseen} unseen cells.")
        trained = [record for record in records if record.scheme not in CONTROLS.values()]
        curves = run.save_figure("pearson.png", plot_pearson(trained, "Prediction of hidden genes, 700 blood cells"))
        first = load_run(run.path / cell_name("r2mae", config.seeds[0]) / "pretrain", adata, device)
        shown = {"R2MAE": first.get_latent_representation(), "PCA": components}
        points = {name: _umap(z) for name, z in shown.items()}
        picture = run.save_figure("umap.png", plot_umap(points, list(labels), "700 blood cells"))
        say(f"Figure: {curves}\nFigure: {picture}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
        say(page_line("r2mae-singlecell", run.path))
        return run


def _measure(config: Demo, name: str, seed: int, device: str, home: Path) -> list[Record]:
    """Train one model in its folder and evaluate it."""
    adata = load_pbmc()
    if name in SCHEMES:
        options = _options(config, name, seed, home / "pretrain")
        model = load_run(run_pretraining(BloodCells, options).path, adata, device)
        name = scheme_name(scheme(name, "singlecell"), "singlecell")
    elif name in CONTROLS:
        model, name = _control(config, name, seed, home, device), CONTROLS[name]
    else:
        model = train_scvi(name, adata, BaselineSettings(config.epochs, config.batch_size, device=device, seed=seed))
    predict = scvi_predictor(model) if name.startswith("scvi") else model.predict_proportions
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    unseen = pretraining_split(adata.n_obs)[1]
    records = [
        *probe_cells(model.get_latent_representation(), labels, name, seed),
        *reconstruction_pearson(predict, adata.X, unseen, task=TASK, scheme=name, seed=seed),
    ]
    return stamped(records, device_name(device))


def _options(config: Demo, name: str, seed: int, out: Path) -> Pretrain:
    return Pretrain(
        data=Path(TASK),
        mask_ratio=with_seed(scheme(name, "singlecell"), seed),
        n_hidden=config.n_hidden,
        n_latent=config.n_latent,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        device=config.device,
        out=out,
        progress=False,
    )


def _control(config: Demo, name: str, seed: int, home: Path, device: str) -> R2MAE:
    """Return the network with which R2MAE's training of this seed begins, or the trained one, its weights shuffled."""
    trained = home.parent / cell_name("r2mae", seed) / "pretrain"
    if name == "shuffled":
        model = load_run(trained, load_pbmc(), device)
        permute_weights(model.module, seed)
        return model
    options = _options(config, "r2mae", seed, trained)
    model = BloodCells(options).untrained(options.mask_ratio)  # pyright: ignore[reportArgumentType]
    model.module.eval()
    model.is_trained_ = True
    model.to_device(device)
    return model


def verdict(records: list[Record]) -> list[str]:
    """Return whether pretraining shows in the cell types, for every scheme, in words."""
    names = [scheme_name(scheme(name, "singlecell"), "singlecell") for name in SCHEMES]
    return positive_control(records, names, {"balanced_accuracy": "max"}).lines()


def probe_cells(embedding: np.ndarray, labels: np.ndarray, name: str, seed: int = 0) -> list[Record]:
    """Probe cell types across cells, since these have no donors: stratified folds, the paper's grid inside each."""
    from sklearn.model_selection import StratifiedKFold

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
