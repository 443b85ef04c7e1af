"""Two representations of a covariance: a matrix, or the identity plus a few directions."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory.arguments import array, check_memory, check_vectors, features, finite, generator, number, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError

_ORTHONORMAL = 1e-8  # largest error of an inner product of directions
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
    def _product(self, vectors: Floats) -> Floats:
        """Return Σ @ vectors, for shape (p,) or (p, k)."""

    @abstractmethod
    def _draw(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n rows of N(0, Σ), shape (n, p)."""

    def multiply(self, vectors: ArrayLike) -> Floats:
        """Return Σ @ vectors, for shape (p,) or (p, k).

        Raises:
            TheoryError: for another shape, and for values that are not finite numbers.
        """
        v = array("vectors", vectors, sized=False)
        if v.ndim not in (1, 2) or len(v) != self.p:
            raise TheoryError(f"vectors have shape {v.shape}, but the covariance has {self.p} features")
        with np.errstate(over="ignore", invalid="ignore"):
            product = self._product(v)
        finite("the product with the covariance", product)
        return product

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw n rows of N(0, Σ), shape (n, p).

        Raises:
            TheoryError: for n below 0, or more rows than the memory holds.
        """
        n = whole("n", n)
        check_memory(f"a sample of {n} rows of {self.p} features", 2.0 * n * self.p)
        return self._draw(n, generator(rng))

    def quadratic(self, vector: ArrayLike) -> float:
        """Return ‖vector‖²_Σ = vectorᵀ Σ vector, for shape (p,)."""
        v = array("vector", vector, self.p, sized=False)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(v @ self._product(v))
        finite("the quadratic form", square)
        return square

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
        matrix = array("the covariance", S, None, None)
        if matrix.shape[0] != matrix.shape[1]:
            raise TheoryError(f"the covariance must be a square matrix, got shape {matrix.shape}")
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
    def from_spectrum(cls, eigenvalues: ArrayLike, eigenvectors: ArrayLike) -> "DenseCovariance":
        """Build U diag(λ) Uᵀ from a known eigenbasis, without decomposing it again.

        Args:
            eigenvalues: shape (p,), non-negative.
            eigenvectors: orthonormal columns, shape (p, p).

        Raises:
            TheoryError: for negative eigenvalues, and for eigenvectors that are not orthonormal.
        """
        values = array("eigenvalues", eigenvalues, None)
        vectors = array("eigenvectors", eigenvectors, len(values), len(values))
        if (values < 0).any():
            raise TheoryError(f"the eigenvalues of a covariance must not be negative, got {values.min():g}")
        _check_orthonormal("eigenvectors", vectors)
        self = cls.__new__(cls)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
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

    def _product(self, vectors: Floats) -> Floats:
        return self._matrix @ vectors

    @cached_property
    def _factor(self) -> Floats:
        """F with F Fᵀ = Σ: lower triangular if Σ is positive definite, since a triangular product costs half."""
        try:
            return np.linalg.cholesky(self._matrix)
        except np.linalg.LinAlgError:
            return self.eigenvectors * np.sqrt(self.eigenvalues)

    def _draw(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.standard_normal((n, self.p)) @ self._factor.T


class LowRankCovariance(Covariance):
    """Σ = level·I + U diag(strengths) Uᵀ with k orthonormal directions: isotropic, spiked and block models.

    Memory and time are O(p·k); only `matrix` and `eigenvectors` form p×p arrays.
    """

    def __init__(
        self, p: int, level: float = 1.0, directions: ArrayLike | None = None, strengths: ArrayLike | None = None
    ) -> None:
        """Hold the level, the directions, shape (p, k), and their strengths, shape (k,).

        Raises:
            TheoryError: for arguments out of range, and directions that are not orthonormal.
        """
        self.p = features(p)
        check_vectors(self.p)
        self.level = number("the level of the identity", level, above=0)
        self.strengths, self.directions = np.zeros(0), np.zeros((self.p, 0))
        if (directions is None) != (strengths is None):
            raise TheoryError("directions and strengths belong together: give both or neither")
        if directions is not None and strengths is not None:
            self.strengths = array("strengths", strengths, None)
            self.directions = array("directions", directions, self.p, len(self.strengths))
            _check_orthonormal("directions", self.directions)
        if not (self.level + self.strengths >= 0).all():
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

    def _product(self, vectors: Floats) -> Floats:
        along = self.directions.T @ vectors
        scaled = self.strengths[:, None] * along if vectors.ndim == 2 else self.strengths * along
        return self.level * vectors + self.directions @ scaled

    def _draw(self, n: int, rng: np.random.Generator) -> Floats:
        x = rng.standard_normal((n, self.p))
        if self.level != 1.0:
            x *= np.sqrt(self.level)
        if len(self.strengths):
            stretch = np.sqrt(1 + self.strengths / self.level) - 1
            x += ((x @ self.directions) * stretch) @ self.directions.T
        return x


def as_covariance(value: Any) -> Covariance:
    """Return a covariance; refuse anything else, such as a bare matrix.

    Raises:
        TheoryError: if it is none.
    """
    if not isinstance(value, Covariance):
        raise TheoryError(
            f"the covariance must be a Covariance, got {type(value).__name__}; "
            "Covariance.from_matrix makes one of a matrix"
        )
    return value


def _check_orthonormal(name: str, vectors: Floats) -> None:
    off = float(np.abs(vectors.T @ vectors - np.eye(vectors.shape[1])).max())
    if not off < _ORTHONORMAL:
        raise TheoryError(f"{name} must be orthonormal columns; their inner products are off by up to {off:.2g}")


def _check_variances(diagonal: Floats) -> None:
    if (diagonal <= 0).any():
        bad = np.flatnonzero(diagonal <= 0)
        raise TheoryError(f"{len(bad)} features have no variance (first: {bad[0]}); drop them first")
