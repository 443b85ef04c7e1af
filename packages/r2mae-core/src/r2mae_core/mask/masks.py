"""Masks on the device: which positions are hidden, given the step's ratio or each row's (True = hidden)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from r2mae_core.mask.counts import check_fraction, check_shape, n_masked

Device = torch.device | str | None
LONG_ROW = 1024
"""Positions from which on each row is divided by itself on a CPU, which is then quicker than sorting all rows."""


def exact_mask(
    shape: Sequence[int],
    ratio: float | Tensor,
    *,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
    device: Device = None,
) -> Tensor:
    """Hide exactly `max(1, round(ratio * n_valid))` positions of every row, all choices equally likely.

    The count is known on the host, so nothing waits for the device and no row is ever empty (no NaN as ratio → 0).

    Args:
        shape: (…, n): rows of n positions.
        ratio: fraction hidden, in [0, 1]; or a tensor of `shape[:-1]`, or broadcastable to it, with a fraction for each
            row. On the CPU its values are checked; on another device that would wait for it, and is left out.
        generator: source of randomness, on the mask's device.
        valid: bool, of `shape` or broadcastable to it: False where a position may not be hidden (special tokens,
            N bases). A row without a valid position has nothing hidden.
        device: where the mask is made; by default that of `valid`, else of `generator`, else the CPU.

    Returns:
        bool tensor of `shape`.

    Raises:
        ValueError: a ratio is not in [0, 1], their shape does not fit, or a row has no position.
    """
    shape, device = check_shape(shape), _device(device, valid, generator)
    n = shape[-1]
    if valid is None and not isinstance(ratio, Tensor):
        check_fraction(ratio)
        scores = torch.rand(shape, generator=generator, device=device)
        chosen = scores.topk(n_masked(ratio, n), dim=-1, largest=False, sorted=False).indices
        return torch.zeros(shape, dtype=torch.bool, device=device).scatter_(-1, chosen, True)
    counts = row_counts(shape, ratio, valid, device)
    return hide_lowest(torch.rand(shape, generator=generator, device=device), counts, valid)


def bernoulli_mask(
    shape: Sequence[int],
    ratio: float | Tensor,
    *,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
    device: Device = None,
) -> Tensor:
    """Hide every position on its own with probability `ratio`: for parity with code that masks so.

    A row may come out empty; the loss must then not divide by its count. Arguments, result and errors are those of
    `exact_mask`.
    """
    shape, device = check_shape(shape), _device(device, valid, generator)
    threshold = row_ratios(shape, ratio, device)
    mask = torch.rand(shape, generator=generator, device=device) < threshold
    return mask if valid is None else mask & valid.to(device)


def row_ratios(shape: Sequence[int], ratio: float | Tensor, device: Device) -> float | Tensor:
    """Return a checked ratio: a number, or a tensor (…, 1) of float64 on the device that broadcasts over rows.

    Raises:
        ValueError: a ratio is not in [0, 1], or the shape does not fit.
    """
    if not isinstance(ratio, Tensor):
        check_fraction(ratio)
        return ratio
    if ratio.device.type == "cpu" and not bool(((ratio >= 0) & (ratio <= 1)).all()):
        wrong = ratio[~((ratio >= 0) & (ratio <= 1))].flatten()[0]
        raise ValueError(f"every ratio must lie in [0, 1], got {float(wrong)!r}")
    try:
        rows = ratio.expand(tuple(shape[:-1]))
    except RuntimeError:
        raise ValueError(
            f"ratios of shape {tuple(ratio.shape)} do not fit the rows of a mask {tuple(shape)}: one each is needed"
        ) from None
    return rows.to(device, torch.float64, non_blocking=True).unsqueeze(-1)


def row_counts(shape: Sequence[int], ratio: float | Tensor, valid: Tensor | None, device: Device) -> Tensor:
    """Return how many positions of each row to hide, int64 (…, 1), by the rule of `n_masked` over its valid ones."""
    checked = row_ratios(shape, ratio, device)
    if valid is None:
        n_valid = torch.full((*shape[:-1], 1), shape[-1], device=device)
    else:
        n_valid = valid.to(device).expand(tuple(shape)).sum(-1, keepdim=True)
    return torch.minimum((n_valid.double() * checked).round().long().clamp(min=1), n_valid)  # float64, as Python rounds


def hide_lowest(scores: Tensor, counts: Tensor, valid: Tensor | None = None) -> Tensor:
    """Hide in each row the `counts` valid positions with the lowest scores; of equal scores those that come first.

    Args:
        scores: (…, n) in [0, 1).
        counts: (…, 1) int64, at most as many as there are valid positions.
        valid: bool, broadcastable to the scores.

    Returns:
        bool tensor of the scores' shape.
    """
    if valid is not None:
        scores = scores.masked_fill(~valid.to(scores.device), 2.0)
    if scores.device.type == "cpu":
        return _hide_lowest_on_cpu(scores, counts)
    order = scores.argsort(dim=-1, stable=True)
    chosen = torch.arange(scores.shape[-1], device=scores.device) < counts
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, chosen.expand(scores.shape))


def _hide_lowest_on_cpu(scores: Tensor, counts: Tensor) -> Tensor:
    """Return `hide_lowest` by numpy, whose sorting is several times quicker than torch's on a CPU."""
    import numpy as np

    n = scores.shape[-1]
    rows, wanted = scores.reshape(-1, n).numpy(), counts.reshape(-1, 1).numpy()
    last = np.maximum(wanted, 1) - 1
    if n >= LONG_ROW:
        highest = np.array([[np.partition(row, k)[k]] for row, (k,) in zip(rows, last.tolist(), strict=True)])
    else:
        highest = np.take_along_axis(np.sort(rows, axis=-1), last, axis=-1)
    hidden = (rows <= highest) & (wanted > 0)
    tied = np.flatnonzero(hidden.sum(-1) != wanted[:, 0])  # scores are multiples of 2^-24: a few in a million are equal
    if len(tied):
        order = rows[tied].argsort(-1, kind="stable")
        chosen = np.zeros((len(tied), n), dtype=bool)
        np.put_along_axis(chosen, order, np.arange(n) < wanted[tied], axis=-1)
        hidden[tied] = chosen
    return torch.from_numpy(hidden).view(scores.shape)


def _device(device: Device, valid: Tensor | None, generator: torch.Generator | None) -> torch.device | str:
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
    device: Device = None,
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
    shape = check_shape(shape)
    for ratio in ratios:
        check_fraction(ratio)
    device = _device(device, None, generator)
    n = shape[-1]
    order = torch.rand(shape, generator=generator, device=device).argsort(dim=-1)
    positions = torch.arange(n, dtype=torch.int32, device=device).expand(shape)
    ranks = torch.empty(shape, dtype=torch.int32, device=device).scatter_(-1, order, positions)
    counts = torch.tensor([n_masked(ratio, n) for ratio in ratios], dtype=torch.int32).to(device, non_blocking=True)
    return ranks < counts.view(-1, *[1] * len(shape))
