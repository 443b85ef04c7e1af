"""The curve of a score over the mask ratio, with its uncertainty, from a few noisy measurements.

A Gaussian process over (low, high): neighbouring ratios have similar scores, so each measurement says something about
its neighbours, and noise is told from signal. Short trainings count as hints at the full one. What is not known of the
process (length, noise, how much a hint is worth) is averaged over a grid, weighted by the likelihood of the data.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2mae_core.sweep.arms import Arm

LENGTHS = (0.1, 0.2, 0.4, 0.8)
"""How far a ratio's score tells about others'."""
SIGNALS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Variance of the curve, as a multiple of the noise's."""
HINTS = (0.0, 0.3, 0.6, 0.9)
"""Correlation of the curve of a shorter training with that of the full one; 0: it is worth nothing."""
LEVEL = 1e4
"""Variance of the mean score of each length of training: practically free."""


@dataclass(frozen=True)
class Point:
    """One measurement."""

    arm: Arm
    share: float
    """Of the full length of training."""
    score: float
    """Higher is better."""


@dataclass(frozen=True)
class Curve:
    """The scores of arms at full length: a normal distribution."""

    arms: tuple[Arm, ...]
    mean: np.ndarray
    """(arms,)."""
    cov: np.ndarray
    """(arms, arms)."""

    @property
    def best(self) -> int:
        """Index of the arm with the highest mean."""
        return int(self.mean.argmax())

    def behind(self, i: int, reference: int | None = None) -> tuple[float, float]:
        """Return by how much an arm is expected to score below another (default the best), and the uncertainty."""
        j = self.best if reference is None else reference
        variance = self.cov[i, i] + self.cov[j, j] - 2 * self.cov[i, j]
        return float(self.mean[j] - self.mean[i]), float(np.sqrt(max(variance, 0.0)))

    def as_good(self) -> list[int]:
        """Return the arms that cannot be told from the best: two standard errors or less behind it."""
        return [i for i in range(len(self.arms)) if (lag := self.behind(i))[0] <= 2 * lag[1]]


def fit_curve(points: Sequence[Point], arms: Sequence[Arm]) -> Curve:
    """Return what the measurements say about the score of each arm after a training of full length.

    Args:
        points: the measurements, of any arms and shares.
        arms: what is asked about.

    Raises:
        ValueError: there is no measurement, or one is not a number.
    """
    y = np.array([point.score for point in points])
    if not len(y) or not np.isfinite(y).all():
        raise ValueError(f"a curve needs scores that are numbers, got {y.tolist()}")
    centre, scale = float(y.mean()), float(y.std()) or 1.0
    z = (y - centre) / scale
    where = np.array([[p.arm.low, p.arm.high] for p in points])
    asked = np.array([[arm.low, arm.high] for arm in arms])
    share, full = np.array([p.share for p in points]), np.ones(len(arms))
    weights, means, covs = [], [], []
    for length, signal, hint in itertools.product(LENGTHS, SIGNALS, HINTS):

        def kernel(a: np.ndarray, s: np.ndarray, b: np.ndarray, t: np.ndarray, level: float) -> np.ndarray:
            near = np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * length**2))  # noqa: B023
            same = s[:, None] == t[None]
            return signal * near * np.where(same, 1.0, hint) + level * same  # noqa: B023

        K = kernel(where, share, where, share, LEVEL) + np.eye(len(z))
        chol = np.linalg.cholesky(K)
        white = np.linalg.solve(chol, z)
        # The noise's variance has the prior 1 / variance (one half observation at a hundredth of all variance).
        noise = (white @ white + 0.005) / (len(z) + 0.5)
        weights.append(-np.log(np.diag(chol)).sum() - (len(z) + 0.5) / 2 * np.log(noise))
        across = np.linalg.solve(chol, kernel(where, share, asked, full, LEVEL))
        means.append(across.T @ white)
        covs.append(noise * (kernel(asked, full, asked, full, LEVEL) - across.T @ across))
    w = np.exp(np.array(weights) - max(weights))
    w /= w.sum()
    mean = np.tensordot(w, np.array(means), 1)
    apart = np.array(means) - mean
    cov = np.tensordot(w, np.array(covs) + apart[:, :, None] * apart[:, None, :], 1)
    return Curve(tuple(arms), centre + scale * mean, scale**2 * cov)
