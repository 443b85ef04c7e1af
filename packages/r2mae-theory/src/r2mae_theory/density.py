"""Which density of mask ratios has the least risk? A free density on atoms, with a certificate, and two families.

The risk is a smooth function of the density f of a row's ratio. If f is best, then mixing in a little of any other
ratio cannot lower the risk: d/dε R((1 − ε)f + ε·δ_r) ≥ 0 for every r. That first-order condition is what is checked;
the risk is not convex in f, so it certifies that no direction lowers the risk, not that no distant density does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from r2mae_core import Beta, RatioSampler, TruncatedNormal, has_quantile
from r2mae_theory.arguments import shown, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError
from r2mae_theory.masks import Discrete, Fixed, MaskDistribution
from r2mae_theory.optimum import Objective, Optimum, optimal_ratio
from r2mae_theory.representations import Covariance
from r2mae_theory.risk import Method

_NODES = 64
_GRID = np.concatenate([np.geomspace(1e-3, 0.01, 10, endpoint=False), np.linspace(0.01, 0.99, 99)])
_MIXED = 1e-4  # ε of the directional derivative
_LEAST = 1e-4  # weight below which an atom is dropped
_APART = 2e-3  # atoms nearer than this are one
TOLERANCE = 1e-3
"""Directional derivatives above minus this share of the risk count as not negative: differences have errors."""


@dataclass(frozen=True)
class Sampled(MaskDistribution):
    """The ratios of one of core's samplers, such as `TruncatedNormal`, drawn for every row."""

    sampler: RatioSampler

    def __post_init__(self) -> None:
        if not has_quantile(self.sampler):
            raise TheoryError(
                f"{shown(self.sampler)} cannot draw a ratio for each row; a density is needed, such as Beta"
            )
        first, last = (self.sampler.quantile(np.array([0.1, 0.9]), step, 1000) for step in (0, 999))
        if not np.allclose(first, last):
            raise TheoryError(
                f"{shown(self.sampler)} changes in the course of the training; the linear model has no time"
            )

    def quadrature(self) -> tuple[Floats, Floats]:
        """See `MaskDistribution.quadrature`."""
        x, w = np.polynomial.legendre.leggauss(_NODES)
        ratios = np.asarray(self.sampler.quantile((x + 1) / 2, 0, 1000), float)
        return ratios, w / 2 * ratios

    def ratios(self, uniforms: Floats) -> Floats:
        """See `MaskDistribution.ratios`."""
        return np.asarray(self.sampler.quantile(np.asarray(uniforms, float), 0, 1000), float)

    @property
    def upper(self) -> float:
        """The largest ratio."""
        return float(np.asarray(self.sampler.quantile(np.array([1 - 1e-12]), 0, 1000))[0])

    @property
    def is_continuous_at_one(self) -> bool:
        """Whether ratios just below 1 occur."""
        return self.upper > 1 - 1e-6


@dataclass(frozen=True)
class OptimalDensity:
    """The best density found, and what says that it is one."""

    mask: Discrete
    """Its atoms."""
    risk: float
    normalized: float
    """Risk / null; averaged over targets."""
    certificate: float
    """The least directional derivative towards any one ratio, as a share of the risk; not negative at an optimum."""
    towards: float
    """The ratio of that direction."""
    fixed: Optimum
    """The best fixed ratio."""

    @property
    def is_certified(self) -> bool:
        """Whether no direction lowers the risk, up to `TOLERANCE`."""
        return self.certificate > -TOLERANCE

    @property
    def gain(self) -> float:
        """By what share the risk is below that of the best fixed ratio."""
        return 1 - self.normalized / self.fixed.normalized

    @property
    def spread(self) -> float:
        """Standard deviation of the ratio."""
        values, weights = np.array(self.mask.values), np.array(self.mask.weights)
        mean = values @ weights / weights.sum()
        return float(np.sqrt(weights @ (values - mean) ** 2 / weights.sum()))


def optimal_density(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: ArrayLike,
    n: float,
    method: Method = "auto",
    epochs: float = 1,
    max_atoms: int = 12,
) -> OptimalDensity:
    """Find the density of a row's mask ratio with the least risk.

    It starts at the best fixed ratio. While mixing in another ratio lowers the risk, the best such ratio becomes a new
    atom, and all atoms move and change their weights to a minimum.

    Args:
        covariance: Σ, p×p.
        beta: shape (p,), or (p, K) for K targets whose normalised risks are averaged.
        sigma: one number or shape (K,).
        n: training samples.
        method: see `predict_risk`.
        epochs: see `predict_risk`.
        max_atoms: where the search ends if the certificate does not hold before.

    Raises:
        TheoryError: for input of the wrong shape or range, and if the null risk is 0.
    """
    objective = Objective(covariance, beta, sigma, n, method, epochs)
    fixed = optimal_ratio(covariance, beta, sigma, n, method=method, epochs=epochs)
    assert isinstance(fixed.mask, Fixed)
    values, weights = np.array([fixed.mask.ratio]), np.ones(1)
    for _ in range(whole("max_atoms", max_atoms, 1, 100)):
        slopes = directional(objective, values, weights)
        towards = int(np.argmin(slopes))
        if slopes[towards] > -TOLERANCE / 10:
            break
        start = np.append(values, _GRID[towards]), np.append(0.95 * weights, 0.05)
        values, weights = _merged(*_minimised(objective, *start))
    slopes = directional(objective, values, weights)
    towards = int(np.argmin(slopes))
    shares, risks = objective([Discrete(tuple(values), tuple(weights))])
    if shares[0] > fixed.normalized:
        values, weights, shares, risks = np.array([fixed.mask.ratio]), np.ones(1), [fixed.normalized], [fixed.risk]
    mask = Discrete(tuple(values), tuple(weights))
    return OptimalDensity(mask, risks[0], shares[0], float(slopes[towards]), float(_GRID[towards]), fixed)


def directional(objective: Objective, values: Floats, weights: Floats, grid: Floats = _GRID) -> Floats:
    """Return d/dε R((1 − ε)f + ε·δ_r)/R(f) at ε = 0 for every ratio r of a grid; infinite where the risk is."""
    mixed = [Discrete((*values, r), (*((1 - e) * weights), e)) for e in (_MIXED, _MIXED / 2) for r in grid.tolist()]
    here = objective([Discrete(tuple(values), tuple(weights))])[0][0]
    whole_step, half = np.split(np.array(objective(mixed)[0]), 2)
    one, two = (whole_step - here) / _MIXED, (half - here) / (_MIXED / 2)
    return (2 * two - one) / here  # the error of a one-sided difference is linear in ε


def _minimised(objective: Objective, values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Move atoms and weights to a minimum of the risk, by quasi-Newton steps with differences as gradients."""
    m = len(values)

    def mask(x: Floats) -> Discrete:
        share = np.exp(x[m:] - x[m:].max())
        return Discrete(tuple(1 / (1 + np.exp(-x[:m]))), tuple(share / share.sum()))

    def value_and_slope(x: Floats) -> tuple[float, Floats]:
        steps = 1e-5 * np.eye(2 * m)
        shares = np.array(objective([mask(x), *(mask(x + h) for h in steps), *(mask(x - h) for h in steps)])[0])
        return float(shares[0]), (shares[1 : 2 * m + 1] - shares[2 * m + 1 :]) / 2e-5

    start = np.concatenate([np.log(values / (1 - values)), np.log(weights)])
    found = minimize(value_and_slope, start, jac=True, method="L-BFGS-B", bounds=[(-9, 9)] * m + [(-12, 2)] * m)
    best = mask(found.x if np.isfinite(found.fun) else start)
    return np.array(best.values), np.array(best.weights)


def _merged(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Drop atoms without weight, and join those that lie together."""
    order = np.argsort(values)
    kept: list[list[float]] = []
    for value, weight in zip(values[order], weights[order] / weights.sum(), strict=True):
        if weight < _LEAST:
            continue
        if kept and value - kept[-1][0] < _APART:
            last = kept[-1]
            total = last[1] + weight
            kept[-1] = [(last[0] * last[1] + value * weight) / total, total]
        else:
            kept.append([float(value), float(weight)])
    found = np.array(kept)
    return found[:, 0], found[:, 1] / found[:, 1].sum()


def optimal_family(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: ArrayLike,
    n: float,
    family: str = "truncated normal",
    method: Method = "auto",
    epochs: float = 1,
) -> Optimum:
    """Find the best density of a family on (0, 1).

    Args:
        covariance: Σ, p×p.
        beta: as in `optimal_density`.
        sigma: as in `optimal_density`.
        n: training samples.
        family: "truncated normal" (mean and standard deviation) or "beta" (alpha and beta).
        method: see `predict_risk`.
        epochs: see `predict_risk`.

    Raises:
        TheoryError: for input of the wrong shape or range.
    """
    if not isinstance(family, str) or family not in _FAMILIES:
        raise TheoryError(f"family must be one of {', '.join(_FAMILIES)}, got {shown(family)}")
    objective = Objective(covariance, beta, sigma, n, method, epochs)
    middle = optimal_ratio(covariance, beta, sigma, n, method=method, epochs=epochs).mask
    assert isinstance(middle, Fixed)
    made = _FAMILIES[family]

    def risk(x: Floats) -> float:
        ratio, spread = 1 / (1 + np.exp(-x[0])), float(np.exp(x[1]))
        return float(min(objective([made(float(ratio), spread)])[0][0], 1e6))

    logit = float(np.log(middle.ratio / (1 - middle.ratio)))
    starts = [np.array([logit, np.log(spread)]) for spread in (0.005, 0.02, 0.05, 0.1, 0.2)]
    start = min(starts, key=risk)
    best = minimize(risk, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-8}).x
    return objective.best([made(float(1 / (1 + np.exp(-best[0]))), float(np.exp(best[1])))])


def _normal(ratio: float, spread: float) -> Sampled:
    return Sampled(TruncatedNormal(ratio, min(max(spread, 1e-4), 10.0), 0.0, 1 - 1e-6))


def _beta(ratio: float, spread: float) -> Sampled:
    total = min(max(ratio * (1 - ratio) / max(spread, 1e-3) ** 2 - 1, 0.05), 1e6)  # α + β of this variance
    return Sampled(Beta(max(ratio * total, 1e-2), max((1 - ratio) * total, 1e-2), 0.0, 1 - 1e-6))


_FAMILIES: dict[str, Callable[[float, float], Sampled]] = {"truncated normal": _normal, "beta": _beta}
