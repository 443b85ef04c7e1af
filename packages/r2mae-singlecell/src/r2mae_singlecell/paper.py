"""Tables 4, 6, 7 and 8 of the paper as data, and `reproduce`, which walks them (section 4.2, C.8).

The text has no captions. That table 4 is SEA-AD and table 6 HLCA follows from their columns; that table 7 is SEA-AD and
table 8 HLCA is inferred: CL-MAE (k=0), which the paper trained on one atlas only, is in tables 6 and 8.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import Record, RunFolder, scheme, with_seed
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_singlecell.options import Reproduce
from r2mae_singlecell.pretrain import Training, pretrain_run, pretraining_split, read_prepared, training_of
from r2mae_singlecell.records import stamped

ROWS = {
    "log-norm": "Normalized exp.",
    "scvi": "scVI",
    "fixed": "MAE (MR 25%)",
    "low": "– MR 10%",
    "high": "– MR 50%",
    "mdlm": "MDLM",
    "dynamic": "Dynamic MR",
    "cl": "CL-MAE",
    "cl-k0": "CL-MAE (k=0)",
    "r2mae": "R2MAE",
    "r2mae+dynamic": "+ Dynamic MR",
    "r2mae+cl": "+ CL",
    "r2mae+cl-k0": "+ CL (k=0)",
}
"""Our name → the paper's row."""

_CLASSES = (("cell_type", "balanced_accuracy"), ("cell_type", "macro_f1"))
_AGE = (("age", "spearman_cell"), ("age", "spearman_donor"))
_PEARSON = tuple(("reconstruction", f"pearson@{ratio:g}") for ratio in (0.1, 0.2, 0.3, 0.5, 0.7))
COLUMNS = {
    "table4": (*_CLASSES, ("disease", "auroc_cell"), ("disease", "auroc_donor"), *_AGE),
    "table6": (*_CLASSES, ("disease", "balanced_accuracy"), ("disease", "macro_f1"), *_AGE),
    "table7": _PEARSON,
    "table8": _PEARSON,
}
"""(task, metric) of each column."""

PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "table4": {
        "log-norm": (0.798, 0.738, 0.571, 0.611, 0.129, 0.511),
        "scvi": (0.826, 0.740, 0.631, 0.731, 0.201, 0.502),
        "fixed": (0.841, 0.737, 0.667, 0.699, 0.483, 0.575),
        "low": (0.837, 0.726, 0.543, 0.536, 0.449, 0.399),
        "high": (0.839, 0.738, 0.574, 0.591, 0.516, 0.536),
        "mdlm": (0.831, 0.719, 0.667, 0.686, 0.543, 0.622),
        "dynamic": (0.838, 0.735, 0.662, 0.694, 0.444, 0.446),
        "cl": (0.838, 0.729, 0.687, 0.722, 0.462, 0.484),
        "r2mae": (0.840, 0.737, 0.687, 0.716, 0.572, 0.628),
        "r2mae+dynamic": (0.834, 0.735, 0.642, 0.682, 0.551, 0.545),
        "r2mae+cl": (0.836, 0.730, 0.684, 0.719, 0.570, 0.559),
        "r2mae+cl-k0": (0.837, 0.734, 0.676, 0.707, 0.511, 0.506),
    },
    "table6": {
        "log-norm": (0.834, 0.774, 0.675, 0.489, 0.470, 0.574),
        "scvi": (0.897, 0.804, 0.767, 0.626, 0.556, 0.618),
        "fixed": (0.908, 0.830, 0.834, 0.604, 0.586, 0.623),
        "low": (0.915, 0.802, 0.851, 0.635, 0.582, 0.609),
        "high": (0.909, 0.833, 0.837, 0.604, 0.587, 0.601),
        "mdlm": (0.903, 0.806, 0.829, 0.560, 0.577, 0.622),
        "dynamic": (0.919, 0.829, 0.850, 0.651, 0.571, 0.597),
        "cl": (0.907, 0.825, 0.843, 0.635, 0.589, 0.648),
        "cl-k0": (0.801, 0.667, 0.773, 0.493, 0.530, 0.563),
        "r2mae": (0.915, 0.812, 0.853, 0.651, 0.595, 0.641),
        "r2mae+dynamic": (0.914, 0.842, 0.835, 0.597, 0.616, 0.658),
        "r2mae+cl": (0.911, 0.817, 0.837, 0.618, 0.572, 0.619),
        "r2mae+cl-k0": (0.911, 0.805, 0.840, 0.630, 0.590, 0.646),
    },
    "table7": {
        "scvi": (0.834, 0.834, 0.829, 0.815, 0.781),
        "fixed": (0.843, 0.847, 0.846, 0.840, 0.819),
        "low": (0.842, 0.844, 0.841, 0.832, 0.797),
        "high": (0.841, 0.845, 0.843, 0.842, 0.830),
        "mdlm": (0.840, 0.844, 0.842, 0.840, 0.827),
        "dynamic": (0.842, 0.845, 0.842, 0.834, 0.800),
        "cl": (0.841, 0.844, 0.845, 0.838, 0.817),
        "r2mae": (0.846, 0.847, 0.845, 0.842, 0.826),
        "r2mae+dynamic": (0.844, 0.847, 0.846, 0.841, 0.824),
        "r2mae+cl": (0.836, 0.839, 0.839, 0.836, 0.825),
        "r2mae+cl-k0": (0.844, 0.846, 0.845, 0.840, 0.823),
    },
    "table8": {
        "scvi": (0.712, 0.744, 0.746, 0.733, 0.698),
        "fixed": (0.743, 0.774, 0.780, 0.777, 0.747),
        "low": (0.733, 0.770, 0.777, 0.769, 0.733),
        "high": (0.744, 0.770, 0.779, 0.781, 0.760),
        "mdlm": (0.729, 0.760, 0.766, 0.764, 0.739),
        "dynamic": (0.742, 0.772, 0.777, 0.772, 0.737),
        "cl": (0.736, 0.768, 0.776, 0.776, 0.756),
        "cl-k0": (0.174, 0.131, 0.109, 0.090, 0.086),
        "r2mae": (0.746, 0.773, 0.782, 0.778, 0.752),
        "r2mae+dynamic": (0.743, 0.774, 0.781, 0.779, 0.753),
        "r2mae+cl": (0.731, 0.763, 0.772, 0.770, 0.746),
        "r2mae+cl-k0": (0.733, 0.767, 0.777, 0.770, 0.742),
    },
}
"""The paper's figures, in the order of `COLUMNS`. Rows of models that need weights from elsewhere are left out."""


def published(target: str, row: str, task: str, metric: str) -> float | None:
    """Return what the paper prints for a cell, or None."""
    values = PUBLISHED[target].get(row)
    return values[COLUMNS[target].index((task, metric))] if values and (task, metric) in COLUMNS[target] else None


def reproduce(config: Reproduce) -> RunFolder | None:
    """Train and judge what is missing of the table, print it, and return the run folder (None: a dry run)."""
    from r2mae_singlecell.commands import finish

    adata = read_prepared(config.data)
    device = resolve_device(config.device)
    probing = config.target in ("table4", "table6")
    wanted = {"table4": ("seaad", "seaad-allen"), "table7": ("seaad", "seaad-allen")}.get(config.target, ("hlca",))
    preset = str(adata.uns["r2mae"]["preset"])
    if preset not in wanted:
        say(f"Note: {config.target} is of {wanted[0]}, and {config.data} is laid out as {preset}.")
    baselines = config.baselines if probing else tuple(name for name in config.baselines if name.startswith("scvi"))
    once = config.seeds[:1]  # nothing is drawn in the expression itself, or in an embedding that is given
    cells = [(name, seed) for name in baselines for seed in (config.seeds if name.startswith("scvi") else once)]
    cells += [(name, seed) for name in config.schemes for seed in config.seeds]
    if config.dry_run:
        _dry_run(config, adata, device, cells)
        return None
    out = config.out or Path("runs") / f"r2mae-singlecell-reproduce-{config.data.stem}"
    # A grid may be widened, and both kinds of table come from the same models.
    apart = ("target", "dry_run", "device", "seeds", "schemes", "baselines", "n_splits", "max_cells")
    settings = {key: value for key, value in resolved(config).items() if key not in apart}
    run = RunFolder(out, settings)
    records: list[Record] = []
    notes: list[str] = []
    for i, (name, seed) in enumerate(cells):
        start = time.perf_counter()
        done, cell_records, cell_notes = _cell(config, adata, run, device, name, seed, probing)
        records += cell_records
        notes += [note for note in cell_notes if note not in notes]
        state = "done before" if done else f"{time.perf_counter() - start:.0f} s"
        say(f"[{i + 1}/{len(cells)}] {name}, seed {seed}: {state}")
    records = [replace(r, paper=published(config.target, r.scheme, r.task, r.metric)) for r in records]
    title = f"{config.target} on {config.data.name}, mean ± sd over seeds" + (" and donor divisions" if probing else "")
    return finish(run, records, notes, title, file=f"{config.target}.json")


def _cell(
    config: Reproduce, adata: Any, run: RunFolder, device: str, name: str, seed: int, probing: bool
) -> tuple[bool, list[Record], list[str]]:
    """Return (whether the cell was done before, its records, notes), training it if need be."""
    kind: dict[str, Any] = {"task": "probe", "n_splits": config.n_splits, "max_cells": config.max_cells}
    kind = kind if probing else {"task": "reconstruction"}
    model_folder = RunFolder(run.path / f"{name}-{seed}", {**run.config, "scheme": name, "seed": seed})
    result_folder = RunFolder(model_folder.path / kind["task"], {**run.config, **kind, "scheme": name, "seed": seed})
    if records := result_folder.results():
        return True, records, []
    records, notes = (
        _probe(config, adata, model_folder, device, name, seed)
        if probing
        else (_reconstruct(config, adata, model_folder, device, name, seed), [])
    )
    records = stamped(records, device)
    result_folder.write_results(records)
    return False, records, notes


def _probe(
    config: Reproduce, adata: Any, folder: RunFolder, device: str, name: str, seed: int
) -> tuple[list[Record], list[str]]:
    from r2mae_singlecell.baselines import baseline_embedding
    from r2mae_singlecell.evaluate import TASKS, Protocol, probe_embedding

    if name in ROWS and name not in ("log-norm", "scvi"):
        embedding = _model(config, adata, folder, device, name, seed).get_latent_representation()
    else:
        embedding = baseline_embedding(name, adata, _baseline_settings(config, device, seed))
    tasks = TASKS[str(adata.uns["r2mae"]["preset"])]
    protocol = Protocol(n_splits=config.n_splits, max_cells=config.max_cells)
    result = probe_embedding(embedding, adata.obs, tasks, protocol, scheme=name, seed=seed)
    return result.records, result.notes


def _reconstruct(config: Reproduce, adata: Any, folder: RunFolder, device: str, name: str, seed: int) -> list[Record]:
    from r2mae_singlecell.baselines import scvi_predictor, train_scvi
    from r2mae_singlecell.evaluate import reconstruction_pearson

    if name.startswith("scvi"):
        predict = scvi_predictor(train_scvi(name, adata, _baseline_settings(config, device, seed)))
    else:
        predict = _model(config, adata, folder, device, name, seed).predict_proportions
    counts = adata.to_memory().X if adata.isbacked else adata.X
    return reconstruction_pearson(predict, counts, pretraining_split(adata.n_obs)[1], scheme=name, seed=seed)


def _model(config: Reproduce, adata: Any, folder: RunFolder, device: str, name: str, seed: int) -> Any:
    """Return the trained model of a cell: another table's, if it was trained for that."""
    from r2mae_singlecell.commands import load_run

    if (folder.path / "model" / "model.json").exists():
        return load_run(folder.path, adata, device)
    sampler = with_seed(scheme(name, "singlecell"), seed)
    return pretrain_run(adata, sampler, folder, training_of(config), seed=seed, progress=config.progress)


def _baseline_settings(config: Reproduce, device: str, seed: int) -> Any:
    from r2mae_singlecell.baselines import BaselineSettings

    return BaselineSettings(config.epochs, config.batch_size, device=device, seed=seed)


def _dry_run(config: Reproduce, adata: Any, device: str, cells: list[tuple[str, int]]) -> None:
    """Print the grid, and what its training would cost by the time of a few steps."""
    training = training_of(config)
    n_train = len(pretraining_split(adata.n_obs)[0])
    n_steps = max(n_train // min(config.batch_size, n_train), 1) * config.epochs
    say(f"{len(cells)} rows: {', '.join(dict.fromkeys(name for name, _ in cells))}; seeds {list(config.seeds)}")
    total, seconds = 0.0, {}
    for name, _ in cells:
        if name not in seconds:
            seconds[name] = 0.0 if name == "log-norm" else _seconds_per_step(adata, training, device, name)
            say(f"  {name}: {n_steps:,} steps, about {seconds[name] * n_steps / 60:.1f} min of pretraining per seed")
        total += seconds[name] * n_steps
    say(f"About {total / 3600:.1f} h of pretraining on {device_name(device)}; evaluation comes on top.")


def _seconds_per_step(adata: Any, training: Training, device: str, name: str) -> float:
    """Time a few steps on the first cells. scVI's are taken to cost what ours do."""
    import torch

    from r2mae_core import Curriculum, MaskDraw
    from r2mae_singlecell.model import MaskedAutoencoder
    from r2mae_singlecell.plan import MaskedPlan

    sampler = scheme("fixed" if name.startswith("scvi") else name, "singlecell")
    n_columns = sampler.n_columns if isinstance(sampler, Curriculum) else 0
    module = MaskedAutoencoder(
        adata.n_vars, 2, n_hidden=training.n_hidden, n_latent=training.n_latent, n_columns=n_columns
    )
    plan = MaskedPlan(module.to(device), mask_ratio=sampler)
    plan.is_log_step = lambda: False
    optimizer = plan.configure_optimizers()
    n = min(training.batch_size, adata.n_obs)
    counts = np.asarray(adata.X[:n].todense(), dtype=np.float32)
    batch = {"X": torch.from_numpy(counts).to(device), "batch": torch.zeros(n, 1, dtype=torch.long, device=device)}
    times = []
    for _ in range(4):
        start = time.perf_counter()
        generator = torch.Generator(device).manual_seed(0)
        optimizer.zero_grad()
        plan.masked_loss(batch, MaskDraw(0.3, generator, 0, 1.0 if n_columns else 0.0)).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first step warms up
