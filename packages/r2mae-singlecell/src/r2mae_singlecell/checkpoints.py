"""Checkpoints after each epoch, so that an interrupted `R2MAE.train` continues as if it had not been interrupted."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from scvi.train._logger import SimpleLogger

from r2mae_core import AtomicCheckpoints, LoaderPosition, MetricsCSV, ResumableLoader


class EpochCheckpoint(pl.Callback):
    """Writes the whole state at the end of each epoch. Not a `ModelCheckpoint`, which scvi-tools would replace."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the trainer write whole files, and read nothing but weights."""
        trainer.strategy.checkpoint_io = AtomicCheckpoints()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; every rank takes part, the first one writes."""
        trainer.save_checkpoint(self.file, weights_only=False)


def resumable(folder: Path, loader: Any, trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's arguments with checkpoints in `folder`, and with the one to resume from if there is one.

    Args:
        folder: gets `checkpoints/last.ckpt` and `metrics.csv`.
        loader: its position is kept, if it is a `ResumableLoader`.
        trainer_kwargs: what the user gave.

    Raises:
        UserError: the checkpoint is damaged, or holds more than tensors, numbers and strings.
    """
    last = folder / "checkpoints" / "last.ckpt"
    callbacks = [*trainer_kwargs.get("callbacks", ()), EpochCheckpoint(last)]
    if isinstance(loader, ResumableLoader):
        callbacks.append(LoaderPosition(loader))
    loggers = trainer_kwargs.get("logger") or SimpleLogger()
    loggers = loggers if isinstance(loggers, list) else [loggers]
    arguments = {**trainer_kwargs, "callbacks": callbacks, "logger": [*loggers, MetricsCSV(folder / "metrics.csv")]}
    if last.exists():
        arguments["ckpt_path"] = last
    return arguments
