"""Pretraining from a prepared file into a run folder: what the `pretrain` command and `reproduce` do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import Curriculum, RatioSampler, RunFolder, UserError, sampler_from_config, short_name
from r2mae_core.commands import resolved, say
from r2mae_core.devices import device_name, resolve_device
from r2mae_core.run_folder import default_run_path
from r2mae_core.sampler_config import sampler_to_config
from r2mae_singlecell.options import Pretrain

PAPER_STEPS = 243_000
"""Steps of the paper's HLCA run (2,161,082 cells, 90 %, batches of 400, 50 epochs), to which its marks belong."""


@dataclass(frozen=True)
class Training:
    """How to train, without the data and the scheme; the defaults are the paper's where it names them."""

    epochs: int = 50
    batch_size: int = 400
    n_hidden: int = 1024
    n_latent: int = 512
    lr: float = 1e-3
    weight_decay: float = 1e-4
    eps: float = 1e-8
    precision: str = "32-true"
    device: str = "auto"
    devices: int = 1
    scale_curriculum: bool = True
    """Let the curriculum's marks (5,000 steps frozen, fall from 30,000 to 120,000) shrink with the training."""


def pretrain_run(
    adata: Any,
    mask_ratio: RatioSampler,
    run: RunFolder,
    training: Training,
    *,
    seed: int = 0,
    split_seed: int = 0,
    progress: bool = True,
) -> Any:
    """Train one model to the end, from the run's last checkpoint if there is one, and export it to `run/model`.

    Args:
        adata: prepared counts, in memory or backed, with `batch` in `obs`.
        mask_ratio: the scheme.
        run: the run folder.
        training: sizes and settings.
        seed: of the start, masks and order.
        split_seed: of the division into 90 % training and 10 % validation, the same for every seed and scheme.
        progress: show a progress bar.

    Returns:
        The trained `R2MAE`.

    Raises:
        UserError: the run was interrupted, or what `R2MAE.train` refuses.
    """
    import scvi

    from r2mae_core.training import StepProgress, quiet_lightning
    from r2mae_singlecell.r2mae import R2MAE

    device = resolve_device(training.device)
    scvi.settings.verbosity = 30  # warnings
    R2MAE.setup_anndata(adata, batch_key="batch" if "batch" in adata.obs else None)
    with quiet_lightning():
        scvi.settings.seed = seed
        train, validation = pretraining_split(adata.n_obs, split_seed)
        n_steps = max(len(train) // min(training.batch_size, len(train)), 1) * training.epochs
        sampler = scaled_curriculum(mask_ratio, n_steps) if training.scale_curriculum else mask_ratio
        model = R2MAE(adata, n_hidden=training.n_hidden, n_latent=training.n_latent, mask_ratio=sampler)
        try:
            model.train(
                max_epochs=training.epochs,
                batch_size=training.batch_size,
                accelerator={"cuda": "gpu"}.get(device, device),
                devices=training.devices,
                precision=training.precision,
                resume=run.path,
                plan_kwargs={
                    "lr": training.lr,
                    "weight_decay": training.weight_decay,
                    "eps": training.eps,
                    "seed": seed,
                },
                datasplitter_kwargs={"external_indexing": [train, validation, np.array([], dtype=int)]},
                check_val_every_n_epoch=max(training.epochs // 10, 1),
                enable_progress_bar=False,
                log_every_n_steps=50,
                callbacks=[StepProgress()] if progress else [],
            )
        except (KeyboardInterrupt, SystemExit):
            raise UserError(
                f"interrupted; {run.path} keeps the last whole epoch; the same command with this --out goes on"
            ) from None
    model.export(run.path / "model")
    return model


def pretraining_split(n_cells: int, seed: int = 0, train_size: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells to train and to validate on (paper, C.8: 90 % and 10 %)."""
    order = np.random.default_rng([seed, 9]).permutation(n_cells)
    n_train = max(round(train_size * n_cells), 1)
    return np.sort(order[:n_train]), np.sort(order[n_train:])


def scaled_curriculum(sampler: RatioSampler, n_steps: int) -> RatioSampler:
    """Return the sampler with its curriculum's marks at the same fractions of a training of `n_steps`."""
    if not isinstance(sampler, Curriculum):
        return sampler
    share = n_steps / PAPER_STEPS
    ramp = None
    if sampler.ramp is not None:
        first = round(sampler.ramp[0] * share)
        ramp = (first, max(round(sampler.ramp[1] * share), first + 1))
    return replace(sampler, freeze_steps=round(sampler.freeze_steps * share), ramp=ramp)


def read_prepared(path: Path) -> Any:
    """Return a prepared file as AnnData in backed mode: its counts stay on disk and are memory-mapped.

    Raises:
        UserError: the file is missing, damaged, or was not prepared.
    """
    import anndata

    if not path.exists():
        raise UserError(f"no file {path}; `r2mae-singlecell prepare ATLAS.h5ad {path}` makes one")
    try:
        adata = anndata.read_h5ad(path, backed="r")
    except (OSError, KeyError, ValueError, anndata._io.utils.AnnDataReadError) as error:
        raise UserError(f"{path} cannot be read as h5ad; is it whole? ({error})") from None
    if "r2mae" not in adata.uns:
        raise UserError(f"{path} was not prepared; run `r2mae-singlecell prepare {path} OUTPUT.h5ad` first")
    return adata


def training_of(config: Any) -> Training:
    """Return the training settings among a command's options."""
    return Training(**{name: getattr(config, name) for name in Training.__dataclass_fields__ if hasattr(config, name)})


def scheme_name(mask_ratio: Any, sampler: RatioSampler) -> str:
    """Return what a table calls the scheme."""
    named = isinstance(mask_ratio, str) and not mask_ratio.replace(".", "", 1).isdigit()
    return mask_ratio if named else short_name(sampler)


def pretrain_command(config: Pretrain) -> RunFolder:
    """Run `r2mae-singlecell pretrain`."""
    sampler = sampler_from_config(config.mask_ratio, "singlecell", config.seed)
    adata = read_prepared(config.data)
    settings = {**resolved(config), "data": str(config.data), "scheme": scheme_name(config.mask_ratio, sampler)}
    settings["mask_ratio"] = sampler_to_config(sampler)
    run = RunFolder(config.out or default_run_path("r2mae-singlecell", "pretrain"), settings)
    say(f"Mask ratio: {sampler.describe()}")
    say(f"{adata.n_obs:,} cells × {adata.n_vars:,} genes on {device_name(resolve_device(config.device))}")
    model = pretrain_run(adata, sampler, run, training_of(config), seed=config.seed, progress=config.progress)
    history = model.history
    if "validation_loss" in history:
        say(f"Validation loss per hidden gene: {float(history['validation_loss'].iloc[-1, 0]):.4f}")
    say(f"Run folder: {run.path}")
    return run
