import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold

from r2mae_core import UserError
from r2mae_singlecell.divisions import donor_folds, fold_note
from r2mae_singlecell.linear_probes import ALPHAS, CS, fit_logistic, fit_ridge
from r2mae_singlecell.metrics import balanced_accuracy, macro_auroc


def cells(n=200, d=12, n_donors=10, seed=0):
    rng = np.random.default_rng(seed)
    X, donors = rng.normal(size=(n, d)), rng.integers(0, n_donors, n)
    return X, X[:, :3].sum(1) + rng.normal(0, 2, n), donors


@pytest.mark.parametrize("shape", [(200, 12), (60, 90)])  # more cells than features, and fewer
def test_ridge_is_grid_search_cv(shape):
    X, y, donors = cells(*shape)
    search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, scoring="neg_mean_squared_error", cv=GroupKFold(5))
    search.fit(X, y, groups=donors)
    probe = fit_ridge(X, y, donors)
    assert probe.alpha == search.best_params_["alpha"]
    assert np.allclose(probe.errors, -search.cv_results_["mean_test_score"], rtol=1e-8)
    assert np.allclose(probe.predict(X), search.predict(X), rtol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_logistic_is_grid_search_cv(n_classes):
    X, y, donors = cells(300)
    labels = np.array(list("abcd"))[np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))]
    model = LogisticRegression(max_iter=5000, tol=1e-7)
    search = GridSearchCV(model, {"C": CS}, scoring="balanced_accuracy", cv=GroupKFold(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that a fold lacks
        search.fit(X, labels, groups=donors)
    probe = fit_logistic(X, labels, donors, max_iter=5000, tol=1e-7)
    assert pytest.approx(search.best_params_["C"]) == probe.C
    assert np.allclose(probe.scores, search.cv_results_["mean_test_score"], atol=1e-9)
    assert np.allclose(probe.model.predict_proba(X), search.predict_proba(X), atol=1e-3)
    assert probe.converged


def test_folds_hold_donors_apart():
    X, _, donors = cells()
    for train, validation in donor_folds(len(X), donors):
        assert not set(donors[train]) & set(donors[validation])


@pytest.mark.parametrize("n_donors", [2, 3, 4, 5, 9])
def test_folds_follow_the_donors_that_there_are(n_donors):
    X, y, donors = cells()
    donors = donors % n_donors
    folds = donor_folds(len(X), donors)
    assert len(folds) == min(5, n_donors)
    assert sorted(np.concatenate([validation for _, validation in folds])) == list(range(len(X)))
    assert all(not set(donors[train]) & set(donors[validation]) for train, validation in folds)
    search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, scoring="neg_mean_squared_error", cv=GroupKFold(len(folds)))
    search.fit(X, y, groups=donors)
    assert np.allclose(fit_ridge(X, y, donors).errors, -search.cv_results_["mean_test_score"], rtol=1e-8)
    assert fold_note(donors, 5) == (f"{n_donors} training donors: {n_donors} folds in the grid search" * (n_donors < 5))


def test_the_folds_of_one_donor_are_of_its_cells():
    folds = donor_folds(11, np.zeros(11))
    assert sorted(np.concatenate([validation for _, validation in folds])) == list(range(11))
    assert len(folds) == 5
    assert "one training donor" in fold_note(np.zeros(11), 5)
    assert len(donor_folds(3, np.zeros(3))) == 3
    with pytest.raises(UserError, match="one training cell makes no folds"):
        donor_folds(1, np.zeros(1))


@pytest.mark.parametrize("shape", [(200, 12), (60, 90)])
def test_sparse_features_give_the_same_probes(shape):
    X, y, donors = cells(*shape)
    X[np.abs(X) < 0.7] = 0.0
    dense, sparse = fit_ridge(X, y, donors), fit_ridge(sp.csr_matrix(X), y, donors)
    assert np.allclose(dense.errors, sparse.errors, rtol=1e-8)
    assert np.allclose(dense.predict(X), sparse.predict(sp.csr_matrix(X)), rtol=1e-8)
    labels = np.where(y > 0, "a", "b")
    dense, sparse = (fit_logistic(x, labels, donors, tol=1e-8, max_iter=5000) for x in (X, sp.csr_matrix(X)))
    assert dense.C == sparse.C
    assert np.allclose(dense.model.predict_proba(X), sparse.model.predict_proba(X), atol=1e-4)


def test_one_class_is_refused():
    X, _, donors = cells()
    with pytest.raises(UserError, match="only one class"):
        fit_logistic(X, np.full(200, "a"), donors)


def test_a_fold_with_one_class_predicts_it():
    X, _, _ = cells()
    donors = np.arange(200) % 2
    labels = np.where(donors == 0, "a", "b")  # each donor has a class of its own, so each fold trains on one class
    assert fit_logistic(X, labels, donors, n_folds=2).scores.tolist() == [0.0] * 10


def test_iteration_limit_is_told():
    X, y, donors = cells(300)
    assert not fit_logistic(X, y > 0, donors, Cs=np.array([1e2]), max_iter=1).converged


@given(seed=st.integers(0, 50), n_classes=st.integers(2, 5))
def test_metrics_equal_sklearn(seed, n_classes):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, 40)])
    predicted = rng.integers(0, n_classes, len(y))
    assert balanced_accuracy(y, predicted) == pytest.approx(balanced_accuracy_score(y, predicted))
    p = rng.dirichlet(np.ones(n_classes), len(y))
    expected = roc_auc_score(y, p[:, 1]) if n_classes == 2 else roc_auc_score(y, p, multi_class="ovr", average="macro")
    ours = macro_auroc(y, p, np.arange(n_classes))
    assert ours == pytest.approx(expected)


def test_auroc_with_a_class_that_test_or_training_lacks():
    y, p = np.array([0, 0, 1, 1]), np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0.1, 0.9, 0]])
    assert macro_auroc(y, p, np.arange(3)) == 1.0  # class 2 is not in the test set
    assert macro_auroc(y, p[:, :1], np.array([0])) == pytest.approx(0.75)  # class 1 was never trained on: 0.5
    assert np.isnan(macro_auroc(np.zeros(4), p, np.arange(3)))
