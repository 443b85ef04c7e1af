"""Which rows are in which micro-batch: whole optimizer steps only, however a step is divided."""

from dataclasses import dataclass

import numpy as np

from r2mae_core import UserError
from r2mae_core.data_order import permutation


@dataclass(frozen=True)
class StepOrder:
    """The order of micro-batches for a `ResumableLoader`.

    An epoch is as many whole steps as the rows fill, so that no step straddles two epochs, and the rows of a step are
    the same for every micro-batch size and number of ranks.

    Raises:
        UserError: the rows do not fill a step, or the micro-batch does not divide it.
    """

    n_rows: int
    step_size: int
    """Rows of an optimizer step, over all ranks."""
    micro_size: int
    """Rows that one rank computes at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_rows < self.step_size:
            raise UserError(
                f"the corpus has {self.n_rows:,} rows, fewer than a batch of {self.step_size:,}; lower --batch_size "
                "or give more text"
            )

    def n_batches(self, world_size: int = 1) -> int:
        """Return the micro-batches of an epoch on one rank."""
        return self.n_rows // self.step_size * self.micro_batches(world_size)

    def micro_batches(self, world_size: int = 1) -> int:
        """Return the micro-batches of an optimizer step on one rank."""
        per_step, rest = divmod(self.step_size, self.micro_size * world_size)
        if rest or not per_step:
            raise UserError(
                f"a batch of {self.step_size} rows cannot be divided into micro-batches of {self.micro_size} on "
                f"{world_size} device(s); choose a --micro_batch_size that divides it"
            )
        return per_step

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """Return the rows of a rank's micro-batch, (micro_size,) int64."""
        epoch, turn = divmod(position, self.n_batches(world_size))
        start = (turn * world_size + rank) * self.micro_size
        return permutation(self.n_rows, self.seed, epoch)[start : start + self.micro_size].copy()
