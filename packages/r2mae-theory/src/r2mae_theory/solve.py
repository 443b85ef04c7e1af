"""Minimum-norm least squares through the smaller Gram matrix."""

import numpy as np
from scipy.linalg import get_lapack_funcs

from r2mae_theory.arrays import Floats

_pocon, _potrf, _potrs = get_lapack_funcs(("pocon", "potrf", "potrs"), dtype=np.float64)
_MIN_RECIPROCAL_CONDITION = 1e-8  # of the Gram matrix: below it the normal equations lose more than 8 digits


class NormalSolver:
    """β̂ = Z⁺y for one Z of shape (m, p) and any number of right-hand sides.

    The smaller of ZZᵀ and ZᵀZ is factorised by Cholesky. If it is ill-conditioned, the pseudo-inverse is formed from
    the singular values instead, and `fell_back` is true.
    """

    def __init__(self, Z: Floats) -> None:
        # A row without a visible feature carries no information; it would only make ZZᵀ singular.
        self._kept = np.einsum("ij,ij->i", Z, Z) > 0
        self._all_kept = bool(self._kept.all())
        self._Z = Z if self._all_kept else Z[self._kept]
        self._rows = len(Z)
        self._wide = self._Z.shape[0] <= self._Z.shape[1]
        self._pinv: Floats | None = None
        self._factor: Floats | None = None
        self.fell_back = False
        if self._Z.shape[0]:
            gram = self._Z @ self._Z.T if self._wide else self._Z.T @ self._Z
            norm = float(np.abs(gram).sum(axis=0).max())
            factor, failed = _potrf(gram, lower=1, clean=0)
            if not failed and _pocon(factor, norm, uplo="L")[0] > _MIN_RECIPROCAL_CONDITION:
                self._factor = factor
            else:
                self._pinv = np.linalg.pinv(self._Z)
                self.fell_back = True

    def fit(self, y: Floats) -> Floats:
        """Return Z⁺y for y of shape (m,) or (m, k)."""
        rhs = y if self._all_kept else y[self._kept]
        if not len(self._Z):
            return np.zeros((self._Z.shape[1], *y.shape[1:]))
        if self._pinv is not None:
            return self._pinv @ rhs
        if self._wide:
            return self._Z.T @ self._back(rhs)
        return self._back(self._Z.T @ rhs)

    def pseudo_inverse(self) -> Floats:
        """Return Z⁺ itself, shape (p, m)."""
        return self.fit(np.eye(self._rows))

    def _back(self, rhs: Floats) -> Floats:
        return _potrs(self._factor, rhs, lower=1)[0].reshape(rhs.shape)
