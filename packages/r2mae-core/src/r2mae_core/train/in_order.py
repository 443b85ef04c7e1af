"""Held-out data in batches: every row once, in its order, on every rank the same number of batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from r2mae_core.lab.errors import UserError
from r2mae_core.train.ranks import rank_and_world_size


def spread(n: int, limit: int) -> np.ndarray:
    """Return at most `limit` of `n` rows, evenly spread over them, (rows,) int64."""
    return np.linspace(0, n - 1, min(limit, n)).astype(np.int64)


class InOrder:
    """The batches of held-out rows, for validation.

    One process takes full batches and a smaller last one, as torch's DataLoader does. Several ranks take turns; where
    the batches would not come out even, they are cut into smaller ones of almost equal size, because a rank without a
    batch would let the others wait. No row is left out, and none is seen twice.

    Args:
        rows: their indices, in order.
        batch_size: most rows of a batch.
        fetch: turns (rows,) indices into a batch.

    Raises:
        UserError: there are fewer rows than ranks; or there is none.
    """

    def __init__(self, rows: Sequence[int] | np.ndarray, batch_size: int, fetch: Callable[[np.ndarray], Any]) -> None:
        self.rows, self.batch_size, self.fetch = np.asarray(rows), batch_size, fetch
        if len(self.rows) == 0 or batch_size < 1:
            raise UserError(f"{len(self.rows)} held-out rows in batches of {batch_size}: nothing to validate on")

    def parts(self, world_size: int) -> list[np.ndarray]:
        """Return the indices of every batch, in the order in which the ranks take turns."""
        n = -(-len(self.rows) // self.batch_size)
        if n % world_size == 0:
            return np.split(self.rows, range(self.batch_size, len(self.rows), self.batch_size))
        n = min(n + world_size - n % world_size, len(self.rows) // world_size * world_size)
        if n == 0:
            raise UserError(f"{len(self.rows)} held-out rows cannot be shared by {world_size} devices")
        return np.array_split(self.rows, n)

    def __len__(self) -> int:
        world_size = rank_and_world_size()[1]
        return len(self.parts(world_size)) // world_size

    def __iter__(self) -> Iterator[Any]:
        rank, world_size = rank_and_world_size()
        return map(self.fetch, self.parts(world_size)[rank::world_size])
