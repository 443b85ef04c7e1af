"""When a training saves: between two optimizer steps, after the validation that belongs to the first of them."""

import math
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.sealed import write_checksums
from r2mae_core.train.metrics_csv import MetricsCSV
from r2mae_core.train.trackers import forget_from


class StepCheckpoints(pl.Callback):
    """Keeps the newest state of a training, so that it goes on as if it had not been interrupted.

    Must be the last of the callbacks, so that it saves what the others know of the same validation. Lightning's own
    `ModelCheckpoint` saves again in the first micro-batch after a resume, when part of a gradient is accumulated, and
    before the validation that is due at the same step.

    Args:
        folder: gets `last.ckpt`, or a folder of shards for each checkpoint, of which the newest is kept.
        every: optimizer steps between two checkpoints; None: at every epoch's end.
        validate_every: optimizer steps between two validations; None: at every epoch's end.
        metrics: the log; what it holds beyond the checkpoint that a training goes on from is taken back.
        sharded: each rank writes its part.
    """

    def __init__(
        self,
        folder: Path,
        every: int | None = None,
        *,
        validate_every: int | None = None,
        metrics: MetricsCSV | None = None,
        sharded: bool = False,
    ) -> None:
        self.folder, self.every, self.validate_every = folder, every, validate_every
        self.metrics, self.sharded = metrics, sharded
        self.saved, self.resumed = 0, False

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"log": self.metrics.mark()} if self.metrics is not None else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = True
        if self.metrics is not None and "log" in state_dict:
            self.metrics.go_back_to(state_dict["log"])

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = trainer.global_step  # what a training goes on from is there already
        if not self.resumed and self.metrics is not None:
            self.metrics.go_back_to(None)  # a start that was killed before its first checkpoint
        forget_from(trainer.global_step, trainer.loggers)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # The step that Lightning writes beside a validation's losses; after some resumes it counts one too many.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._due(trainer) and not self._validation_follows(trainer):
            self.save(trainer)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self._due(trainer):
            self.save(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every is None and trainer.global_step != self.saved:
            self.save(trainer)

    def _due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step  # changes with the last micro-batch of a step, and at no other
        return self.every is not None and step != self.saved and step % self.every == 0

    def _validation_follows(self, trainer: pl.Trainer) -> bool:
        if not trainer.enable_validation:
            return False
        return trainer.is_last_batch if self.validate_every is None else trainer.global_step % self.validate_every == 0

    def save(self, trainer: pl.Trainer) -> None:
        """Save the state as it is; every rank takes part."""
        self.saved = trainer.global_step
        if not self.sharded:
            trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
            return
        # A folder of shards cannot be replaced at once: each has a name of its own, and the older goes last.
        newest = self.folder / f"sharded-step={trainer.global_step}.ckpt"
        if trainer.is_global_zero and newest.exists():  # cut off while it was written
            shutil.rmtree(newest)
        trainer.strategy.barrier()
        trainer.save_checkpoint(newest, weights_only=False)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            write_checksums(newest)
            for older in self.folder.glob("sharded-*.ckpt"):
                if older != newest:
                    shutil.rmtree(older)


class KeepBest(pl.Callback):
    """Keeps the weights of the validation with the least loss in a file of their own.

    Its state belongs to the run, wherever the run's folder lies.

    Args:
        file: where the weights go; read with `read_weights`.
        monitor: the metric.
    """

    def __init__(self, file: Path, monitor: str) -> None:
        self.file, self.monitor, self.best = file, monitor, math.inf

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.best < math.inf and not self.file.exists():
            raise UserError(
                f"{self.file}, the best model so far, is missing; restore it, or start anew in another --out"
            )

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor])
        if value < self.best:
            self.best = value
            trainer.save_checkpoint(self.file, weights_only=True)
