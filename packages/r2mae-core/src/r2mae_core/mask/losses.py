"""The weight of a sample in the loss, where each has a mask ratio of its own."""

import torch
from torch import Tensor


def counted_ratio(ratio: float | Tensor, n: int) -> float | Tensor:
    """Return the ratio that an exact count stands for, where a loss is divided by it.

    It is the ratio itself, except where `ratio * n` rounds to no position at all: exact counts hide one all the same,
    and divided by the ratio it would count without a bound. As 1 / n it counts as the whole row, which is what a row
    of Bernoulli masks is expected to count.

    Args:
        ratio: in [0, 1], or a tensor of them.
        n: positions of a row that could be hidden.
    """
    if isinstance(ratio, Tensor):
        return torch.where((ratio * n).round() < 1, 1.0 / n, ratio)
    return 1.0 / n if round(ratio * n) < 1 else ratio


def inverse_ratio_loss(
    loss: Tensor,
    ratio: float | Tensor,
    row: Tensor | None = None,
    *,
    n_rows: int,
    n_positions: float | Tensor,
) -> Tensor:
    """Return Σ loss / ratio over the hidden positions, divided by all positions: LLaDA's and MDLM's objective.

    The bound on the likelihood of masked diffusion: -E 1/t Σ 1[hidden] log p, with t the ratio of the row (LLaDA,
    equation 3; MDLM with the log-linear schedule).

    Args:
        loss: elementwise loss of the hidden positions, (N,), or (rows, P) with P of each row.
        ratio: of all rows, or (rows,): of each.
        row: (N,) int64, which row each loss is of; not needed for (rows, P).
        n_rows: rows of the batch.
        n_positions: positions of a row that could be hidden; with weights on the loss, the sum of all weights over
            rows and positions divided by `n_rows`.

    Raises:
        ValueError: ratios for each row, and no rows for the losses.
    """
    if isinstance(ratio, Tensor) and ratio.dim():
        inverse = (1.0 / ratio.double()).to(loss.device, torch.float32, non_blocking=True)
        if row is not None:
            loss = loss * inverse[row]
        elif loss.dim() > 1:
            loss = loss * inverse.view(-1, *[1] * (loss.dim() - 1))
        else:
            raise ValueError("a ratio for each row needs to know the row of each loss")
    else:
        loss = loss / float(ratio)
    return loss.sum() / (n_rows * n_positions)
