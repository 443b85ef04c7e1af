"""`fit`: a module, a loader and a run folder in; the trained module, its log and its checkpoint out."""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from r2mae_core.lab.errors import InterruptedTrainingError, UserError
from r2mae_core.lab.run_folder import RunFolder
from r2mae_core.train.callbacks import ClippingInBfloat16, LoaderPosition, StepProgress, Throughput
from r2mae_core.train.checkpoints import AtomicCheckpoints, check_shards
from r2mae_core.train.data_order import ResumableLoader
from r2mae_core.train.devices import resolve_device
from r2mae_core.train.metrics_csv import MetricsCSV
from r2mae_core.train.options import Tracker
from r2mae_core.train.sharding import sharded_strategy
from r2mae_core.train.step_checkpoints import StepCheckpoints
from r2mae_core.train.trackers import close_trackers, tracker_loggers

# What Lightning warns of, and is intended.
_BY_DESIGN = (
    ".*exists and is not empty.*",  # a run folder that exists is a resume
    ".*GPU available but not used.*",  # the user said cpu
    ".*no `val_dataloader`.*",  # validation is optional
    ".*smaller than the logging interval.*",  # steps are counted over epochs
    ".*does not have many workers.*",  # data in memory needs none
    ".*module\\(s\\) in eval mode at the start.*",  # an average of the weights, a frozen part
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning 2.6 with torch 2.15, its own code
)


def fit(
    module: pl.LightningModule,
    loader: Iterable[Any],
    run: RunFolder,
    *,
    max_epochs: int | None = None,
    max_steps: int = -1,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: Any = "32-true",
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = None,
    checkpoint_every: int | None = None,
    validation_loader: Iterable[Any] | None = None,
    validate_every: int | None = None,
    log_every: int = 50,
    loggers: Sequence[Logger] = (),
    tracker: Tracker = "csv",
    project: str = "r2mae",
    callbacks: Sequence[pl.Callback] = (),
    samples_per_step: int | None = None,
    description: str = "pretraining",
    progress: bool = True,
) -> pl.Trainer:
    """Train to the end, from the run folder's last checkpoint if there is one.

    Args:
        module: what to train, most often a `MaskedModule`.
        loader: a `ResumableLoader`, or any iterable that Lightning takes.
        run: where metrics and checkpoints go.
        max_epochs: length in epochs; or
        max_steps: length in optimizer steps.
        device: "auto", "cpu", "cuda", "mps".
        devices: how many of them on this machine.
        strategy: "auto" (ddp where there are several), "ddp", "fsdp" (weights and optimizer state divided over the
            ranks, checkpoints as folders of shards), or another of Lightning's names.
        num_nodes: machines.
        precision: Lightning's name, such as "bf16-mixed".
        accumulate_grad_batches: micro-batches per optimizer step.
        gradient_clip_val: largest gradient norm; None for no clipping.
        checkpoint_every: optimizer steps between checkpoints; None: at every epoch's end.
        validation_loader: batches for the loss at fixed ratios.
        validate_every: optimizer steps between validations; None: at every epoch's end.
        log_every: optimizer steps between two lines of the log.
        loggers: further Lightning loggers, beside `metrics.csv`.
        tracker: where the log goes too; see `tracker_loggers`.
        project: what the tracker groups runs by.
        callbacks: further Lightning callbacks.
        samples_per_step: samples of the global batch of a step; logs samples per second.
        description: what the progress bar is labelled with.
        progress: show a progress bar.

    Returns:
        Lightning's trainer, after the last step.

    Raises:
        UserError: the device or the tracker's package is absent, or the run was interrupted (the message says how to
            resume).
    """
    device, sharded = resolve_device(device), strategy == "fsdp"
    if run.last_checkpoint is not None and run.last_checkpoint.is_dir() != sharded:
        kind, other = ("in one piece", "another strategy than fsdp") if sharded else ("in shards", "--strategy fsdp")
        raise UserError(f"{run.last_checkpoint} is a checkpoint {kind}; resume with {other}")
    if run.last_checkpoint is not None and sharded:
        check_shards(run.last_checkpoint)
    metrics = MetricsCSV(run.metrics_file)
    checkpoints = StepCheckpoints(
        run.checkpoints, checkpoint_every, validate_every=validate_every, metrics=metrics, sharded=sharded
    )
    own: list[pl.Callback] = [ClippingInBfloat16()]
    if isinstance(loader, ResumableLoader):
        own.append(LoaderPosition(loader))
    if progress:
        own.append(StepProgress(description))
    if samples_per_step:
        own.append(Throughput(samples_per_step))
    with quiet_lightning(), matrix_products(device), contextlib.ExitStack() as at_the_end:
        trackers = tracker_loggers(tracker, run, project)
        at_the_end.callback(close_trackers, trackers)
        if isinstance(loader, ResumableLoader):
            at_the_end.callback(loader.close)
        trainer = _trainer(
            max_epochs=max_epochs,
            max_steps=max_steps,
            accelerator={"cuda": "gpu"}.get(device, device),
            devices=devices,
            strategy=sharded_strategy(devices * num_nodes) if sharded else strategy,
            num_nodes=num_nodes,
            precision=precision,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            callbacks=[*own, *callbacks, checkpoints],
            enable_checkpointing=False,  # Lightning's: ours is one of the callbacks
            plugins=None if sharded else [AtomicCheckpoints()],
            logger=[metrics, *trackers, *loggers],
            log_every_n_steps=log_every,
            # Counted in micro-batches, over the ends of epochs.
            val_check_interval=validate_every * accumulate_grad_batches if validate_every else None,
            check_val_every_n_epoch=None if validate_every else 1,
            enable_progress_bar=False,  # ours counts optimizer steps, over all epochs
            enable_model_summary=False,
            use_distributed_sampler=False,  # the loader knows its rank
            num_sanity_val_steps=0,
        )
        with contextlib.suppress(SystemExit):  # Lightning's answer to Ctrl-C
            trainer.fit(module, loader, validation_loader, ckpt_path=run.last_checkpoint, weights_only=True)
    if trainer.interrupted:
        raise interrupted(run, trainer.global_step)
    return trainer


def interrupted(run: RunFolder, step: int) -> UserError:
    """Return the message for a training that was stopped by the user."""
    kept = "its last checkpoint" if run.last_checkpoint else "the beginning (there was no checkpoint yet)"
    return InterruptedTrainingError(
        f"interrupted at step {step}; run the same command with --out {run.path} to resume from {kept}"
    )


@contextlib.contextmanager
def matrix_products(device: str) -> Iterator[None]:
    """Let float32 matrix products on a GPU use its matrix units; on a CPU they stay exact."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings", UserWarning)  # torch 2.9, of this call
        before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _trainer(**arguments: Any) -> pl.Trainer:
    """Build a trainer; what Lightning refuses of the user's options becomes a message."""
    try:
        return pl.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(str(error).strip()) from None


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's banners, tips and the warnings about what is intended: the command reports what it does."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for by_design in _BY_DESIGN:
            warnings.filterwarnings("ignore", message=by_design)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
