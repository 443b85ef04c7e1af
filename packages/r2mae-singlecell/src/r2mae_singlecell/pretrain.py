"""Pretraining from a prepared file into a run folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import (
    Curriculum,
    RatioSampler,
    RunFolder,
    UserError,
    device_name,
    micro_batch_size,
    open_run,
    precision,
    resolve_device,
    resolved,
    sampler_from_config,
    sampler_to_config,
    say,
    scheme_name,
    stamped,
    unfinished,
)
from r2mae_singlecell.options import Pretrain

PAPER_STEPS = 243_000
"""Steps of the paper's HLCA run (2,161,082 cells, 90 %, batches of 400, 50 epochs), to which its marks belong."""


@dataclass(frozen=True)
class Training:
    """How to train, without the data and the scheme; the defaults are the paper's where it names them."""

    epochs: int = 50
    batch_size: int = 400
    """Of an optimizer step, over all devices."""
    n_hidden: int = 1024
    n_latent: int = 512
    lr: float = 1e-3
    weight_decay: float = 1e-4
    eps: float = 1e-8
    log_every: int = 20
    precision: str = "auto"
    device: str = "auto"
    devices: int = 1
    """On each machine."""
    nodes: int = 1
    scale_curriculum: bool = True
    """Let the curriculum's marks (5,000 steps frozen, fall from 30,000 to 120,000) shrink with the training."""

    def n_steps(self, n_cells: int) -> int:
        """Return the optimizer steps of a training on the split of so many cells."""
        n_train = len(pretraining_split(n_cells)[0])
        return max(n_train // min(self.batch_size, n_train), 1) * self.epochs

    def sampler(self, mask_ratio: RatioSampler, n_cells: int) -> RatioSampler:
        """Return the sampler that such a training uses."""
        return scaled_curriculum(mask_ratio, self.n_steps(n_cells)) if self.scale_curriculum else mask_ratio


def pretrain_run(
    adata: Any,
    mask_ratio: RatioSampler,
    run: RunFolder,
    training: Training,
    *,
    task: str,
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """Train one model to the end, from the run's last checkpoint if there is one.

    The run folder gets `model/` and `results.json`, the loss of hidden genes at fixed ratios in the cells held out.

    Args:
        adata: prepared counts, in memory or backed, with `batch` in `obs`.
        mask_ratio: the scheme.
        run: the run folder.
        training: sizes and settings.
        task: the data set's name in the records.
        seed: of start, masks, dropout and order. The cells held out are the same for every seed.
        progress: show a progress bar.

    Returns:
        The trained `R2MAE`.

    Raises:
        UserError: the batch cannot be shared by the devices, the run was interrupted, or what `R2MAE.train` refuses.
    """
    import scvi

    from r2mae_core import StepProgress, Throughput, interrupted, matrix_products, quiet_lightning
    from r2mae_singlecell.checkpoints import StepCount
    from r2mae_singlecell.r2mae import R2MAE
    from r2mae_singlecell.reconstruction import held_out_loss

    device, world_size = resolve_device(training.device), training.devices * training.nodes
    on_each = micro_batch_size(None, training.batch_size, world_size, largest=training.batch_size)
    scvi.settings.verbosity = 30  # warnings
    R2MAE.setup_anndata(adata, batch_key="batch" if "batch" in adata.obs else None)
    train, validation = pretraining_split(adata.n_obs)
    steps = StepCount()
    callbacks: list[Any] = [steps, Throughput(min(training.batch_size, len(train)), unit="cells")]
    with quiet_lightning(), matrix_products(device):
        scvi.settings.seed = seed
        model = R2MAE(
            adata,
            n_hidden=training.n_hidden,
            n_latent=training.n_latent,
            mask_ratio=training.sampler(mask_ratio, adata.n_obs),
        )
        try:
            model.train(
                max_epochs=training.epochs,
                batch_size=on_each,
                accelerator={"cuda": "gpu"}.get(device, device),
                devices=training.devices,
                num_nodes=training.nodes,
                strategy="ddp" if world_size > 1 else "auto",
                precision=precision(training.precision, device),
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
                log_every_n_steps=training.log_every,
                callbacks=[*callbacks, StepProgress()] if progress else callbacks,
            )
        except (KeyboardInterrupt, SystemExit):
            raise interrupted(run, steps.step) from None
        trainer: Any = model.trainer  # pyright: ignore[reportAttributeAccessIssue]  scvi-tools sets it in train
        if trainer.is_global_zero:
            model.export(run.path / "model")
            records = held_out_loss(
                model, validation, task=task, scheme=scheme_name(mask_ratio, "singlecell"), seed=seed
            )
            run.write_results(stamped(records, device_name(device)))
        trainer.strategy.barrier()
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
        raise UserError(f"no file {path}; `r2mae-singlecell prepare ATLAS.h5ad --out {path}` makes one")
    try:
        adata = anndata.read_h5ad(path, backed="r")
    except (OSError, KeyError, ValueError, anndata._io.utils.AnnDataReadError) as error:
        raise UserError(f"{path} cannot be read as h5ad; is it whole? ({error})") from None
    if "r2mae" not in adata.uns:
        raise UserError(f"{path} was not prepared; run `r2mae-singlecell prepare {path}` first")
    return adata


def training_of(config: Any) -> Training:
    """Return the training settings among a command's options."""
    return Training(**{name: getattr(config, name) for name in Training.__dataclass_fields__ if hasattr(config, name)})


def load_run(path: Path, adata: Any, device: str) -> Any:
    """Return the model of a run folder.

    Raises:
        UserError: the folder holds no finished model.
    """
    import scvi

    from r2mae_singlecell.r2mae import R2MAE

    scvi.settings.verbosity = 30
    if not (path / "model" / "model.json").exists():
        raise unfinished(path)
    return R2MAE.from_export(path / "model", adata, device=resolve_device(device))


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain a model on a prepared file.

    Returns:
        The run folder: `model/`, and `results.json` with the loss of hidden genes in cells held out.

    Raises:
        UserError: what `pretrain_run` refuses, or the file was not prepared.
    """
    return _pretrain(config, read_prepared(config.data), _sampler(config))


def _sampler(config: Pretrain) -> RatioSampler:
    return sampler_from_config(config.mask_ratio, "singlecell", config.seed)


def _pretrain(config: Pretrain, adata: Any, sampler: RatioSampler) -> RunFolder:
    settings = {**resolved(config), "mask_ratio": sampler_to_config(sampler)}
    n_processes = config.devices * config.nodes
    run = open_run("r2mae-singlecell", "pretrain", config.out, settings, n_processes=n_processes)
    training = training_of(config)
    pretrain_run(adata, sampler, run, training, task=config.data.stem, seed=config.seed, progress=config.progress)
    return run


def pretrain_command(config: Pretrain) -> None:
    """Run `r2mae-singlecell pretrain`."""
    adata, sampler = read_prepared(config.data), _sampler(config)
    used = training_of(config).sampler(sampler, adata.n_obs)
    size = f"{adata.n_obs:,} cells × {adata.n_vars:,} genes"
    say(
        f"Pretraining a masked autoencoder ({config.n_hidden}/{config.n_latent}) on {config.data} ({size}), "
        f"ratio {used.describe()}, on {device_name(resolve_device(config.device))}"
    )
    run = _pretrain(config, adata, sampler)
    losses = ", ".join(f"{record.value:.4f} at {record.metric.removeprefix('loss@')}" for record in run.results())
    say(f"Loss per hidden gene in cells held out, by the share hidden: {losses}")
    say(f"Done: {run.path} (results.json, model/). Next: r2mae-singlecell probe {config.data} {run.path}")
