"""Masks for training loops without torch (JAX, Keras, anybody's): the rules of `exact_mask` and its kin, in numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2mae_core.mask.counts import check_shape
from r2mae_core.ratio.randomness import derived_seed


def step_generator(seed: int, step: int, shard: int = 0) -> np.random.Generator:
    """Return the source of a micro-batch's masks, a pure function of (seed, step, shard): resume needs no state.

    Args:
        seed: the user's seed.
        step: the optimizer step.
        shard: which part of the step's global batch; see `MaskedModule.shard`.
    """
    return np.random.Generator(np.random.Philox(derived_seed(seed, "mask", step, shard)))


def exact_mask(
    shape: Sequence[int], ratio: float | Any, *, rng: np.random.Generator, valid: Any = None
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Hide exactly `max(1, round(ratio * n_valid))` positions of every row, all choices equally likely.

    Args:
        shape: (…, n): rows of n positions.
        ratio: fraction hidden, in [0, 1], or an array of `shape[:-1]` with a fraction for each row.
        rng: source of randomness; see `step_generator`.
        valid: bool, broadcastable to `shape`: False where a position may not be hidden.

    Returns:
        bool array of `shape`, True = hidden. A row without a valid position has nothing hidden.

    Raises:
        ValueError: a ratio is not in [0, 1], the shapes do not fit, or a row has no position.
    """
    shape = check_shape(shape)
    n_valid = np.full((*shape[:-1], 1), shape[-1])
    scores = rng.random(shape)
    if valid is not None:
        valid = np.broadcast_to(np.asarray(valid, dtype=bool), shape)
        n_valid = valid.sum(-1, keepdims=True)
        scores = np.where(valid, scores, 2.0)
    counts = np.minimum(np.maximum(np.round(n_valid * _rows(shape, ratio)), 1), n_valid).astype(int)
    ranks = scores.argsort(-1, kind="stable").argsort(-1, kind="stable")
    return ranks < counts


def bernoulli_mask(
    shape: Sequence[int], ratio: float | Any, *, rng: np.random.Generator, valid: Any = None
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Hide every position on its own with probability `ratio`; a row may come out empty.

    Arguments, result and errors are those of `exact_mask`.
    """
    shape = check_shape(shape)
    mask = rng.random(shape) < _rows(shape, ratio)
    return mask if valid is None else mask & np.broadcast_to(np.asarray(valid, dtype=bool), shape)


def _rows(shape: tuple[int, ...], ratio: Any) -> "np.ndarray[Any, np.dtype[np.float64]]":
    ratios = np.asarray(ratio, dtype=np.float64)
    if not np.all((ratios >= 0) & (ratios <= 1)):
        raise ValueError(f"every ratio must lie in [0, 1], got {ratio!r}")
    try:
        return np.broadcast_to(ratios, shape[:-1])[..., None]
    except ValueError:
        raise ValueError(f"ratios of shape {ratios.shape} do not fit the rows of a mask {shape}") from None
