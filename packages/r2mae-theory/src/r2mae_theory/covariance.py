"""Covariance models of the linear model (section 3, appendix C.1).

Each returns a `Covariance`: `LowRankCovariance` for Σ = c·I + U diag(s) Uᵀ, which forms a p×p matrix only on request,
or `DenseCovariance`, which holds the matrix.
"""

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError
from r2mae_theory.representations import Covariance, DenseCovariance, LowRankCovariance


def haar(p: int, rng: np.random.Generator, k: int | None = None) -> Floats:
    """Draw k orthonormal columns (default p) uniformly (Haar), shape (p, k)."""
    q, upper = np.linalg.qr(rng.standard_normal((p, p if k is None else k)))
    return q * np.sign(upper.diagonal())  # the sign fix makes the QR factor exactly Haar


def isotropic(p: int) -> LowRankCovariance:
    """Σ = I (section 3.2)."""
    return LowRankCovariance(p)


def spiked(p: int, strength: float, direction: ArrayLike | None = None, seed: int = 0) -> LowRankCovariance:
    """Σ = I + λvvᵀ (section 3.3); v is normalised, and by default a random vector of uniform entries (C.1)."""
    v = np.random.default_rng(seed).uniform(size=p) if direction is None else np.asarray(direction, float)
    if v.shape != (p,) or not np.isfinite(v).all() or not v.any():
        raise TheoryError(f"the spike's direction must be a finite, non-zero vector of length {p}, got shape {v.shape}")
    return LowRankCovariance(p, 1.0, (v / np.linalg.norm(v))[:, None], np.array([float(strength)]))


def uniform_spectrum(p: int, low: float = 1.0, high: float = 10.0, seed: int = 0) -> DenseCovariance:
    """Eigenvalues uniform on [low, high], Haar eigenvectors (figure 1E, "Uniform")."""
    rng = np.random.default_rng(seed)
    return DenseCovariance.from_spectrum(rng.uniform(low, high, p), haar(p, rng))


def beta_spectrum(
    p: int, a: float = 2.0, b: float = 5.0, low: float = 1.0, high: float = 10.0, seed: int = 0
) -> DenseCovariance:
    """Eigenvalues Beta(a, b), rescaled to run exactly from low to high, Haar eigenvectors (figure 1E, "Beta").

    The paper does not give a and b; (2, 5) is this package's choice.
    """
    rng = np.random.default_rng(seed)
    draws = rng.beta(a, b, p)
    unit = (draws - draws.min()) / max(float(np.ptp(draws)), np.finfo(float).tiny)
    return DenseCovariance.from_spectrum(low + (high - low) * unit, haar(p, rng))


def latent_space(p: int, k: int, seed: int = 0, high: float = 10.0) -> DenseCovariance:
    """Σ = I + WWᵀ with W Gaussian p×k, its entries scaled so that the eigenvalues run from about 1 to about `high`.

    Figure 1E's latent space model. The largest eigenvalue of WWᵀ is near s²(√p + √k)² for entries of variance s²,
    which fixes s. The paper does not give k and the variance.
    """
    rng = np.random.default_rng(seed)
    scale = np.sqrt(high - 1) / (np.sqrt(p) + np.sqrt(k))
    W = scale * rng.standard_normal((p, k))
    return DenseCovariance(np.eye(p) + W @ W.T)


def block(p: int, rank: int, eigenvalue: float, seed: int = 0) -> LowRankCovariance:
    """Σ with `rank` Haar directions of variance `eigenvalue` over a unit background (figures 1G and 4)."""
    if not 0 <= rank <= p:
        raise TheoryError(f"the block's rank must be between 0 and {p}, got {rank}")
    directions = haar(p, np.random.default_rng(seed), rank)
    return LowRankCovariance(p, 1.0, directions, np.full(rank, eigenvalue - 1.0))


def from_samples(X: ArrayLike, shrinkage: float | str = "auto") -> DenseCovariance:
    """Estimate the covariance of the rows of X, shrunk towards the mean variance times the identity.

    Args:
        X: samples by features, shape (n, p); centred here.
        shrinkage: weight of the identity in [0, 1], or "auto" for the Ledoit-Wolf estimate of the best weight.

    Raises:
        TheoryError: for fewer than two rows, values that are not finite or a weight outside [0, 1].
    """
    data = np.asarray(X, float)
    if data.ndim != 2 or data.shape[0] < 2:
        raise TheoryError(f"samples must be a matrix with at least two rows, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise TheoryError("the samples have NaN or infinite values")
    return DenseCovariance(shrunk_moment(data - data.mean(axis=0), shrinkage))


def shrunk_moment(centred: Floats, shrinkage: float | str = "auto") -> Floats:
    """Return XᵀX/n of centred rows, shape (p, p), shrunk towards its mean diagonal; see `from_samples`."""
    n, p = centred.shape
    S = centred.T @ centred / n
    level = float(S.trace()) / p
    if isinstance(shrinkage, str):
        if shrinkage != "auto":
            raise TheoryError(f'shrinkage must be a number in [0, 1] or "auto", got {shrinkage!r}')
        distance = float((S**2).sum()) - p * level**2  # ‖S − level·I‖²
        norms = (centred**2).sum(axis=1)
        noise = (float((norms**2).mean()) - float((S**2).sum())) / n  # E‖S − Σ‖², estimated from the rows
        share = min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0
    else:
        share = float(shrinkage)
        if not 0 <= share <= 1:
            raise TheoryError(f"shrinkage must lie in [0, 1], got {shrinkage}")
    S *= 1 - share
    S[np.diag_indices(p)] += share * level
    return S


__all__ = [
    "Covariance",
    "DenseCovariance",
    "LowRankCovariance",
    "beta_spectrum",
    "block",
    "from_samples",
    "haar",
    "isotropic",
    "latent_space",
    "shrunk_moment",
    "spiked",
    "uniform_spectrum",
]
