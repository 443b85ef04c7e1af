"""Learned loss weights with conserved mass (CL-MAE and R2MAE + CL; paper, appendix A.3, equation 9)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def sinkhorn(S: Tensor, row_sum: float, col_sum: float, n_iters: int = 5) -> Tensor:
    """Scale a positive matrix until its rows and columns have the given sums (paper, equation 9).

    Works in the logarithm and in float32 (or float64, if `S` is): tiny and huge entries neither vanish nor overflow.
    Ends on the columns, so column sums are exact and row sums approach theirs with `n_iters`.

    Args:
        S: (…, L, K), positive. Each matrix of the batch is scaled on its own.
        row_sum: sum of every row; the paper's is K.
        col_sum: sum of every column; the paper's is L. L · row_sum must equal K · col_sum.
        n_iters: rounds of rows, then columns.

    Returns:
        (…, L, K), float32 or float64, differentiable in `S`.

    Raises:
        ValueError: the sums contradict each other, `n_iters` is below 1, or `S` is not a matrix.
    """
    if S.dim() < 2:
        raise ValueError(f"S must be (…, L, K), got {tuple(S.shape)}")
    n_rows, n_cols = S.shape[-2:]
    if n_iters < 1:
        raise ValueError(f"n_iters must be at least 1, got {n_iters}")
    if not (row_sum > 0 and col_sum > 0 and math.isclose(n_rows * row_sum, n_cols * col_sum, rel_tol=1e-6)):
        raise ValueError(
            f"{n_rows} rows of sum {row_sum} and {n_cols} columns of sum {col_sum} do not have the same positive total"
        )
    with torch.autocast(device_type=S.device.type, enabled=False):
        log_s = (S if S.dtype == torch.float64 else S.float()).log()
        for _ in range(n_iters):
            log_s = log_s - log_s.logsumexp(-1, keepdim=True) + math.log(row_sum)
            log_s = log_s - log_s.logsumexp(-2, keepdim=True) + math.log(col_sum)
        return log_s.exp()


def _sinkhorn_column(S: Tensor, column: int, n_iters: int) -> Tensor:
    """Return one column of `sinkhorn(S, K, L, n_iters)`, by row and column factors instead of whole matrices.

    Only for entries of moderate size, such as sigmoids with an offset; several times faster than the logarithms.
    Sums of products, not matmul, which would round to TF32 where the user allows that.
    """
    n_rows, n_cols = S.shape[-2:]
    with torch.autocast(device_type=S.device.type, enabled=False):
        by_column = torch.ones_like(S[..., 0, :])
        by_row = torch.ones_like(S[..., 0])
        for _ in range(n_iters):
            by_row = n_cols / (S * by_column.unsqueeze(-2)).sum(-1)
            by_column = n_rows / (S * by_row.unsqueeze(-1)).sum(-2)
        return by_row * S[..., column] * by_column[..., column].unsqueeze(-1)


class _ScaleGradient(torch.autograd.Function):
    """Identity forward; the gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor  # pyright: ignore[reportAttributeAccessIssue]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None  # pyright: ignore[reportAttributeAccessIssue]


class CurriculumWeights(nn.Module):
    """Weights of the elementwise loss: head → positive matrix → Sinkhorn → the column of the step's ratio.

    Two shapes of use. Token-wise (DNA): the rows are the masked tokens of the batch, `n_features` is None, and the
    input is (L, in_features). Per cell (single cell): every cell has its own matrix over `n_features` genes, and the
    input is (cells, in_features).

    The last layer starts at zero, so every weight is 1 until the head has learned something. While the multiplier is
    0 (frozen) the weights are exactly 1 and the head's gradient is zero, not absent, as DDP requires. Nothing
    flows back into the input. Give the head's parameters no weight decay if it must not move at all while frozen.

    Args:
        in_features: width of the input.
        n_columns: K, the number of ratios.
        n_features: genes per cell, or None for the token-wise use.
        hidden: widths of the hidden layers; the paper has (128, 128) for DNA and (128, 256) for single cells.
        offset: what is added to the sigmoid, which bounds the raw weights away from zero: 0.5 for DNA, 1e-9 for
            single cells in the paper.
        n_iters: Sinkhorn rounds (the paper says "a few"; 5 is our choice).
    """

    def __init__(
        self,
        in_features: int,
        n_columns: int = 10,
        *,
        n_features: int | None = None,
        hidden: Sequence[int] = (128, 128),
        offset: float = 0.5,
        n_iters: int = 5,
    ) -> None:
        super().__init__()
        self.n_columns, self.n_features = n_columns, n_features
        self.offset, self.n_iters = offset, n_iters
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        last = nn.Linear(widths[-1], n_columns * (n_features or 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(*layers, last)

    def matrix(self, x: Tensor) -> Tensor:
        """Return the whole weight matrix, (L, K) token-wise or (cells, n_features, K), float32, mean 1."""
        positive = self._positive(x)
        return sinkhorn(positive, self.n_columns, positive.shape[-2], self.n_iters)

    def _positive(self, x: Tensor) -> Tensor:
        raw = self.head(x.detach())
        if self.n_features is not None:
            raw = raw.view(*raw.shape[:-1], self.n_features, self.n_columns)
        return raw.float().sigmoid() + self.offset

    def forward(self, x: Tensor, column: int, multiplier: float = 1.0) -> Tensor:
        """Return the weights of one column.

        Args:
            x: (L, in_features) or (cells, in_features); detached here.
            column: the ratio's index, from `Curriculum.column`.
            multiplier: m(t), from `Curriculum.multiplier`: the factor on the head's gradient; 0 is frozen.

        Returns:
            (L,) or (cells, n_features), float32; every column has mean 1.
        """
        weights = _sinkhorn_column(self._positive(x), column, self.n_iters)
        if multiplier == 0.0:
            return 1.0 + _ScaleGradient.apply(weights - weights.detach(), 0.0)  # pyright: ignore[reportReturnType, reportOperatorIssue]
        return _ScaleGradient.apply(weights, multiplier)  # pyright: ignore[reportReturnType]

    @staticmethod
    def log_spread(weights: Tensor) -> Tensor:
        """Return the standard deviation of the logarithm of the weights: 0 when all are equal, for the log."""
        return weights.detach().clamp_min(torch.finfo(weights.dtype).tiny).log().std(correction=0)


def weighted_mean(loss: Tensor, weights: Tensor, curriculum: Tensor | None = None) -> Tensor:
    """Return sum(w · W · loss) / sum(w): the curriculum weights W stay out of the denominator.

    Args:
        loss: elementwise loss.
        weights: fixed weights w of the same shape: 1 where hidden, 0 elsewhere, or any others.
        curriculum: W, from `CurriculumWeights`; None for a plain weighted mean.
    """
    weighted = weights * loss if curriculum is None else weights * curriculum * loss
    return weighted.sum() / weights.sum()
