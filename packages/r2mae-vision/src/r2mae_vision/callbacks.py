"""What the log says beside the loss, and which images could not be read."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from r2mae_core.commands import say
from r2mae_core.data_order import rank_and_world_size
from r2mae_core.devices import peak_flops
from r2mae_vision.data.sources import Source
from r2mae_vision.flops import train_flops


class Speed(pl.Callback):
    """Logs images and operations per second, and MFU where the device's peak is known."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self.start, self.step = time.perf_counter(), trainer.global_step
        self.peak = peak_flops(trainer.strategy.root_device.type, None)

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step - self.step
        if not done or trainer.global_step % trainer.log_every_n_steps:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        rate = done * self.batch_size / (time.perf_counter() - self.start)
        ratio = pl_module.mask_ratio.mean(self.step, pl_module.total_steps())
        operations = rate * train_flops(pl_module.model, ratio)
        metrics = {"images_per_second": rate, "tflops": operations / 1e12}
        if self.peak is not None:
            metrics["mfu"] = operations / (self.peak * trainer.world_size)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        self.start, self.step = time.perf_counter(), trainer.global_step


class UnreadableImages(pl.Callback):
    """Counts and names the images that could not be decoded; the file appears with the first of them."""

    def __init__(self, source: Source, file: Path) -> None:
        rank = rank_and_world_size()[0]
        self.source, self.seen = source, set()
        self.file = file if rank == 0 else file.with_stem(f"{file.stem}.rank{rank}")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if len(batch) < 3 or not batch[2].numel():
            return
        if self.file.exists():  # of the run before an interruption
            self.seen.update(self.file.read_text(encoding="utf-8").splitlines())
        names = dict.fromkeys(self.source.file_name(index) for index in batch[2].tolist())  # pyright: ignore[reportAttributeAccessIssue]
        if new := [name for name in names if name not in self.seen]:
            self.seen.update(new)
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in new)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        if self.seen:
            say(f"{len(self.seen):,} images could not be decoded and were replaced by their neighbours: {self.file}")
