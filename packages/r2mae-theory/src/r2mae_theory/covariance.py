"""Covariance models of the linear model (section 3, appendix C.1): what they are, and what they can do cheaply.

Two representations share one interface. `LowRankCovariance` holds Σ = c·I + U diag(s) Uᵀ and never forms a p×p
matrix unless someone asks for it; `DenseCovariance` holds the matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from r2mae_theory.errors import TheoryError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_PSD_TOLERANCE = 1e-8  # relative to the largest eigenvalue; rounding in XᵀX stays far below it


class Covariance(ABC):
    """A p×p covariance Σ, described by what the theory and the simulation need of it."""

    p: int

    @property
    @abstractmethod
    def matrix(self) -> Floats:
        """Σ itself, shape (p, p); formed on first use where the model does not need it."""

    @property
    @abstractmethod
    def diagonal(self) -> Floats:
        """diag(Σ), shape (p,)."""

    @property
    @abstractmethod
    def eigenvalues(self) -> Floats:
        """Eigenvalues in ascending order, shape (p,)."""

    @property
    @abstractmethod
    def eigenvectors(self) -> Floats:
        """Orthonormal eigenvectors as columns, in the order of `eigenvalues`, shape (p, p)."""

    @abstractmethod
    def multiply(self, vectors: Floats) -> Floats:
        """Σ @ vectors, for shape (p,) or (p, k)."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n rows of N(0, Σ), shape (n, p)."""

    def quadratic(self, vector: Floats) -> float:
        """‖vector‖²_Σ = vectorᵀ Σ vector."""
        return float(vector @ self.multiply(vector))

    @property
    def is_flat(self) -> bool:
        """Whether diag(Σ) is constant, which makes the spectral path exact (appendix B, Σ's diagonal ∝ I)."""
        return bool(np.ptp(self.diagonal) <= 1e-12 * self.diagonal.max())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"

    @staticmethod
    def from_matrix(S: ArrayLike) -> DenseCovariance:
        """Any symmetric positive semi-definite matrix as a `Covariance`.

        Args:
            S: shape (p, p).

        Raises:
            TheoryError: if S is not square, finite, symmetric and positive semi-definite, or if a feature has no variance.
        """
        return DenseCovariance(S)


class DenseCovariance(Covariance):
    """A covariance that is held as a matrix; everything else is computed from it once, on first use."""

    def __init__(self, S: ArrayLike) -> None:
        matrix = np.array(S, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
            raise TheoryError(f"a covariance must be a square matrix, got shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise TheoryError("the covariance has entries that are not finite")
        scale = float(np.abs(matrix).max())
        if np.abs(matrix - matrix.T).max() > 1e-10 * scale:
            raise TheoryError("the covariance is not symmetric")
        _check_variances(matrix.diagonal())
        self.p = matrix.shape[0]
        self._matrix = (matrix + matrix.T) / 2
        if self._eigh[0][0] < -_PSD_TOLERANCE * scale:
            raise TheoryError(f"the covariance is not positive semi-definite: smallest eigenvalue {self._eigh[0][0]:.3g}")

    @classmethod
    def from_spectrum(cls, eigenvalues: Floats, eigenvectors: Floats) -> DenseCovariance:
        """Build U diag(λ) Uᵀ from a known eigenbasis, without decomposing it again.

        Args:
            eigenvalues: shape (p,), non-negative.
            eigenvectors: orthonormal columns, shape (p, p).
        """
        if (eigenvalues < 0).any() or not np.isfinite(eigenvalues).all():
            raise TheoryError("eigenvalues of a covariance must be finite and not negative")
        self = cls.__new__(cls)
        order = np.argsort(eigenvalues)
        values, vectors = np.asarray(eigenvalues, float)[order], np.asarray(eigenvectors, float)[:, order]
        self.p = len(values)
        self._matrix = (vectors * values) @ vectors.T
        self._matrix = (self._matrix + self._matrix.T) / 2
        _check_variances(self._matrix.diagonal())
        self.__dict__["_eigh"] = (values, vectors)  # fills the cached property
        return self

    @cached_property
    def _eigh(self) -> tuple[Floats, Floats]:
        return np.linalg.eigh(self._matrix)

    @property
    def matrix(self) -> Floats:
        return self._matrix

    @property
    def diagonal(self) -> Floats:
        return self._matrix.diagonal()

    @property
    def eigenvalues(self) -> Floats:
        return np.maximum(self._eigh[0], 0.0)

    @property
    def eigenvectors(self) -> Floats:
        return self._eigh[1]

    def multiply(self, vectors: Floats) -> Floats:
        return self._matrix @ vectors

    @cached_property
    def _factor(self) -> Floats:
        """F with F Fᵀ = Σ: lower triangular where Σ allows it, since a triangular product costs half."""
        try:
            return np.linalg.cholesky(self._matrix)
        except np.linalg.LinAlgError:
            return self.eigenvectors * np.sqrt(self.eigenvalues)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.standard_normal((n, self.p)) @ self._factor.T


class LowRankCovariance(Covariance):
    """Σ = level·I + U diag(strengths) Uᵀ with k orthonormal directions: isotropic, spiked and block models.

    Memory and time are O(p·k); `matrix` and `eigenvectors` form p×p arrays only when asked for.
    """

    def __init__(self, p: int, level: float = 1.0, directions: Floats | None = None, strengths: Floats | None = None) -> None:
        if p < 1:
            raise TheoryError(f"the number of features must be positive, got {p}")
        self.p = p
        self.level = float(level)
        self.directions = np.zeros((p, 0)) if directions is None else np.asarray(directions, float)
        self.strengths = np.zeros(0) if strengths is None else np.asarray(strengths, float)
        if self.directions.shape != (p, len(self.strengths)):
            raise TheoryError(f"directions have shape {self.directions.shape}, expected {(p, len(self.strengths))}")
        if not (self.level > 0 and np.isfinite(self.level)):
            raise TheoryError(f"the level of the identity must be positive, got {level}")
        if not (np.isfinite(self.strengths).all() and (self.level + self.strengths >= 0).all()):
            raise TheoryError(f"the covariance is not positive semi-definite: strengths {self.strengths}, level {level}")
        _check_variances(self.diagonal)

    @cached_property
    def _diagonal(self) -> Floats:
        return self.level + (self.directions**2) @ self.strengths

    @property
    def diagonal(self) -> Floats:
        return self._diagonal

    @property
    def matrix(self) -> Floats:
        return self.level * np.eye(self.p) + (self.directions * self.strengths) @ self.directions.T

    @property
    def eigenvalues(self) -> Floats:
        bulk = np.full(self.p - len(self.strengths), self.level)
        return np.sort(np.concatenate([bulk, self.level + self.strengths]))

    @cached_property
    def _eigenvectors(self) -> Floats:
        basis = np.linalg.qr(self.directions, mode="complete")[0] if len(self.strengths) else np.eye(self.p)
        basis[:, : len(self.strengths)] = self.directions
        bulk = np.full(self.p - len(self.strengths), self.level)
        return basis[:, np.argsort(np.concatenate([self.level + self.strengths, bulk]), kind="stable")]

    @property
    def eigenvectors(self) -> Floats:
        return self._eigenvectors

    def multiply(self, vectors: Floats) -> Floats:
        along = self.directions.T @ vectors
        scaled = self.strengths[:, None] * along if vectors.ndim == 2 else self.strengths * along
        return self.level * vectors + self.directions @ scaled

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        x = rng.standard_normal((n, self.p))
        if self.level != 1.0:
            x *= np.sqrt(self.level)
        if len(self.strengths):
            stretch = np.sqrt(1 + self.strengths / self.level) - 1
            x += ((x @ self.directions) * stretch) @ self.directions.T
        return x


def _check_variances(diagonal: Floats) -> None:
    if (diagonal <= 0).any():
        bad = np.flatnonzero(diagonal <= 0)
        raise TheoryError(f"{len(bad)} features have no variance (first: {bad[0]}); drop them before using the theory")


def haar(p: int, rng: np.random.Generator, k: int | None = None) -> Floats:
    """k (default p) orthonormal columns drawn uniformly (Haar), shape (p, k)."""
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

    The paper's a and b are not known; (2, 5) is this package's choice.
    """
    rng = np.random.default_rng(seed)
    draws = rng.beta(a, b, p)
    unit = (draws - draws.min()) / max(float(np.ptp(draws)), np.finfo(float).tiny)
    return DenseCovariance.from_spectrum(low + (high - low) * unit, haar(p, rng))


def latent_space(p: int, k: int, seed: int = 0, high: float = 10.0) -> DenseCovariance:
    """Σ = I + WWᵀ with W Gaussian p×k, its entries scaled so that the eigenvalues run from about 1 to about `high`.

    Figure 1E's latent space model. The largest eigenvalue of WWᵀ is near s²(√p + √k)² for entries of variance s²,
    which fixes s; the paper's own k and variance are not known.
    """
    rng = np.random.default_rng(seed)
    scale = np.sqrt(high - 1) / (np.sqrt(p) + np.sqrt(k))
    W = scale * rng.standard_normal((p, k))
    return DenseCovariance(np.eye(p) + W @ W.T)


def block(p: int, rank: int, eigenvalue: float, seed: int = 0) -> LowRankCovariance:
    """Σ with `rank` Haar directions of variance `eigenvalue` over a unit background (figures 1G and 4)."""
    if not 0 <= rank <= p:
        raise TheoryError(f"the block's rank must lie in 0..{p}, got {rank}")
    directions = haar(p, np.random.default_rng(seed), rank)
    return LowRankCovariance(p, 1.0, directions, np.full(rank, eigenvalue - 1.0))


def from_samples(X: ArrayLike, shrinkage: float | str = "auto") -> DenseCovariance:
    """The covariance of rows of X, shrunk towards the mean variance times the identity.

    Args:
        X: samples by features, shape (n, p); centred here.
        shrinkage: share of the target in [0, 1], or "auto" for the Ledoit-Wolf estimate of the best share.

    Raises:
        TheoryError: for fewer than two rows, values that are not finite or a share outside [0, 1].
    """
    data = np.asarray(X, float)
    if data.ndim != 2 or data.shape[0] < 2:
        raise TheoryError(f"samples must be a matrix with at least two rows, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise TheoryError("the samples have values that are not finite")
    return DenseCovariance(shrunk_moment(data - data.mean(axis=0), shrinkage))


def shrunk_moment(centred: Floats, shrinkage: float | str = "auto") -> Floats:
    """XᵀX/n of centred rows, shape (p, p), shrunk towards its mean diagonal; see `from_samples`."""
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
