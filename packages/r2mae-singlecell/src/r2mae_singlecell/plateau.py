"""A learning rate that falls when the validation loss no longer does, resumable to the bit."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from r2mae_core import UserError

METRICS = ("validation_loss", "reconstruction_loss_validation", "train_loss", "reconstruction_loss_train")
"""What may be watched."""


@dataclass(frozen=True)
class Plateau:
    """The options of scvi-tools' training plan for it, under its names.

    Raises:
        UserError: the metric does not exist, or a number is out of its bounds.
    """

    lr_factor: float = 0.6
    """What the learning rate is multiplied by."""
    lr_patience: int = 30
    """Epochs without improvement that are waited for."""
    lr_threshold: float = 0.0
    """What counts as an improvement, absolutely."""
    lr_scheduler_metric: str = "validation_loss"
    """What is watched."""
    lr_min: float = 0.0
    """Lowest learning rate."""

    def __post_init__(self) -> None:
        if self.lr_scheduler_metric not in METRICS:
            raise UserError(
                f"lr_scheduler_metric={self.lr_scheduler_metric!r} is not computed by R2MAE, which has neither ELBO "
                f"nor KL term; watch one of {', '.join(METRICS)}"
            )
        if not 0.0 < self.lr_factor < 1.0 or self.lr_patience < 0 or self.lr_min < 0 or self.lr_threshold < 0:
            raise UserError("lr_factor must be between 0 and 1; lr_patience, lr_min and lr_threshold at least 0")

    def scheduler(self, optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        """Return torch's scheduler."""
        return ReduceLROnPlateau(
            optimizer,
            factor=self.lr_factor,
            patience=self.lr_patience,
            threshold=self.lr_threshold,
            threshold_mode="abs",
            min_lr=self.lr_min,
        )


class PlateauSteps:
    """Steps the scheduler at the end of each epoch in which the metric was computed.

    Lightning would step it after the epoch's checkpoint has been written, so a resumed training would miss one step.
    """

    def __init__(self, plateau: Plateau) -> None:
        self.plateau = plateau
        self._scheduler: ReduceLROnPlateau | None = None
        self._state: dict[str, Any] | None = None

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimizer of a training."""
        self._scheduler = self.plateau.scheduler(optimizer)
        if self._state is not None:
            self._scheduler.load_state_dict(self._state)

    def end_epoch(self, metrics: dict[str, Any]) -> float:
        """Look at the epoch's metrics and return the learning rate of the next.

        Raises:
            UserError: what is watched is not among them.
        """
        name = self.plateau.lr_scheduler_metric
        assert self._scheduler is not None
        if name not in metrics:
            raise UserError(
                f"reduce_lr_on_plateau watches {name}, which was not computed: give validation cells "
                "(train_size below 1, check_val_every_n_epoch=1), or lr_scheduler_metric='train_loss'"
            )
        self._scheduler.step(float(metrics[name]))
        return float(self._scheduler.optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        assert self._scheduler is not None
        kept = {"best": float(self._scheduler.best)}
        for name in ("num_bad_epochs", "cooldown_counter", "last_epoch"):
            kept[name] = int(getattr(self._scheduler, name))
        return kept

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, once the optimizer is there."""
        self._state = dict(state)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(self._state)
