"""Held-out windows in equal batches, the same in every run and shared by the ranks."""

import numpy as np

from r2mae_core import BatchOrder, ResumableLoader
from r2mae_dna.data.windows import WindowSet


def validation_loader(windows: WindowSet, batch_size: int, limit: int, world_size: int = 1) -> ResumableLoader:
    """Return equal batches of at most `limit` windows, evenly spread, the same in every run, forward strand.

    Raises:
        UserError: there are fewer windows than ranks.
    """
    limit = min(limit, len(windows))
    turns = -(-limit // (batch_size * world_size))
    order = _EvenOrder(len(windows), limit, max(limit // (turns * world_size), 1))
    order.n_batches(world_size)  # fails here rather than in the training
    return ResumableLoader(order, windows.batch)  # pyright: ignore[reportArgumentType]


class _EvenOrder:
    """Batches of evenly spread windows, in file order; ranks take turns."""

    def __init__(self, n: int, limit: int, batch_size: int) -> None:
        self.order = BatchOrder(limit, batch_size)
        self.rows = np.linspace(0, n - 1, limit).astype(np.int64)

    def n_batches(self, world_size: int = 1) -> int:
        return self.order.n_batches(world_size)

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        turn = position % self.n_batches(world_size)
        start = (turn * world_size + rank) * self.order.batch_size
        return self.rows[start : start + self.order.batch_size]
