"""Masks on the device: which positions are hidden, given the step's ratio (True = hidden)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def n_masked(ratio: float, n: int) -> int:
    """Return how many of `n` positions `exact_mask` hides: max(1, round(ratio * n)), and never more than n."""
    return min(max(1, round(ratio * n)), n)


def exact_mask(
    shape: Sequence[int],
    ratio: float,
    *,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Hide exactly `max(1, round(ratio * n_valid))` positions of every row, all choices equally likely.

    The count is known on the host, so nothing waits for the device and no row is ever empty (no NaN as ratio → 0).

    Args:
        shape: (…, n): rows of n positions.
        ratio: fraction hidden, in [0, 1].
        generator: source of randomness, on the mask's device.
        valid: bool, of `shape` or broadcastable to it: False where a position may not be hidden (special tokens,
            N bases). A row without a valid position has nothing hidden.
        device: where the mask is made; by default that of `valid`, else of `generator`, else the CPU.

    Returns:
        bool tensor of `shape`.

    Raises:
        ValueError: the ratio is not in [0, 1], or a row has no position.
    """
    _check(shape, ratio)
    device = _device(device, valid, generator)
    n = shape[-1]
    scores = torch.rand(tuple(shape), generator=generator, device=device)
    mask = torch.zeros(tuple(shape), dtype=torch.bool, device=device)
    if valid is None:
        chosen = scores.topk(n_masked(ratio, n), dim=-1, largest=False, sorted=False).indices
        return mask.scatter_(-1, chosen, True)
    valid = valid.to(device).expand(tuple(shape))
    n_valid = valid.sum(-1, keepdim=True)
    count = torch.minimum((n_valid.double() * ratio).round().clamp(min=1), n_valid)  # float64, as Python rounds
    order = scores.masked_fill(~valid, 2.0).argsort(dim=-1)
    return mask.scatter_(-1, order, torch.arange(n, device=device).expand(tuple(shape)) < count)


def bernoulli_mask(
    shape: Sequence[int],
    ratio: float,
    *,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Hide every position on its own with probability `ratio`: for parity with code that masks so.

    A row may come out empty; the loss must then not divide by its count. Arguments, result and errors are those of
    `exact_mask`.
    """
    _check(shape, ratio)
    device = _device(device, valid, generator)
    mask = torch.rand(tuple(shape), generator=generator, device=device) < ratio
    return mask if valid is None else mask & valid.to(device)


def _check(shape: Sequence[int], ratio: float) -> None:
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio!r}")
    if len(shape) == 0 or shape[-1] < 1:
        raise ValueError(f"shape must end in at least one position, got {tuple(shape)}")


def _device(
    device: torch.device | str | None, valid: Tensor | None, generator: torch.Generator | None
) -> torch.device | str:
    if device is not None:
        return device
    if valid is not None:
        return valid.device
    return generator.device if generator is not None else "cpu"


def nested_masks(
    shape: Sequence[int],
    ratios: Sequence[float],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw one exact mask per ratio from one set of scores: what a lower ratio hides, a higher one hides too.

    One sort serves every ratio, so many models that differ in their ratio alone are masked for the price of one,
    and are compared on common random numbers.

    Args:
        shape: (…, n): rows of n positions.
        ratios: R fractions hidden, each in [0, 1].
        generator: source of randomness, on the masks' device.
        device: where the masks are made; by default that of `generator`, else the CPU.

    Returns:
        bool tensor (R, …, n); each of the R masks is one that `exact_mask` draws from the same generator state.

    Raises:
        ValueError: a ratio is not in [0, 1], or a row has no position.
    """
    for ratio in ratios:
        _check(shape, ratio)
    device = _device(device, None, generator)
    n = shape[-1]
    order = torch.rand(tuple(shape), generator=generator, device=device).argsort(dim=-1)
    positions = torch.arange(n, dtype=torch.int32, device=device).expand(tuple(shape))
    ranks = torch.empty(tuple(shape), dtype=torch.int32, device=device).scatter_(-1, order, positions)
    counts = torch.tensor([n_masked(ratio, n) for ratio in ratios], dtype=torch.int32).to(device, non_blocking=True)
    return ranks < counts.view(-1, *[1] * len(shape))
