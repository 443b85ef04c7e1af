"""The linear model's own representation, and what a probe reads from it, against plain numpy."""

import numpy as np
import pytest

from r2mae_core import read_records
from r2mae_theory import covariance
from r2mae_theory.cli import main
from r2mae_theory.errors import DataError, TheoryError
from r2mae_theory.masks import Fixed, Uniform
from r2mae_theory.probe_advice import advise_probe
from r2mae_theory.probe_risk import coefficient_matrix, directions, fitted_coefficients, probe_curve, probe_risk


def moment(p, seed=0):
    """A covariance of standard deviations between 0.5 and 2."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(p, 2 * p)) * np.exp(rng.normal(size=(p, 1)) / 2)
    return root @ root.T / (2 * p)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.95])
def test_all_regressions_are_columns_of_one_inverse(ratio):
    S = moment(300)
    B = coefficient_matrix(S, ratio)
    for j in (0, 7, 299):
        rest = np.delete(np.arange(300), j)
        masked = (1 - ratio) * S[np.ix_(rest, rest)] + ratio * np.diag(S.diagonal()[rest])
        assert B[rest, j] == pytest.approx(np.linalg.solve(masked, S[rest, j]), rel=1e-6, abs=1e-9)
        assert B[j, j] == 0


def test_limits():
    S = moment(30)
    omega = np.linalg.inv(S)
    assert coefficient_matrix(S, 1e-9) == pytest.approx(np.eye(30) - omega / omega.diagonal(), abs=1e-5)
    alone = S / S.diagonal()[:, None] - np.eye(30)  # each feature is predicted from each other one alone
    assert coefficient_matrix(S, 1 - 1e-7) == pytest.approx(alone, abs=1e-5)


def test_many_epochs_and_many_samples_come_to_the_same_matrix():
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(np.zeros(6), moment(6), size=40)
    x -= x.mean(axis=0)
    endless = fitted_coefficients(x, Fixed(0.4), np.inf, rng)
    assert fitted_coefficients(x, Fixed(0.4), 3000, rng) == pytest.approx(endless, abs=0.03)
    spread = fitted_coefficients(x, Uniform(0.1, 0.9), 3000, rng)  # one fixed ratio, but not the midpoint's
    assert spread == pytest.approx(fitted_coefficients(x, Uniform(0.1, 0.9), np.inf, rng), abs=0.03)
    many = rng.multivariate_normal(np.zeros(6), moment(6), size=60_000)
    assert fitted_coefficients(many, Fixed(0.4), 1, rng) == pytest.approx(coefficient_matrix(moment(6), 0.4), abs=0.04)


def test_the_first_directions_turn_from_least_to_most_variance():
    """Of a spectrum with a long upper tail, whose largest variances are farthest from the mean."""
    cov = covariance.beta_spectrum(300, 1.0, 10.0, 0.2, 5.0, seed=0)
    _, vectors = np.linalg.eigh(cov.matrix)
    for ratio, place in ((0.02, slice(0, 30)), (0.98, slice(-30, None))):
        U = directions(coefficient_matrix(cov.matrix, ratio), cov.matrix, 10)
        assert ((vectors[:, place].T @ U) ** 2).sum() > 9


def test_predictions_are_cut_at_their_principal_directions():
    S, rng = moment(20), np.random.default_rng(0)
    B = coefficient_matrix(S, 0.3)
    U = directions(B, S, 4, "predictions")
    assert pytest.approx(np.eye(4)) == U.T @ U
    x = rng.multivariate_normal(np.zeros(20), S, size=200_000)
    leading = np.linalg.eigh(B.T @ (x.T @ x) @ B)[1][:, -4:]
    span = np.linalg.qr(B @ leading)[0]
    assert np.linalg.norm(U @ U.T - span @ span.T) < 0.1
    left = np.linalg.svd(B)[0][:, :4]
    assert np.abs((left * directions(B, S, 4)).sum(axis=0)) == pytest.approx(np.ones(4))


@pytest.mark.parametrize("n_labels", [60, 200])
def test_risk_of_the_probe_at_p_300(n_labels):
    S, rng = moment(300), np.random.default_rng(1)
    U = directions(coefficient_matrix(S, 0.5), S, 20)
    beta, sigma, risks, root = rng.normal(size=300), 5.0, [], np.linalg.cholesky(S)
    for _ in range(150):
        x = rng.normal(size=(n_labels, 300)) @ root.T
        w = np.linalg.lstsq(x @ U, x @ beta + sigma * rng.normal(size=n_labels), rcond=None)[0]
        gap = U @ w - beta
        risks.append(gap @ S @ gap)
    found = np.mean(risks) / (beta @ S @ beta)
    error = np.std(risks) / np.sqrt(150) / (beta @ S @ beta)
    assert probe_risk(S, U, beta, sigma, n_labels) == pytest.approx(found, abs=3 * error)


def test_curves_of_endless_and_of_finite_pretrainings():
    cov = covariance.spiked(40, 8.0, seed=0)
    beta, ratios = cov.directions[:, 0], [0.1, 0.5, 0.9]
    exact = probe_curve(cov, beta, 0.5, ratios, 3)
    assert (exact.sd == 0).all()
    assert exact.best == int(np.argmin(exact.risk))
    many = probe_curve(cov, beta, 0.5, ratios, 3, n=20_000, n_repeats=2)
    assert many.risk == pytest.approx(exact.risk, abs=0.05)
    few = probe_curve(cov, beta, 0.5, ratios, 3, n=40, epochs=2, n_labels=30, n_repeats=3, seed=1)
    assert (few.risk > exact.risk - 1e-9).all()
    again = probe_curve(cov, beta, 0.5, ratios, 3, n=40, epochs=2, n_labels=30, n_repeats=3, seed=1)
    assert np.array_equal(few.risk, again.risk)
    # E[r²(1 − r)]/E[r(1 − r)] of U(0.2, 0.6)
    one = (0.52 / 3 - 0.08) / (0.4 - 0.52 / 3)
    ranged, fixed = (probe_curve(cov, beta, 0.5, [mask], 3).risk[0] for mask in ((0.2, 0.6), one))
    assert ranged == pytest.approx(fixed, rel=1e-6)


def data(n=200, p=12, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 3))
    X = factors @ rng.normal(size=(3, p)) + rng.normal(size=(n, p)) * 0.5
    return X, factors


def test_advice_for_a_probe_is_the_error_on_held_out_rows():
    X, Y = data()
    found = advise_probe(X, Y, [0.1, 0.5, 0.9], n_dimensions=3, n_splits=4, seed=5)
    rng = np.random.default_rng([5, 0])
    order = rng.permutation(200)
    shown, held_out = X[order[:100]], X[order[100:]]
    centre, spread = shown.mean(0), shown.std(0)
    shown, held_out = (shown - centre) / spread, (held_out - centre) / spread
    S = shown.T @ shown / 100
    errors = []
    for ratio in (0.1, 0.5, 0.9):
        B = np.zeros((12, 12))
        for j in range(12):
            rest = np.delete(np.arange(12), j)
            masked = (1 - ratio) * S[np.ix_(rest, rest)] + ratio * np.eye(11)
            B[rest, j] = np.linalg.solve(masked, S[rest, j])
        U = np.linalg.svd(B)[0][:, :3]
        design = np.c_[np.ones(100), shown @ U]
        fit = np.linalg.lstsq(design, Y[order[:100]], rcond=None)[0]
        gap = Y[order[100:]] - np.c_[np.ones(100), held_out @ U] @ fit
        errors.append((gap**2).sum() / ((Y[order[100:]] - Y[order[:100]].mean(0)) ** 2).sum())
    assert found.ratios[np.argmin(errors)] == found.split_ratios[0]
    two = advise_probe(X, Y, [0.1, 0.5, 0.9], n_dimensions=3, n_splits=2, seed=5)
    # mean ± sd/√2 are the two splits.
    assert np.abs(np.array(errors) - two.error) == pytest.approx(two.sd / np.sqrt(2), abs=1e-9)
    assert found.best_ratio == found.ratios[found.error.argmin()]
    assert found.best_ratio in found.as_good
    assert (found.n_dimensions, found.n_labels, found.n_features) == (3, 100, 12)
    columns = advise_probe(np.c_[X, Y], None, [0.1, 0.5, 0.9], labels=[12, 13, 14], n_dimensions=3, n_splits=4, seed=5)
    assert columns.error == pytest.approx(found.error)
    assert columns.labels == ("12", "13", "14")


def test_without_labels_random_directions_are_predicted():
    found = advise_probe(data()[0], None, [0.1, 0.9], n_dimensions=3, n_splits=3)
    assert found.labels == ()
    assert ((found.error > 0) & (found.error < 1)).all()


def test_what_is_refused():
    X, Y = data()
    S = moment(8)
    with pytest.raises(TheoryError, match="needs more than 5 labels"):
        probe_risk(S, np.eye(8)[:, :4], np.ones(8), 0.1, 5)
    with pytest.raises(TheoryError, match="null risk is 0"):
        probe_risk(S, np.eye(8)[:, :4], np.zeros(8), 0.1)
    with pytest.raises(TheoryError, match="the width of the representation"):
        directions(S, S, 9)
    with pytest.raises(TheoryError, match="the reading must be one of"):
        directions(S, S, 3, "other")
    with pytest.raises(TheoryError, match="ratio must be a finite number above 0 and below 1"):
        coefficient_matrix(S, 1.0)
    for given, told in (
        ({"n_dimensions": 12}, "n_dimensions must be"),
        ({"n_labels": 3, "n_dimensions": 3}, "a probe on 3 directions needs more than 4 labels"),
        ({"n_labels": 101}, "100 of 200 rows have them"),
        ({"labels": [12]}, "a label column must be"),
        ({"labels": list(range(11))}, "two features at least"),
        ({"ratios": [0.0, 0.5]}, "ratios must be above 0"),
    ):
        with pytest.raises(TheoryError, match=told):
            advise_probe(X, **given)
    with pytest.raises(TheoryError, match="150 labels do not fit 200"):
        advise_probe(X, Y[:150])
    with pytest.raises(TheoryError, match="either Y or labels"):
        advise_probe(X, Y, labels=[0])
    with pytest.raises(DataError, match="all alike"):
        advise_probe(X, np.ones(200))


def test_the_command(tmp_path, capsys):
    X, Y = data()
    np.save(tmp_path / "x.npy", np.c_[X, Y])
    words = [str(tmp_path / "x.npy"), "--target", "representation", "--labels", "[12,13,14]", "--n_dimensions", "3"]
    with pytest.raises(SystemExit) as stop:
        main(["advise", *words, "--n_splits", "3", "--step", "0.2", "--out", str(tmp_path / "run")])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "200 samples, 12 features, a representation of 3; the probe learns columns 12, 13, 14 from 100 rows" in out
    grid = [0.2, 0.4, 0.6, 0.8]
    made = advise_probe(np.c_[X, Y], ratios=grid, labels=[12, 13, 14], n_dimensions=3, n_splits=3)
    assert f"best ratio for a linear probe: {made.best_ratio:g} " in out
    records = read_records(tmp_path / "run")
    assert [record.value for record in records] == pytest.approx(made.error.tolist())
    assert {(record.metric, record.n, record.task) for record in records} == {("error", 100, "x, probe")}
    for wrong, told in (
        ([*words, "--epochs", "3"], "--epochs (for --target hidden) does not apply to --target representation"),
        ([words[0], "--n_labels", "50"], "--n_labels (for --target representation) does not apply to --target hidden"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["advise", *wrong])
        assert stop.value.code == 1
        assert told in capsys.readouterr().err
