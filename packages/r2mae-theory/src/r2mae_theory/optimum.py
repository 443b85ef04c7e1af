"""The best fixed ratio and the best range of ratios, by the exact theory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, minimize_scalar

from r2mae_theory.arguments import number, sequence, shown
from r2mae_theory.errors import TheoryError
from r2mae_theory.masks import Fixed, MaskDistribution, Uniform
from r2mae_theory.representations import Covariance
from r2mae_theory.risk import Method, risk_table

_LOW, _HIGH = 0.01, 0.99
_NEAREST = 1e-6  # how near to 0 and 1 a search without bounds goes
_STEP = 0.01


@dataclass(frozen=True)
class Optimum:
    """The best mask distribution of a family and its risk, averaged over targets if there are several."""

    mask: MaskDistribution
    risk: float
    normalized: float
    """Risk / null; averaged over targets."""
    note: str = ""
    """Why this may not be the best of all: the search ended at a bound, or predicting nothing is better. Else empty."""


@dataclass(frozen=True)
class Objective:
    """Normalised risk of a mask, averaged over targets."""

    covariance: Covariance
    betas: ArrayLike
    sigmas: ArrayLike
    n: float
    method: Method
    epochs: float = 1

    def __call__(self, masks: Sequence[MaskDistribution]) -> tuple[list[float], list[float]]:
        """Return the normalised risk of each mask, averaged over targets, and the risk."""
        table = risk_table(self.covariance, self.betas, self.sigmas, self.n, masks, self.method, self.epochs)
        return table.normalized.mean(axis=1).tolist(), table.total.mean(axis=1).tolist()

    def best(self, masks: Sequence[MaskDistribution]) -> Optimum:
        """Return the best of some masks.

        Raises:
            TheoryError: the risk of all is infinite.
        """
        shares, risks = self(masks)
        k = int(np.argmin(shares))
        if not np.isfinite(shares[k]):
            raise TheoryError("the risk is infinite for every mask within the bounds")
        return Optimum(masks[k], risks[k], shares[k])


def optimal_ratio(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: ArrayLike,
    n: float,
    bounds: tuple[float, float] | None = None,
    method: Method = "auto",
    epochs: float = 1,
) -> Optimum:
    """Find the fixed ratio with the least risk, normalised and averaged over targets.

    A grid of 0.01, which goes on towards 0 and 1 in ever smaller steps unless there are bounds, finds the valley, since
    the curve has two when n > p (one on each side of the threshold), and a bounded search refines it. If the risk still
    falls where the search ends, `Optimum.note` says so.

    Args:
        covariance: Σ, p×p.
        beta: shape (p,), or (p, K) for K targets whose normalised risks are averaged.
        sigma: one number or shape (K,).
        n: training samples.
        bounds: the ratios to search; None: from 1e-6 to 1 - 1e-6.
        method: see `predict_risk`.
        epochs: see `predict_risk`.

    Raises:
        TheoryError: for input of the wrong shape or range, and if the null risk is 0.
    """
    low, high = _bounds(bounds)
    objective = Objective(covariance, beta, sigma, n, method, epochs)
    inner = (_LOW, _HIGH) if bounds is None else (low, high)
    grid = np.linspace(*inner, max(3, round((inner[1] - inner[0]) / _STEP) + 1))
    if bounds is None:
        tail = _NEAREST * 2.0 ** np.arange(int(np.log2(_LOW / _NEAREST)) + 1)
        grid = np.concatenate([tail, grid, 1 - tail[::-1]])
    coarse = objective.best([Fixed(float(r)) for r in grid])
    assert isinstance(coarse.mask, Fixed)
    k = int(np.argmin(np.abs(grid - coarse.mask.ratio)))
    near = (float(grid[max(k - 1, 0)]), float(grid[min(k + 1, len(grid) - 1)]))
    found = minimize_scalar(
        lambda r: objective([Fixed(float(r))])[0][0],
        bounds=near,
        method="bounded",
        options={"xatol": min(1e-5, 1e-3 * (near[1] - near[0]))},
    )
    best = objective.best([Fixed(float(found.x)), coarse.mask])
    assert isinstance(best.mask, Fixed)
    return _noted(best, best.mask.ratio, best.mask.ratio, (low, high))


def optimal_range(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: ArrayLike,
    n: float,
    bounds: tuple[float, float] | None = None,
    min_width: float = 0.0,
    method: Method = "auto",
    epochs: float = 1,
) -> Optimum:
    """Find the range U(lo, hi), at least `min_width` wide, with the least risk, normalised and averaged over targets.

    With `min_width` = 0 the fixed ratios compete too, and usually win, except with strong spikes and a small best ratio
    (docs/theory-r2mae-vs-fixed).

    Args:
        covariance: Σ, p×p.
        beta: shape (p,), or (p, K) for K targets whose normalised risks are averaged.
        sigma: one number or shape (K,).
        n: training samples.
        bounds: limits of the range; None: from 0 to 1 - 1e-6.
        min_width: smallest hi − lo.
        method: see `predict_risk`.
        epochs: see `predict_risk`.

    Raises:
        TheoryError: for input of the wrong shape or range, and if the null risk is 0.
    """
    low, high = (
        _bounds(bounds) if bounds is not None else (0.0, 1 - _NEAREST)
    )  # a range, unlike a ratio, can start at 0
    min_width = number("min_width", min_width, least=0)
    inner = (low, high) if bounds is not None or min_width > _HIGH - _LOW else (_LOW, _HIGH)
    if min_width > high - low:
        raise TheoryError(f"min_width is {min_width}, but the bounds are only {high - low:g} apart")
    objective = Objective(covariance, beta, sigma, n, method, epochs)
    edges = np.linspace(*inner, 21)
    widths = np.linspace(min_width, inner[1] - inner[0], 8)
    grid = [
        Uniform(float(lo), float(min(lo + w, inner[1]))) for w in widths for lo in edges if lo + w <= inner[1] + 1e-12
    ]
    coarse = objective.best(grid)
    assert isinstance(coarse.mask, Uniform)

    def clipped(x: Sequence[float]) -> Uniform:
        width = min(max(float(x[1]), min_width), high - low)
        start = min(max(float(x[0]), low), high - width)
        return Uniform(start, min(start + width, high))

    start = (coarse.mask.low, coarse.mask.high - coarse.mask.low)
    found = minimize(lambda x: objective([clipped(x)])[0][0], start, method="Nelder-Mead", options={"xatol": 1e-4})
    candidates: list[MaskDistribution] = [clipped(found.x), coarse.mask]
    if min_width == 0:
        best = optimal_ratio(covariance, beta, sigma, n, bounds, method, epochs).mask
        assert isinstance(best, Fixed)
        # A winning range is often narrower than the grid's step, around the best fixed ratio.
        room = min(best.ratio - low, high - best.ratio)
        candidates += [Uniform(best.ratio - h * room, best.ratio + h * room) for h in np.linspace(0, 1, 11).tolist()]
    winner = objective.best(candidates)
    assert isinstance(winner.mask, Uniform)
    return _noted(winner, winner.mask.low, winner.mask.high, (low, high))


def _bounds(bounds: tuple[float, float] | None) -> tuple[float, float]:
    if bounds is None:
        return _NEAREST, 1 - _NEAREST
    pair = sequence("bounds", bounds)
    if len(pair) != 2:
        raise TheoryError(f"bounds must be a pair (low, high), got {shown(bounds)}")
    low, high = (number("a bound", bound, above=0, below=1) for bound in pair)
    if not low < high:
        raise TheoryError(f"bounds must satisfy 0 < low < high < 1, got {low} and {high}")
    return low, high


def _noted(best: Optimum, low: float, high: float, bounds: tuple[float, float]) -> Optimum:
    """Say so if the search ended at one of its bounds, or if no masks at all are better."""
    slack = 1e-3 * min(bounds[0], 1 - bounds[1], bounds[1] - bounds[0])
    at = "lower" if 0 < low <= bounds[0] + slack else "upper" if high >= bounds[1] - slack else ""
    notes = []
    if at:
        bound = bounds[0] if at == "lower" else bounds[1]
        notes.append(f"the search ended at its {at} bound, {bound:g}: beyond it the risk may be lower")
    if best.normalized > 1:
        notes.append("predicting nothing (ratio 0) has a lower risk than every mask within the bounds")
    return Optimum(best.mask, best.risk, best.normalized, "; ".join(notes))
