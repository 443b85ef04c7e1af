"""What watches a training: the loader's position, the speed, and the progress bar."""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from tqdm import tqdm
from typing_extensions import override

from r2mae_core.train.data_order import ResumableLoader
from r2mae_core.train.devices import peak_flops


class LoaderPosition(pl.Callback):
    """Keeps the data loader's position in the checkpoint; Lightning restores it in the middle of an epoch only."""

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loader.load_state_dict(state_dict)


class ClippingInBfloat16(pl.Callback):
    """Lets gradients be clipped in mixed precision where the optimizer is fused.

    Lightning refuses that, because a fused optimizer could undo the scaling of gradients itself; in bfloat16 there is
    none.
    """

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]


class Throughput(pl.Callback):
    """Logs samples and operations per second between two log steps, and MFU where the device's peak is known.

    Args:
        samples_per_step: of the global batch.
        unit: what a sample is called, such as "windows".
        operations: mask ratio → operations of forward and backward for one sample, or None where they are not counted.
        peak_tflops: the device's peak; None: that of known GPUs.
    """

    def __init__(
        self,
        samples_per_step: int,
        unit: str = "samples",
        operations: Callable[[float], float | None] | None = None,
        peak_tflops: float | None = None,
    ) -> None:
        self.samples_per_step, self.unit = samples_per_step, unit
        self.operations, self.peak_tflops = operations, peak_tflops

    def metrics(self, rate: float, steps: range, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        """Return what to log of a rate in samples per second, measured over these optimizer steps."""
        metrics = {f"{self.unit}_per_second": rate}
        if self.operations is None:
            return metrics
        total, sampler = pl_module.total_steps(), pl_module.mask_ratio
        operations = self.operations(sum(sampler.mean(step, total) for step in steps) / len(steps))
        if operations is None:
            return metrics
        return {**metrics, **operations_metrics(rate * operations, trainer, self.peak_tflops)}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start, self.step = time.perf_counter(), trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = range(self.step, trainer.global_step)
        if not steps or trainer.global_step % trainer.log_every_n_steps:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        rate = len(steps) * self.samples_per_step / (time.perf_counter() - self.start)
        metrics = self.metrics(rate, steps, trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step - 1)  # the losses of this step have its place, from 0 on
        self.start, self.step = time.perf_counter(), trainer.global_step


def operations_metrics(operations: float, trainer: pl.Trainer, peak_tflops: float | None = None) -> dict[str, float]:
    """Return "tflops", and "mfu" where the device's peak is known or given, of operations per second."""
    metrics = {"tflops": operations / 1e12}
    peak = peak_flops(trainer.strategy.root_device.type, peak_tflops)
    return metrics if peak is None else {**metrics, "mfu": operations / (peak * trainer.world_size)}


class StepProgress(pl.Callback):
    """One bar over all optimizer steps, with the time that is left; a line every ten seconds where no one watches.

    Args:
        description: the bar's label.
    """

    def __init__(self, description: str = "pretraining") -> None:
        self.description = description

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        self.bar = tqdm(
            desc=self.description,
            total=int(steps) if steps != float("inf") else None,
            initial=trainer.global_step,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            dynamic_ncols=True,
            disable=trainer.global_rank != 0,
        )

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.bar.update(trainer.global_step - self.bar.n)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.close()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()  # before the message
