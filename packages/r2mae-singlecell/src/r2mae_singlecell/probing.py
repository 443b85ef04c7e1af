"""Probing across donors: the division of the donors, and linear probes with the paper's grid searches (C.8).

The grid searches take exact short cuts; their results are GridSearchCV's. Ridge: one eigendecomposition per fold for
every penalty. Logistic: each penalty starts from the solution of the one before. No donor is in two folds.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from r2mae_core import UserError, derived_seed
from r2mae_singlecell.metrics import (
    auroc_of_cells_and_donors,
    balanced_accuracy,
    macro_f1,
    spearman_of_cells_and_donors,
)

ALPHAS = np.logspace(0, 8, 20)
CS = np.logspace(-6, 2, 10)
N_FOLDS = 5


@dataclass(frozen=True)
class Task:
    """One thing to predict from an embedding."""

    name: str
    """Also the column of `obs`."""
    kind: Literal["class", "auroc", "regression"]
    """What is measured: balanced accuracy and macro F1; macro AUROC of cells and donors; Spearman of both."""
    cap_first: bool = False
    """Take at most so many cells of a donor before those without a label are left out, not after."""


TASKS = {
    "hlca": (Task("cell_type", "class", cap_first=True), Task("disease", "class"), Task("age", "regression")),
    "seaad": (Task("cell_type", "class"), Task("disease", "auroc"), Task("age", "regression")),
}
TASKS["seaad-allen"] = TASKS["seaad"]
TASKS["none"] = (Task("cell_type", "class"), *TASKS["hlca"][1:])


@dataclass(frozen=True)
class Protocol:
    """The probing protocol. The paper gives grids, folds and metrics; the rest are our choices."""

    n_splits: int = 5
    """Random divisions of the donors; the paper shows one."""
    train_share: float = 0.5
    """Share of the donors to train on; the paper does not state its share."""
    max_cells: int = 1000
    """Most cells of a donor, in training and in test; the paper does not state its number."""
    standardize: bool = True
    """Scale features by the training cells' mean and deviation, so that the grids mean the same for every method."""
    n_folds: int = N_FOLDS
    shuffle_labels: bool = False
    """Shuffle the labels among the training donors: the result is chance level."""
    seed: int = 0
    """Seed for divisions and samples; every method gets the same."""


def donor_split(obs: pd.DataFrame, task: Task, protocol: Protocol, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells to train and to test on; no donor is in both.

    Raises:
        UserError: there are fewer than two donors with labels.
    """
    rng = np.random.default_rng(derived_seed(protocol.seed, "donors", split))
    usable = ~obs["is_reference"].to_numpy(bool) if "is_reference" in obs else np.ones(len(obs), bool)
    labelled = usable & obs[task.name].notna().to_numpy()
    if not labelled.any():
        raise UserError(f"no cell has a value in {task.name!r}")
    donors = obs["donor"].astype(str).to_numpy()
    names = np.unique(donors[usable])
    n_train = round(protocol.train_share * len(names))
    if not 0 < n_train < len(names):
        raise UserError(f"{len(names)} donors cannot be divided into training and test donors")
    training = set(rng.permutation(names)[:n_train])
    eligible = usable if task.cap_first else labelled
    chosen = np.zeros(len(obs), bool)
    by_donor = pd.Series(np.flatnonzero(eligible)).groupby(donors[eligible]).indices
    cells = np.flatnonzero(eligible)
    for donor in sorted(map(str, by_donor)):
        own = cells[by_donor[donor]]
        chosen[rng.permutation(own)[: protocol.max_cells]] = True
    chosen &= labelled
    in_training = np.fromiter((donor in training for donor in donors), bool, len(donors))
    train, test = np.flatnonzero(chosen & in_training), np.flatnonzero(chosen & ~in_training)
    if not len(train) or not len(test):
        raise UserError(
            f"all cells with a value in {task.name!r} are on one side of the division of the donors; give more donors"
        )
    return train, test


def measure(
    embedding: Any,
    obs: pd.DataFrame,
    task: Task,
    protocol: Protocol,
    split: int,
    train: np.ndarray,
    test: np.ndarray,
) -> tuple[dict[str, tuple[float, int]], str]:
    """Fit a probe to the training cells and evaluate it on the test cells.

    Args:
        embedding: (cells, features), dense or sparse.
        obs: standard columns of the same cells.
        task: what to predict.
        protocol: how.
        split: which division of the donors.
        train: indices of the training cells.
        test: indices of the test cells.

    Returns:
        Metric → (value, n), and a note, which may be empty.
    """
    X, X_test = dense(embedding[train]), dense(embedding[test])
    if protocol.standardize:
        mean, deviation = X.mean(axis=0), X.std(axis=0)
        deviation[deviation == 0] = 1.0
        X, X_test = (X - mean) / deviation, (X_test - mean) / deviation
    donors = obs["donor"].astype(str).to_numpy()
    y = obs[task.name].to_numpy()
    y_train, y_test = y[train], y[test]
    if protocol.shuffle_labels:
        y_train = _shuffled(y_train, donors[train], task, derived_seed(protocol.seed, "shuffle", split))
    if task.kind == "regression":
        model = fit_ridge(X, y_train.astype(float), donors[train], n_folds=protocol.n_folds)
        return spearman_of_cells_and_donors(y_test.astype(float), model.predict(X_test), donors[test]), ""
    y_train, y_test = y_train.astype(str), y_test.astype(str)
    probe = fit_logistic(X, y_train, donors[train], n_folds=protocol.n_folds)
    unseen = sorted(set(y_test) - set(y_train))
    absent = sorted(set(y_train) - set(y_test))
    notes = [f"classes without training cells: {', '.join(unseen)}"] if unseen else []
    notes += [f"classes without test cells: {', '.join(absent)}"] if absent else []
    notes += [] if probe.converged else ["the logistic regression reached its iteration limit"]
    if task.kind == "auroc":
        values = auroc_of_cells_and_donors(
            y_test, probe.model.predict_proba(X_test), probe.model.classes_, donors[test]
        )
        return values, "; ".join(notes)
    predicted = probe.model.predict(X_test)
    n = len(test)
    values = {
        "balanced_accuracy": (balanced_accuracy(y_test, predicted), n),
        "macro_f1": (macro_f1(y_test, predicted), n),
    }
    return values, "; ".join(notes)


def dense(X: Any) -> np.ndarray:
    """Return a matrix as dense float64."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)


def _shuffled(y: np.ndarray, donors: np.ndarray, task: Task, seed: int) -> np.ndarray:
    """Shuffle labels of donors among the donors, and cell types among the cells."""
    rng = np.random.default_rng(seed)
    if task.name == "cell_type":
        return rng.permutation(y)
    names, first = np.unique(donors, return_index=True)
    other = dict(zip(names, rng.permutation(y[first]), strict=True))
    return np.array([other[donor] for donor in donors], dtype=y.dtype)


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
        tol: tolerance at which a fit stops.

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
