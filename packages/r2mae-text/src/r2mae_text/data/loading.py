"""Rows of a corpus as batches: shuffled for training, the first few for validation."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2mae_core import ResumableLoader, StepOrder
from r2mae_text.data.shards import Corpus, TokenRows

_VALIDATION_ROWS, _VALIDATION_BATCH = 256, 32
"""Rows of the validations during training, and how many are computed at once; the one at the end takes more."""


def training_loader(rows: TokenRows, order: StepOrder, device: str) -> ResumableLoader:
    """Return micro-batches, (B, L) uint16, in the given order."""
    return ResumableLoader(order, _fetcher(rows, device))  # pyright: ignore[reportArgumentType]


def validation_loader(corpus: Corpus, length: int, device: str) -> ResumableLoader | None:
    """Return the first rows of the validation split, the same in every run; None if there is not one."""
    if not any(s["tokens"] >= length - 1 for s in corpus.index["shards"] if s["split"] == "validation"):
        return None
    rows = corpus.rows("validation", length)
    return ResumableLoader(_InTurn(min(len(rows), _VALIDATION_ROWS)), _fetcher(rows, device))  # pyright: ignore[reportArgumentType]


class _InTurn:
    """Batches of the first rows, in order. Ranks take turns, and begin again where that leaves one without a batch."""

    def __init__(self, n: int) -> None:
        self.cuts = np.split(np.arange(n), range(_VALIDATION_BATCH, n, _VALIDATION_BATCH))

    def n_batches(self, world_size: int = 1) -> int:
        return -(-len(self.cuts) // world_size)

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        turn = position % self.n_batches(world_size)
        return self.cuts[(turn * world_size + rank) % len(self.cuts)]


def _fetcher(rows: TokenRows, device: str) -> Any:
    """Return what turns indices into a batch: 16-bit ids, pinned and sent without waiting where there is a GPU."""

    def fetch(indices: Any) -> Tensor:
        batch = torch.from_numpy(rows[indices])
        return batch.pin_memory() if device == "cuda" else batch

    return fetch
