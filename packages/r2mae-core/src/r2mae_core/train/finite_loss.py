"""Stops a training whose loss is NaN or infinite, before a checkpoint of it is written."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from r2mae_core.lab.errors import LostTrainingError
from r2mae_core.train.data_order import ResumableLoader


class FiniteLoss(pl.LightningModule):
    """Stops a training whose loss is NaN or infinite, without waiting for the device in every step."""

    remedies = "lower the learning rate (--lr), clip gradients (--clip), or train in float32 (--precision 32-true)"
    """What a user can do about a loss that is not finite, in the options of the module's command."""

    _first_bad: Tensor | None = None

    def watch(self, loss: Tensor) -> None:
        """Note on the device the first step whose loss is NaN or infinite."""
        if self._first_bad is None or self._first_bad.device != loss.device:
            self._first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        bad = ~torch.isfinite(loss.detach()) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, self.global_step, self._first_bad)

    def check_finite(self) -> None:
        """Stop if the loss of a step so far was NaN or infinite. This waits for the device: call it at log steps.

        Raises:
            LostTrainingError: with the first such step.
        """
        if self._first_bad is not None and (step := int(self._first_bad)) >= 0:
            raise LostTrainingError(
                f"the loss is NaN or infinite from {self.describe_step(step)} on; {self._cause(step)}. The last "
                "checkpoint is from before that step"
            )

    def _cause(self, step: int) -> str:
        """Return why a loss is not finite, as far as it can be known, and what to do."""
        rows: list[int] = []
        with contextlib.suppress(Exception):  # a search that fails must not hide what it is about
            loader = self.trainer.train_dataloader
            rows = broken_rows(loader, step, self.trainer) if isinstance(loader, ResumableLoader) else []
        if rows:
            shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
            return f"its batch holds NaN or infinite values: training sample {shown}, counted from 0; correct the data"
        if step == 0:
            return f"no weight had changed by then: look for values in the data that are too large, or {self.remedies}"
        return self.remedies

    def describe_step(self, step: int) -> str:
        """Return how a step is named in the message."""
        return f"step {step}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Never replace a good checkpoint with a broken one.

        Raises:
            LostTrainingError: a loss or a weight is NaN or infinite.
        """
        self.check_finite()
        broken = [name for name, value in self.named_parameters() if not all_finite(value)]
        if broken:
            raise LostTrainingError(
                f"{broken[0]} is not finite after step {self.global_step - 1}, though the loss was; {self.remedies}. "
                "The last checkpoint is from before that step"
            )


def broken_rows(loader: ResumableLoader, step: int, trainer: pl.Trainer) -> list[int]:
    """Return the samples of an optimizer step, on this rank, whose values are not all finite."""
    found: list[int] = []
    accumulate = trainer.accumulate_grad_batches
    for position in range(step * accumulate, (step + 1) * accumulate):
        indices, batch = loader.batch_at(position)
        broken = [
            ~value.isfinite().reshape(len(value), -1).all(1).cpu()
            for value in tensors_in(batch)
            if value.is_floating_point() and value.ndim and len(value) == len(indices) and not value.is_sparse
        ]
        found += [int(np.atleast_1d(index)[0]) for mask in broken for index in indices[mask.numpy()]]
    return sorted(set(found))


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield every tensor of a batch, whatever holds it."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_in(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_in(value)


def all_finite(value: Tensor) -> bool:
    """Return whether every number is finite; of a sharded tensor, on every rank."""
    finite: Any = value.isfinite().all()
    return bool(finite.full_tensor() if hasattr(finite, "full_tensor") else finite)
