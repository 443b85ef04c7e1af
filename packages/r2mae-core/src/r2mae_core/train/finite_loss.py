"""Stops a training whose loss is NaN or infinite, before a checkpoint of it is written."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from r2mae_core.lab.errors import UserError


class FiniteLoss(pl.LightningModule):
    """Stops a training whose loss is NaN or infinite, without waiting for the device in every step."""

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
            UserError: with the first such step.
        """
        if self._first_bad is not None and (step := int(self._first_bad)) >= 0:
            raise UserError(
                f"the loss is NaN or infinite from {self.describe_step(step)} on; lower the learning rate, clip "
                "gradients, or train in float32 (--precision 32-true). The last checkpoint is from before that step"
            )

    def describe_step(self, step: int) -> str:
        """Return how a step is named in the message."""
        return f"step {step}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Never replace a good checkpoint with a broken one.

        Raises:
            UserError: a loss or a weight is NaN or infinite.
        """
        self.check_finite()
        broken = [name for name, value in self.named_parameters() if not all_finite(value)]
        if broken:
            raise UserError(
                f"{broken[0]} is not finite after step {self.global_step - 1}, though the loss was; lower the learning "
                "rate, or clip gradients. The last checkpoint is from before that step"
            )


def all_finite(value: Tensor) -> bool:
    """Return whether every number is finite; of a sharded tensor, on every rank."""
    finite: Any = value.isfinite().all()
    return bool(finite.full_tensor() if hasattr(finite, "full_tensor") else finite)
