"""Covariance models of the linear model (section 3, appendix C.1).

Each returns a `Covariance`: `LowRankCovariance` for Σ = c·I + U diag(s) Uᵀ, which forms a p×p matrix only on request,
or `DenseCovariance`, which holds the matrix.
"""

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory.arguments import (
    array,
    check_memory,
    check_vectors,
    features,
    generator,
    number,
    seed_number,
    shown,
    whole,
)
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError
from r2mae_theory.representations import Covariance, DenseCovariance, LowRankCovariance


def haar(p: int, rng: np.random.Generator, k: int | None = None) -> Floats:
    """Draw k orthonormal columns (default p) uniformly (Haar), shape (p, k).

    Raises:
        TheoryError: for k above p.
    """
    p = features(p)
    k = p if k is None else whole("k", k, 0, p)
    check_memory(f"{k} directions of {p} features", 4.0 * p * k)
    q, upper = np.linalg.qr(generator(rng).standard_normal((p, k)))
    return q * np.sign(upper.diagonal())  # the sign fix makes the QR factor exactly Haar


def isotropic(p: int) -> LowRankCovariance:
    """Σ = I (section 3.2)."""
    return LowRankCovariance(p)


def spiked(p: int, strength: float, direction: ArrayLike | None = None, seed: int = 0) -> LowRankCovariance:
    """Σ = I + λvvᵀ (section 3.3); v is normalised, and by default a random vector of uniform entries (C.1)."""
    p = _vector_length(p)
    rng = _random(seed)
    v = rng.uniform(size=p) if direction is None else array("the spike's direction", direction, p)
    if not v.any():
        raise TheoryError("the spike's direction must not be zero")
    return LowRankCovariance(p, 1.0, (v / np.linalg.norm(v))[:, None], np.array([number("strength", strength)]))


def uniform_spectrum(p: int, low: float = 1.0, high: float = 10.0, seed: int = 0) -> DenseCovariance:
    """Eigenvalues uniform on [low, high], Haar eigenvectors (figure 1E, "Uniform")."""
    p, rng = _matrix_size(p), _random(seed)
    low, high = _ends(low, high)
    return DenseCovariance.from_spectrum(rng.uniform(low, high, p), haar(p, rng))


def beta_spectrum(
    p: int, a: float = 1.0, b: float = 10.0, low: float = 1.0, high: float = 10.0, seed: int = 0
) -> DenseCovariance:
    """Eigenvalues Beta(a, b), rescaled to run exactly from low to high, Haar eigenvectors (figure 1E, "Beta").

    The paper does not give a and b. (1, 10) is our choice: of those tried, it is nearest to what tables 5 and 9 print
    for fixed ratios.
    """
    p, rng = _matrix_size(p), _random(seed)
    low, high = _ends(low, high)
    draws = rng.beta(number("a", a, above=0), number("b", b, above=0), p)
    unit = (draws - draws.min()) / max(float(np.ptp(draws)), np.finfo(float).tiny)
    return DenseCovariance.from_spectrum(low + (high - low) * unit, haar(p, rng))


def latent_space(p: int, k: int, seed: int = 0, high: float = 10.0) -> DenseCovariance:
    """Σ = I + WWᵀ with W Gaussian p×k, its entries scaled so that the eigenvalues run from about 1 to about `high`.

    Figure 1E's latent space model. The largest eigenvalue of WWᵀ is near s²(√p + √k)² for entries of variance s²,
    which fixes s. The paper does not give k and the variance.
    """
    p, rng = _matrix_size(p), _random(seed)
    k = whole("the number of latent factors k", k, 1, 10 * p)
    high = number("high", high, least=1)
    scale = np.sqrt(high - 1) / (np.sqrt(p) + np.sqrt(k))
    W = scale * rng.standard_normal((p, k))
    return DenseCovariance(np.eye(p) + W @ W.T)


def block(p: int, rank: int, eigenvalue: float, seed: int = 0) -> LowRankCovariance:
    """Σ with `rank` Haar directions of variance `eigenvalue` over a unit background (figures 1G and 4)."""
    p = _vector_length(p)
    rank = whole("the block's rank", rank, 0, p)
    variance = number("the block's eigenvalue", eigenvalue, least=0)
    directions = haar(p, _random(seed), rank)
    return LowRankCovariance(p, 1.0, directions, np.full(rank, variance - 1.0)) if rank else LowRankCovariance(p)


def from_samples(X: ArrayLike, shrinkage: float | str = "auto") -> DenseCovariance:
    """Estimate the covariance of the rows of X, shrunk towards the mean variance times the identity.

    Args:
        X: samples by features, shape (n, p); centred here.
        shrinkage: weight of the identity in [0, 1], or "auto" for the Ledoit-Wolf estimate of the best weight.

    Raises:
        TheoryError: for fewer than two rows, values that are not finite or a weight outside [0, 1].
    """
    data = array("the samples", X, None, None)
    if len(data) < 2:
        raise TheoryError(f"the samples must be a matrix with at least two rows, got shape {data.shape}")
    return DenseCovariance(shrunk_moment(data - data.mean(axis=0), shrinkage))


def shrunk_moment(centred: ArrayLike, shrinkage: float | str = "auto") -> Floats:
    """Return XᵀX/n of centred rows, shape (p, p), shrunk towards its mean diagonal; see `from_samples`."""
    centred = array("the centred rows", centred, None, None)
    n, p = centred.shape
    _matrix_size(p)
    S = centred.T @ centred / n
    level = float(S.trace()) / p
    if isinstance(shrinkage, str):
        if shrinkage != "auto":
            raise TheoryError(f'shrinkage must be a number from 0 to 1 or "auto", got {shown(shrinkage)}')
        distance = float((S**2).sum()) - p * level**2  # ‖S − level·I‖²
        norms = (centred**2).sum(axis=1)
        noise = (float((norms**2).mean()) - float((S**2).sum())) / n  # E‖S − Σ‖², estimated from the rows
        share = min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0
    else:
        share = number("shrinkage", shrinkage, least=0, most=1)
    S *= 1 - share
    S[np.diag_indices(p)] += share * level
    return S


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed_number(seed))


def _vector_length(p: int) -> int:
    check_vectors(features(p))
    return features(p)


def _matrix_size(p: int) -> int:
    check_memory(f"a covariance of p = {p} features", 4.0 * features(p) ** 2)
    return features(p)


def _ends(low: float, high: float) -> tuple[float, float]:
    low, high = number("low", low, least=0), number("high", high, least=0)
    if low > high:
        raise TheoryError(f"the eigenvalues' range is reversed: {low} > {high}")
    return low, high


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
