"""Tokenized examples, and batches of them with hardly any padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2mae_core import derived_seed, permutation
from r2mae_text.data.glue import Examples

_POOL = 50  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class Encoded:
    """Tokenized examples, end to end."""

    ids: np.ndarray
    """All tokens, (total,) int32."""
    types: np.ndarray
    """Which text a token is of, (total,) uint8; for models with token types."""
    starts: np.ndarray
    """(N + 1,) int64."""
    labels: Tensor
    """(N,) int64 or float32."""

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> np.ndarray:
        """Return tokens per example, (N,) int64."""
        return np.diff(self.starts)


def encode(tokenizer: Any, examples: Examples, max_length: int) -> Encoded:
    """Tokenize a split once, with the model's special tokens; what exceeds `max_length` is cut."""
    # Only pairs can lose the longer text first; for one text it is the same.
    batch = tokenizer(*examples.texts, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    ids, types = batch["input_ids"], batch["token_type_ids"]
    starts = np.cumsum([0, *(len(row) for row in ids)])
    flat = np.fromiter((token for row in ids for token in row), np.int32, starts[-1])
    kinds = np.fromiter((kind for row in types for kind in row), np.uint8, starts[-1])
    return Encoded(flat, kinds, starts, torch.from_numpy(examples.labels))


def batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield an epoch's batches of example numbers: neighbours in length share a batch, in random order.

    Examples are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches shuffled: a
    batch has hardly any padding, and every epoch has other batches.
    """
    order = permutation(len(lengths), seed, epoch)
    pools = [order[i : i + _POOL * batch_size] for i in range(0, len(order), _POOL * batch_size)]
    cut = []
    for pool in pools:
        ranked = pool[np.argsort(lengths[pool], kind="stable")]
        cut += [ranked[i : i + batch_size] for i in range(0, len(ranked), batch_size)]
    for i in permutation(len(cut), derived_seed(seed, "batches"), epoch):
        yield cut[i]


def collate(data: Encoded, which: np.ndarray, pad_id: int, multiple: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ids, attention mask, token types), each (B, W): padded to the batch's longest, rounded up.

    Args:
        data: the split.
        which: numbers of the examples, (B,).
        pad_id: the tokenizer's.
        multiple: W is a multiple of this, so that a GPU sees few shapes.
    """
    lengths = data.lengths()[which]
    width = -(-int(lengths.max()) // multiple) * multiple
    columns = np.arange(width)
    real = columns < lengths[:, None]
    places = np.where(real, data.starts[which][:, None] + columns, 0)
    ids = np.where(real, data.ids[places], pad_id)
    types = np.where(real, data.types[places], 0)
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(real), torch.from_numpy(types.astype(np.int64))


def subset(data: Encoded, which: np.ndarray) -> Encoded:
    """Return only these examples."""
    bounds = data.starts.tolist()
    places = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in which.tolist()])
    starts = np.cumsum([0, *data.lengths()[which]])
    return Encoded(data.ids[places], data.types[places], starts, data.labels[torch.from_numpy(which.copy())])
