"""The best fixed ratio and the best range of ratios, by the exact theory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, minimize_scalar

from r2mae_theory.errors import TheoryError
from r2mae_theory.masks import Fixed, MaskDistribution, Uniform
from r2mae_theory.representations import Covariance
from r2mae_theory.risk import Method, risk_table


@dataclass(frozen=True)
class Optimum:
    """The best mask distribution of a family and its risk, averaged over targets if there are several."""

    mask: MaskDistribution
    risk: float
    normalized: float
    """Risk / null; averaged over targets."""


@dataclass(frozen=True)
class _Objective:
    """Normalised risk of a mask, averaged over targets."""

    covariance: Covariance
    betas: ArrayLike
    sigmas: ArrayLike
    n: float
    method: Method

    def __call__(self, masks: Sequence[MaskDistribution]) -> tuple[list[float], list[float]]:
        table = risk_table(self.covariance, self.betas, self.sigmas, self.n, masks, self.method)
        return table.normalized.mean(axis=1).tolist(), table.total.mean(axis=1).tolist()

    def best(self, masks: Sequence[MaskDistribution]) -> Optimum:
        shares, risks = self(masks)
        k = int(np.argmin(shares))
        return Optimum(masks[k], risks[k], shares[k])


def optimal_ratio(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: ArrayLike,
    n: float,
    bounds: tuple[float, float] = (0.01, 0.99),
    method: Method = "auto",
) -> Optimum:
    """Find the fixed ratio with the least risk, normalised and averaged over targets.

    A grid of 0.01 finds the valley, since the curve has two when n > p (one on each side of the threshold), and a
    bounded search refines it.

    Args:
        covariance: Σ, p×p.
        beta: shape (p,), or (p, K) for K targets whose normalised risks are averaged.
        sigma: one number or shape (K,).
        n: training samples.
        bounds: the ratios to search.
        method: see `predict_risk`.
    """
    low, high = bounds
    if not 0 < low < high < 1:
        raise TheoryError(f"bounds must satisfy 0 < low < high < 1, got {bounds}")
    objective = _Objective(covariance, beta, sigma, n, method)
    grid = np.linspace(low, high, max(3, round((high - low) / 0.01) + 1))
    coarse = objective.best([Fixed(float(r)) for r in grid])
    assert isinstance(coarse.mask, Fixed)
    near = (max(low, coarse.mask.ratio - 0.01), min(high, coarse.mask.ratio + 0.01))
    found = minimize_scalar(lambda r: objective([Fixed(float(r))])[0][0], bounds=near, method="bounded")
    return objective.best([Fixed(float(found.x)), coarse.mask])


def optimal_range(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: ArrayLike,
    n: float,
    bounds: tuple[float, float] = (0.01, 0.99),
    min_width: float = 0.0,
    method: Method = "auto",
) -> Optimum:
    """Find the range U(lo, hi), at least `min_width` wide, with the least risk, normalised and averaged over targets.

    With `min_width` = 0 the fixed ratios compete too, and usually win, except with strong spikes and a small best ratio
    (docs/theory-r2mae-vs-fixed).

    Args:
        covariance: Σ, p×p.
        beta: shape (p,), or (p, K) for K targets whose normalised risks are averaged.
        sigma: one number or shape (K,).
        n: training samples.
        bounds: limits of the range.
        min_width: smallest hi − lo.
        method: see `predict_risk`.
    """
    low, high = bounds
    if not 0 < low < high < 1 or not 0 <= min_width <= high - low:
        raise TheoryError(f"bounds must satisfy 0 < low < high < 1 and be min_width apart, got {bounds}, {min_width}")
    objective = _Objective(covariance, beta, sigma, n, method)
    edges = np.linspace(low, high, 21)
    widths = [w for w in np.linspace(min_width, high - low, 8) if w >= min_width]
    grid = [Uniform(float(lo), float(min(lo + w, high))) for w in widths for lo in edges if lo + w <= high + 1e-12]
    coarse = objective.best(grid)
    assert isinstance(coarse.mask, Uniform)

    def clipped(x: Sequence[float]) -> Uniform:
        width = min(max(float(x[1]), min_width), high - low)
        start = min(max(float(x[0]), low), high - width)
        return Uniform(start, start + width)

    start = (coarse.mask.low, coarse.mask.high - coarse.mask.low)
    found = minimize(lambda x: objective([clipped(x)])[0][0], start, method="Nelder-Mead", options={"xatol": 1e-4})
    candidates: list[MaskDistribution] = [clipped(found.x), coarse.mask]
    if min_width == 0:
        best = optimal_ratio(covariance, beta, sigma, n, bounds, method).mask
        assert isinstance(best, Fixed)
        # A winning range is often narrower than the grid's step, around the best fixed ratio.
        room = min(best.ratio - low, high - best.ratio)
        candidates += [Uniform(best.ratio - h * room, best.ratio + h * room) for h in np.linspace(0, 1, 11).tolist()]
    return objective.best(candidates)
