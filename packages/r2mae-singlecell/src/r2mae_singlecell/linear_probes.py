"""Linear probes with the paper's grid searches (C.8).

The grid searches take exact short cuts; their results are GridSearchCV's. Ridge: one eigendecomposition per fold for
every penalty. Logistic: each penalty starts from the solution of the one before. No donor is in two folds.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from r2mae_core import UserError
from r2mae_singlecell.divisions import N_FOLDS, donor_folds
from r2mae_singlecell.metrics import balanced_accuracy

ALPHAS = np.logspace(0, 8, 20)
CS = np.logspace(-6, 2, 10)


@dataclass(frozen=True)
class RidgeProbe:
    """A ridge regression with the penalty of the lowest cross-validated error."""

    alpha: float
    coef: np.ndarray
    intercept: float
    errors: np.ndarray
    """(alphas,) mean squared error over the folds."""

    def predict(self, X: Any) -> np.ndarray:
        """Return predictions, (cells,)."""
        return X @ self.coef + self.intercept


@dataclass(frozen=True)
class LogisticProbe:
    """A logistic regression with the C of the highest cross-validated balanced accuracy."""

    C: float
    model: Any
    """scikit-learn's, fitted to all training cells."""
    scores: np.ndarray
    """(Cs,) balanced accuracy over the folds."""
    converged: bool
    """Whether the final fit met its tolerance."""


def fit_ridge(
    X: Any, y: np.ndarray, groups: np.ndarray, alphas: np.ndarray = ALPHAS, n_folds: int = N_FOLDS
) -> RidgeProbe:
    """Choose the penalty by donor-grouped cross-validation and fit it to everything.

    Args:
        X: (cells, features), dense or sparse.
        y: (cells,) the target.
        groups: (cells,) the donor.
        alphas: penalties.
        n_folds: most folds (`donor_folds`).
    """
    X, y = X.astype(np.float64), y.astype(np.float64)
    errors, folds = np.zeros(len(alphas)), donor_folds(X.shape[0], groups, n_folds)
    for train, validation in folds:
        coefs, intercepts = _ridge_path(X[train], y[train], alphas)
        residuals = X[validation] @ coefs + intercepts - y[validation][:, None]
        errors += (residuals**2).mean(axis=0) / len(folds)
    best = int(errors.argmin())
    coefs, intercepts = _ridge_path(X, y, alphas[best : best + 1])
    return RidgeProbe(float(alphas[best]), coefs[:, 0], float(intercepts[0]), errors)


def _ridge_path(X: Any, y: np.ndarray, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (features, alphas) and intercepts (alphas,), by the smaller of the two Gram matrices.

    Sparse features stay sparse: their Gram matrix is centred afterwards.
    """
    mean, y_mean = np.asarray(X.mean(axis=0)).ravel(), y.mean()
    target = y - y_mean
    if X.shape[0] >= X.shape[1]:
        if sp.issparse(X):
            gram, moment = (X.T @ X).toarray() - X.shape[0] * np.outer(mean, mean), X.T @ target
        else:
            Z = X - mean
            gram, moment = Z.T @ Z, Z.T @ target
        values, vectors = np.linalg.eigh(gram)
        coefs = vectors @ ((vectors.T @ moment)[:, None] / (values.clip(0)[:, None] + alphas))
    else:
        Z = (X.toarray() if sp.issparse(X) else X) - mean
        values, vectors = np.linalg.eigh(Z @ Z.T)
        coefs = Z.T @ (vectors @ ((vectors.T @ target)[:, None] / (values.clip(0)[:, None] + alphas)))
    return coefs, y_mean - mean @ coefs


def fit_logistic(
    X: Any,
    y: np.ndarray,
    groups: np.ndarray,
    Cs: np.ndarray = CS,
    n_folds: int = N_FOLDS,
    max_iter: int = 1000,
    tol: float = 1e-4,
) -> LogisticProbe:
    """Choose C by donor-grouped cross-validation and fit it to everything.

    Args:
        X: (cells, features), dense or sparse.
        y: (cells,) the class.
        groups: (cells,) the donor.
        Cs: inverse penalties, ascending.
        n_folds: most folds (`donor_folds`).
        max_iter: most iterations of each fit.
        tol: tolerance at which a fit stops.

    Raises:
        UserError: there is only one class.
    """
    if len(np.unique(y)) < 2:
        raise UserError(f"only one class among the training cells: {str(y[0])!r}")
    scores, folds = np.zeros(len(Cs)), donor_folds(X.shape[0], groups, n_folds)
    for train, validation in folds:
        if len(np.unique(y[train])) < 2:  # nothing to fit: whatever C, the one class is predicted
            scores += balanced_accuracy(y[validation], np.full(len(validation), y[train][0])) / len(folds)
            continue
        for i, model in enumerate(_logistic_path(X[train], y[train], Cs, max_iter, tol)):
            scores[i] += balanced_accuracy(y[validation], model.predict(X[validation])) / len(folds)
    best = int(scores.argmax())
    *_, model = _logistic_path(X, y, Cs[: best + 1], max_iter, tol)
    return LogisticProbe(float(Cs[best]), model, scores, bool((model.n_iter_ < max_iter).all()))


def _logistic_path(X: Any, y: np.ndarray, Cs: np.ndarray, max_iter: int, tol: float) -> Any:
    """Yield one model fitted at each C in turn, warm from the last."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(warm_start=True, max_iter=max_iter, tol=tol)
    for C in Cs:
        model.C = float(C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the probe says whether its final fit converged
            yield model.fit(X, y)
