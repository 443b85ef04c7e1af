"""Linear probes with their grid searches (paper, C.8), on exact short cuts: the result is GridSearchCV's.

Ridge: one eigendecomposition per fold serves every penalty. Logistic: each penalty starts from the solution of the one
before. Folds hold whole donors apart.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2mae_core.errors import UserError

ALPHAS = np.logspace(0, 8, 20)
CS = np.logspace(-6, 2, 10)
N_FOLDS = 5


@dataclass(frozen=True)
class RidgeProbe:
    """A ridge regression with the penalty of the lowest cross-validated error."""

    alpha: float
    coef: np.ndarray
    intercept: float
    errors: np.ndarray
    """(alphas,) mean squared error over the folds."""

    def predict(self, X: np.ndarray) -> np.ndarray:
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


def donor_folds(X: np.ndarray, groups: np.ndarray, n_folds: int = N_FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, validation) indices of folds that share no donor.

    Raises:
        UserError: there are fewer donors than folds.
    """
    from sklearn.model_selection import GroupKFold

    n_donors = len(np.unique(groups))
    if n_donors < n_folds:
        raise UserError(f"{n_donors} training donors do not fill {n_folds} folds; give more donors, or fewer folds")
    return list(GroupKFold(n_folds).split(X, groups=groups))


def fit_ridge(
    X: np.ndarray, y: np.ndarray, groups: np.ndarray, alphas: np.ndarray = ALPHAS, n_folds: int = N_FOLDS
) -> RidgeProbe:
    """Choose the penalty by donor-grouped cross-validation and fit it to everything.

    Args:
        X: (cells, features).
        y: (cells,) the target.
        groups: (cells,) the donor.
        alphas: penalties.
        n_folds: folds.

    Raises:
        UserError: there are fewer donors than folds.
    """
    X, y = X.astype(np.float64), y.astype(np.float64)
    errors = np.zeros(len(alphas))
    for train, validation in donor_folds(X, groups, n_folds):
        coefs, intercepts = _ridge_path(X[train], y[train], alphas)
        residuals = X[validation] @ coefs + intercepts - y[validation][:, None]
        errors += (residuals**2).mean(axis=0) / n_folds
    best = int(errors.argmin())
    coefs, intercepts = _ridge_path(X, y, alphas[best : best + 1])
    return RidgeProbe(float(alphas[best]), coefs[:, 0], float(intercepts[0]), errors)


def _ridge_path(X: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (features, alphas) and intercepts (alphas,), by the smaller of the two Gram matrices."""
    mean, y_mean = X.mean(axis=0), y.mean()
    Z, target = X - mean, y - y_mean
    if Z.shape[0] >= Z.shape[1]:
        values, vectors = np.linalg.eigh(Z.T @ Z)
        coefs = vectors @ ((vectors.T @ (Z.T @ target))[:, None] / (values.clip(0)[:, None] + alphas))
    else:
        values, vectors = np.linalg.eigh(Z @ Z.T)
        coefs = Z.T @ (vectors @ ((vectors.T @ target)[:, None] / (values.clip(0)[:, None] + alphas)))
    return coefs, y_mean - mean @ coefs


def fit_logistic(
    X: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    Cs: np.ndarray = CS,
    n_folds: int = N_FOLDS,
    max_iter: int = 1000,
    tol: float = 1e-4,
) -> LogisticProbe:
    """Choose C by donor-grouped cross-validation and fit it to everything.

    Args:
        X: (cells, features).
        y: (cells,) the class.
        groups: (cells,) the donor.
        Cs: inverse penalties, ascending.
        n_folds: folds.
        max_iter: most iterations of each fit.
        tol: where a fit stops.

    Raises:
        UserError: there are fewer donors than folds, or only one class.
    """
    if len(np.unique(y)) < 2:
        raise UserError(f"only one class among the training cells: {y[0]!r}")
    scores = np.zeros(len(Cs))
    for train, validation in donor_folds(X, groups, n_folds):
        if len(np.unique(y[train])) < 2:  # nothing to fit: whatever C, the one class is predicted
            scores += balanced_accuracy(y[validation], np.full(len(validation), y[train][0])) / n_folds
            continue
        for i, model in enumerate(_logistic_path(X[train], y[train], Cs, max_iter, tol)):
            scores[i] += balanced_accuracy(y[validation], model.predict(X[validation])) / n_folds
    best = int(scores.argmax())
    *_, model = _logistic_path(X, y, Cs[: best + 1], max_iter, tol)
    return LogisticProbe(float(Cs[best]), model, scores, bool((model.n_iter_ < max_iter).all()))


def _logistic_path(X: np.ndarray, y: np.ndarray, Cs: np.ndarray, max_iter: int, tol: float) -> Any:
    """Yield one model fitted at each C in turn, warm from the last."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(warm_start=True, max_iter=max_iter, tol=tol)
    for C in Cs:
        model.C = float(C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the probe says whether its final fit converged
            yield model.fit(X, y)


def balanced_accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall over the classes of `y`."""
    return float(np.mean([(predicted[y == label] == label).mean() for label in np.unique(y)]))


def macro_auroc(y: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean one-vs-rest area under the ROC curve over the classes that `y` has, and has not alone.

    Args:
        y: (n,) true classes.
        probabilities: (n, classes), columns as in `classes`. A class that was never trained on has probability 0.
        classes: what the columns are.

    Returns:
        NaN if `y` has one class only.
    """
    from sklearn.metrics import roc_auc_score

    present = np.unique(y)
    if len(present) < 2:
        return float("nan")
    columns = {label: probabilities[:, i] for i, label in enumerate(classes)}
    nothing = np.zeros(len(y))
    return float(np.mean([roc_auc_score(y == label, columns.get(label, nothing)) for label in present]))
