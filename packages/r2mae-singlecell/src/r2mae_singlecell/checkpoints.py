"""Checkpoints after each epoch, so that an interrupted `R2MAE.train` continues as if it had not been interrupted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from scvi.train._logger import SimpleLogger
from typing_extensions import override

from r2mae_core import AtomicCheckpoints, LoaderPosition, MetricsCSV, ResumableLoader, StepCheckpoints, UserError


class EpochCheckpoints(StepCheckpoints, Checkpoint):
    """Keeps the newest state of a training at the end of each epoch, after early stopping has decided.

    A `Checkpoint` by name alone: those come after all others. Lightning's `ModelCheckpoint` would be replaced by
    scvi-tools.

    Args:
        folder: gets `last.ckpt`.
        metrics: the log.
        made_from: what the training depends on: its data and options. A checkpoint of others is refused.
        defaults: what those are that a checkpoint does not name.
    """

    def __init__(
        self, folder: Path, metrics: MetricsCSV, made_from: Mapping[str, str], defaults: Mapping[str, str]
    ) -> None:
        super().__init__(folder, metrics=metrics)
        self.made_from, self.defaults, self.stopped = {**defaults, **made_from}, dict(defaults), False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpoints()  # writes whole files, and reads nothing but weights

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "made_from": self.made_from, "stopped": self.stopped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        there = {**self.defaults, **state_dict.get("made_from", {})}
        if differs := [name for name in self.made_from if there.get(name) != self.made_from[name]]:
            name = differs[0]
            values = f" ({there.get(name)} there, {self.made_from[name]} here)" if name not in _DIGESTS else ""
            raise UserError(
                f"{self.folder / 'last.ckpt'} is of a training with another {', another '.join(differs)}{values}; "
                "resume with the same, or name another folder with resume=..."
            )
        self.stopped = bool(state_dict.get("stopped"))
        super().load_state_dict(state_dict)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.resumed and (self.folder / "last.ckpt").exists():
            raise UserError(f"{self.folder / 'last.ckpt'} is not of R2MAE.train; name another folder with resume=...")
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self.stopped

    @override
    def save(self, trainer: pl.Trainer) -> None:
        if not trainer.is_last_batch:
            return  # `max_steps` ended the training within an epoch, which Lightning would take for a whole one
        self.stopped = bool(trainer.should_stop)
        super().save(trainer)


_DIGESTS = ("data", "missing_genes", "gene_sets")


def resumable(
    folder: Path,
    loader: Any,
    trainer_kwargs: dict[str, Any],
    made_from: Mapping[str, str],
    defaults: Mapping[str, str],
) -> tuple[dict[str, Any], list[pl.Callback]]:
    """Return the trainer's arguments with the checkpoint to resume from if there is one, and the callbacks of the plan.

    Args:
        folder: gets `checkpoints/last.ckpt` and `metrics.csv`.
        loader: its position is kept, if it is a `ResumableLoader`.
        trainer_kwargs: what the user gave.
        made_from: see `EpochCheckpoints`.
        defaults: see `EpochCheckpoints`.

    Raises:
        UserError: the folder is of a command, or holds a `metrics.csv` of something else.
    """
    _refuse_foreign(folder)
    checkpoints, metrics = folder / "checkpoints", MetricsCSV(folder / "metrics.csv")
    callbacks: list[pl.Callback] = [LoaderPosition(loader)] if isinstance(loader, ResumableLoader) else []
    loggers = trainer_kwargs.get("logger") or SimpleLogger()
    loggers = loggers if isinstance(loggers, list) else [loggers]
    arguments = {**trainer_kwargs, "logger": [*loggers, metrics]}
    if (checkpoints / "last.ckpt").exists():
        arguments["ckpt_path"] = checkpoints / "last.ckpt"
    return arguments, [*callbacks, EpochCheckpoints(checkpoints, metrics, made_from, defaults)]


def _refuse_foreign(folder: Path) -> None:
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder} is the run folder of a command; name another folder with resume=...")
    log = folder / "metrics.csv"
    if log.exists() and not log.read_bytes().startswith(b"step,metric,value\n"):
        raise UserError(f"{log} is not the log of a training; name another folder with resume=...")
