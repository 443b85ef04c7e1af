"""The incomplete beta function and its inverse: what scipy has, for who has numpy alone."""

import functools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def log_beta(alpha: float, beta: float) -> float:
    """Return the logarithm of the beta function."""
    return math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)


def beta_cdf(x: Any, alpha: float, beta: float) -> "np.ndarray":
    """Return the regularised incomplete beta function I_x(alpha, beta), by its continued fraction.

    The fraction converges quickly below the mean; above it the mirrored one is taken. As many terms are taken for every
    element, so that none depends on its neighbours.
    """
    import numpy as np

    x = np.asarray(x, dtype=np.float64)
    mirrored = x > (alpha + 1.0) / (alpha + beta + 2.0)
    t = np.where(mirrored, 1.0 - x, x)
    a, b = np.where(mirrored, beta, alpha), np.where(mirrored, alpha, beta)
    with np.errstate(divide="ignore", invalid="ignore"):
        front = np.exp(a * np.log(t) + b * np.log1p(-t) - log_beta(alpha, beta)) / a
    c = np.ones_like(t)
    d = 1.0 / (1.0 - (a + b) * t / (a + 1.0))
    fraction = d
    for m in range(1, 20 + int(4 * math.sqrt(max(alpha, beta)))):
        even = m * (b - m) * t / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / (1.0 + even * d), 1.0 + even / c
        fraction = fraction * d * c
        odd = -(a + m) * (a + b + m) * t / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / (1.0 + odd * d), 1.0 + odd / c
        fraction = fraction * d * c
    below = np.where(t <= 0, 0.0, front * fraction)
    return np.clip(np.where(mirrored, 1.0 - below, below), 0.0, 1.0)


def beta_quantile(u: Any, alpha: float, beta: float) -> Any:
    """Return x with I_x(alpha, beta) = u: a table brackets it, and Newton's method narrows the bracket."""
    import numpy as np

    given = np.atleast_1d(np.asarray(u, dtype=np.float64))
    nodes, upto = _beta_table(alpha, beta)
    cell = np.clip(np.searchsorted(upto, given, side="right") - 1, 0, len(nodes) - 2)
    low, high = nodes[cell], nodes[cell + 1]
    with np.errstate(all="ignore"):
        x = low + (high - low) * np.clip((given - upto[cell]) / (upto[cell + 1] - upto[cell]), 0.05, 0.95)
    x = np.where(np.isfinite(x), x, (low + high) / 2)
    for _ in range(20):
        lag = beta_cdf(x, alpha, beta) - given
        low, high = np.where(lag < 0, x, low), np.where(lag < 0, high, x)
        with np.errstate(all="ignore"):
            slope = np.exp((alpha - 1.0) * np.log(x) + (beta - 1.0) * np.log1p(-x) - log_beta(alpha, beta))
            step = lag / slope
        following = np.where((x - step > low) & (x - step < high), x - step, (low + high) / 2)
        # An element that has settled stays, so that it does not depend on its neighbours.
        settled = (lag == 0) | (np.abs(step) <= 1e-15) | (high - low <= 1e-15)
        x = np.where(settled, x, following)
        if settled.all():
            break
    found = np.where(given <= 0, 0.0, np.where(given >= 1, 1.0, x))
    return float(found[0]) if np.ndim(u) == 0 else found


@functools.lru_cache(maxsize=16)
def _beta_table(alpha: float, beta: float) -> "tuple[np.ndarray, np.ndarray]":
    """Return points in [0, 1], close together at the ends, and I_x there."""
    import numpy as np

    nodes = (1.0 - np.cos(np.pi * np.arange(513) / 512)) / 2
    middle, spread = alpha / (alpha + beta), math.sqrt(alpha * beta / (alpha + beta) ** 2 / (alpha + beta + 1))
    near = np.clip(middle + spread * np.linspace(-8, 8, 257), 0.0, 1.0)
    nodes = np.unique(np.concatenate([nodes, near, np.geomspace(1e-300, 1e-5, 100)]))
    return nodes, np.maximum.accumulate(beta_cdf(nodes, alpha, beta))
