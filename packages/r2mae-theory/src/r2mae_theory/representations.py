"""Two representations of a covariance: a matrix, or the identity plus a few directions."""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError

_PSD_TOLERANCE = 1e-8  # relative to the largest eigenvalue; rounding in XᵀX stays far below it


class Covariance(ABC):
    """A p×p covariance Σ, as the theory and the simulation need it."""

    p: int

    @property
    @abstractmethod
    def matrix(self) -> Floats:
        """Σ itself, shape (p, p)."""

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
        """Return Σ @ vectors, for shape (p,) or (p, k)."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n rows of N(0, Σ), shape (n, p)."""

    def quadratic(self, vector: Floats) -> float:
        """Return ‖vector‖²_Σ = vectorᵀ Σ vector."""
        return float(vector @ self.multiply(vector))

    @property
    def is_flat(self) -> bool:
        """Whether diag(Σ) is constant, which makes the spectral method exact (appendix B, diag(Σ) ∝ I)."""
        return bool(np.ptp(self.diagonal) <= 1e-12 * self.diagonal.max())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"

    @staticmethod
    def from_matrix(S: ArrayLike) -> "DenseCovariance":
        """Turn a symmetric positive semi-definite matrix into a `Covariance`.

        Args:
            S: shape (p, p).

        Raises:
            TheoryError: if S is not square, finite, symmetric and positive semi-definite, or a feature has no variance.
        """
        return DenseCovariance(S)


class DenseCovariance(Covariance):
    """A covariance held as a matrix; everything else is computed from it once, on first use."""

    def __init__(self, S: ArrayLike) -> None:
        matrix = np.array(S, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
            raise TheoryError(f"a covariance must be a square matrix, got shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise TheoryError("the covariance has NaN or infinite entries")
        scale = float(np.abs(matrix).max())
        if np.abs(matrix - matrix.T).max() > 1e-10 * scale:
            raise TheoryError("the covariance is not symmetric")
        _check_variances(matrix.diagonal())
        self.p = matrix.shape[0]
        self._matrix = (matrix + matrix.T) / 2
        if self._eigh[0][0] < -_PSD_TOLERANCE * scale:
            raise TheoryError(
                f"the covariance is not positive semi-definite: smallest eigenvalue {self._eigh[0][0]:.3g}"
            )

    @classmethod
    def from_spectrum(cls, eigenvalues: Floats, eigenvectors: Floats) -> "DenseCovariance":
        """Build U diag(λ) Uᵀ from a known eigenbasis, without decomposing it again.

        Args:
            eigenvalues: shape (p,), non-negative.
            eigenvectors: orthonormal columns, shape (p, p).
        """
        if (eigenvalues < 0).any() or not np.isfinite(eigenvalues).all():
            raise TheoryError("eigenvalues of a covariance must be finite and non-negative")
        self = cls.__new__(cls)
        order = np.argsort(eigenvalues)
        values, vectors = np.asarray(eigenvalues, float)[order], np.asarray(eigenvectors, float)[:, order]
        self.p = len(values)
        self._matrix = (vectors * values) @ vectors.T
        self._matrix = (self._matrix + self._matrix.T) / 2
        _check_variances(self._matrix.diagonal())
        object.__setattr__(self, "_eigh", (values, vectors))  # fills the cached property
        return self

    @cached_property
    def _eigh(self) -> tuple[Floats, Floats]:
        return np.linalg.eigh(self._matrix)

    @property
    def matrix(self) -> Floats:
        """Σ, shape (p, p)."""
        return self._matrix

    @property
    def diagonal(self) -> Floats:
        """diag(Σ), shape (p,)."""
        return self._matrix.diagonal()

    @property
    def eigenvalues(self) -> Floats:
        """Ascending, shape (p,)."""
        return np.maximum(self._eigh[0], 0.0)

    @property
    def eigenvectors(self) -> Floats:
        """Columns in the order of `eigenvalues`, shape (p, p)."""
        return self._eigh[1]

    def multiply(self, vectors: Floats) -> Floats:
        """Σ @ vectors."""
        return self._matrix @ vectors

    @cached_property
    def _factor(self) -> Floats:
        """F with F Fᵀ = Σ: lower triangular if Σ is positive definite, since a triangular product costs half."""
        try:
            return np.linalg.cholesky(self._matrix)
        except np.linalg.LinAlgError:
            return self.eigenvectors * np.sqrt(self.eigenvalues)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """N rows of N(0, Σ), shape (n, p)."""
        return rng.standard_normal((n, self.p)) @ self._factor.T


class LowRankCovariance(Covariance):
    """Σ = level·I + U diag(strengths) Uᵀ with k orthonormal directions: isotropic, spiked and block models.

    Memory and time are O(p·k); only `matrix` and `eigenvectors` form p×p arrays.
    """

    def __init__(
        self, p: int, level: float = 1.0, directions: Floats | None = None, strengths: Floats | None = None
    ) -> None:
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
            raise TheoryError(
                f"the covariance is not positive semi-definite: strengths {self.strengths}, level {level}"
            )
        _check_variances(self.diagonal)

    @cached_property
    def _diagonal(self) -> Floats:
        return self.level + (self.directions**2) @ self.strengths

    @property
    def diagonal(self) -> Floats:
        """diag(Σ), shape (p,)."""
        return self._diagonal

    @property
    def matrix(self) -> Floats:
        """Σ, shape (p, p)."""
        return self.level * np.eye(self.p) + (self.directions * self.strengths) @ self.directions.T

    @property
    def eigenvalues(self) -> Floats:
        """Ascending, shape (p,)."""
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
        """Columns in the order of `eigenvalues`, shape (p, p)."""
        return self._eigenvectors

    def multiply(self, vectors: Floats) -> Floats:
        """Σ @ vectors."""
        along = self.directions.T @ vectors
        scaled = self.strengths[:, None] * along if vectors.ndim == 2 else self.strengths * along
        return self.level * vectors + self.directions @ scaled

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """N rows of N(0, Σ), shape (n, p)."""
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
        raise TheoryError(f"{len(bad)} features have no variance (first: {bad[0]}); drop them first")
