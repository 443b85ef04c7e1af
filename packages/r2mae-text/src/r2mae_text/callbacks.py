"""What the log says beside the loss: speed, and the loss on held-out text at a fixed ratio."""

from typing import Any

import lightning.pytorch as pl

from r2mae_core.training import Throughput, operations_metrics
from r2mae_text.data.shards import Corpus
from r2mae_text.evaluate import VALIDATION_RATIO, validation_loss
from r2mae_text.model import train_flops_per_token

MAX_ROWS_BETWEEN = 256
"""Rows of the validations during training; the one at the end takes more."""


class Speed(Throughput):
    """Logs tokens and operations per second, MFU where the device's peak is known, and the unigram line.

    Args:
        batch_size: rows of an optimizer step.
        length: tokens per row.
        peak_tflops: the device's peak; None: that of known GPUs.
        unigram_entropy: loss of a model that ignores context, nats.
    """

    def __init__(self, batch_size: int, length: int, peak_tflops: float | None, unigram_entropy: float) -> None:
        super().__init__(batch_size * length)
        self.length, self.peak_tflops, self.unigram_entropy = length, peak_tflops, unigram_entropy

    def metrics(self, rate: float, steps: range, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:  # noqa: D102
        total = pl_module.total_steps()
        share = sum(pl_module.mask_ratio.mean(step, total) for step in steps) / len(steps)
        operations = rate * train_flops_per_token(pl_module.model.config, self.length, share)
        return {
            "tokens_per_second": rate,
            "tokens": float(trainer.global_step * self.samples_per_step),
            "unigram_entropy": self.unigram_entropy,
            **operations_metrics(operations, trainer, self.peak_tflops),
        }


class Validation(pl.Callback):
    """Logs the loss on held-out rows at ratio 0.15, with the same masks for every run.

    Args:
        corpus: whose validation split; nothing is logged if it is empty.
        length: tokens per row.
        every: optimizer steps between two validations.
    """

    def __init__(self, corpus: Corpus, length: int, every: int) -> None:
        has_row = any(s["tokens"] >= length - 1 for s in corpus.index["shards"] if s["split"] == "validation")
        self.rows = corpus.rows("validation", length) if has_row else None
        self.every, self.last = every, 0

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.rows is None or step == self.last or step % self.every:
            return
        self.last = step
        device = trainer.strategy.root_device.type
        loss = validation_loss(pl_module.model, self.rows, pl_module.rule, device=device, max_rows=MAX_ROWS_BETWEEN)
        for logger in trainer.loggers:
            logger.log_metrics({f"val_loss/ratio_{VALIDATION_RATIO:g}": loss}, step)
