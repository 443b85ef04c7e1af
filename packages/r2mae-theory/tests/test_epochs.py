"""Several epochs: the exact risk against simulations without this package's code, and its limits."""

import math

import numpy as np
import pytest

from r2mae_theory import (
    Coupled,
    Covariance,
    Fixed,
    TheoryError,
    Uniform,
    advise,
    covariance,
    equivalent_ratio,
    optimal_ratio,
    options,
    predict_risk,
    risk_curve,
    simulate_risk,
)
from r2mae_theory.covariance import shrunk_moment
from r2mae_theory.curve import simulate
from r2mae_theory.masks import as_mask
from r2mae_theory.risk import _resolvent
from r2mae_theory.sample_rows import epoch_risk
from r2mae_theory.targets import Targets

SPIKE = np.concatenate([np.ones(10), np.zeros(290)])  # along the axes: diag(Σ) is not flat
MODELS = {
    "uniform": covariance.uniform_spectrum(300, seed=1),
    "spiked": covariance.spiked(300, 20, SPIKE, seed=1),
    "dense": Covariance.from_matrix(np.diag(np.linspace(0.5, 3, 300)) + 0.5),
}


def beta_of(cov):
    return cov.eigenvectors[:, -1].copy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mask", [0.4, (0.2, 0.6), Coupled(0.3, 0.6)])
@pytest.mark.parametrize("n", [150, 900])
def test_one_epoch_is_the_regression_without_epochs(name, mask, n):
    cov = MODELS[name]
    beta = beta_of(cov)
    null = np.array([cov.quadratic(beta)])
    general = epoch_risk(_resolvent(cov, beta[:, None], "auto"), n, [as_mask(mask)], 1, null, np.array([0.5]))
    plain = predict_risk(cov, beta, 0.5, n, mask)
    assert general["total"][0, 0] == pytest.approx(plain.total, rel=1e-6)
    assert general["bias"][0, 0] == pytest.approx(plain.bias, rel=1e-6, abs=1e-9)
    assert general["magnitude"][0, 0] == pytest.approx(plain.magnitude, rel=1e-6)


def plain_risk(root, beta, sigma, n, low, high, epochs, rng):
    """The regression on every sample's rows, in plain numpy."""
    x = rng.standard_normal((n, len(beta))) @ root
    y = x @ beta + sigma * rng.standard_normal(n)
    rows, targets = [], []
    for _ in range(epochs):
        r = rng.uniform(low, high, n)
        keep = rng.random(n) < r
        rows.append(x[keep] * (rng.random((keep.sum(), len(beta))) >= r[keep][:, None]))
        targets.append(y[keep])
    fit = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]
    return float(((root @ (fit - beta)) ** 2).sum())


@pytest.mark.parametrize(
    ("name", "n", "ends", "epochs", "tolerance"),
    [
        ("uniform", 150, (0.4, 0.4), 8, 0.05),
        ("spiked", 150, (0.2, 0.6), 2, 0.08),
        ("uniform", 600, (0.1, 0.7), 4, 0.05),
        ("spiked", 400, (0.3, 0.3), 8, 0.05),
        ("dense", 250, (0.5, 0.9), 3, 0.05),
    ],
)
def test_the_risk_meets_an_independent_simulation(name, n, ends, epochs, tolerance):
    cov = MODELS[name]
    root = cov.eigenvectors @ np.diag(np.sqrt(cov.eigenvalues)) @ cov.eigenvectors.T
    beta, rng = beta_of(cov), np.random.default_rng(5)
    measured = np.array([plain_risk(root, beta, 0.5, n, *ends, epochs, rng) for _ in range(12)])
    predicted = predict_risk(cov, beta, 0.5, n, ends, epochs=epochs).total
    error = measured.std(ddof=1) / np.sqrt(len(measured))
    assert abs(measured.mean() - predicted) < 3 * error + tolerance * predicted
    once = predict_risk(cov, beta, 0.5, n, ends).total
    assert abs(measured.mean() - once) > 4 * error  # one epoch's is another


def test_at_p_1200_the_gap_is_small():
    cov = covariance.spiked(1200, 20, seed=1)
    beta = cov.directions[:, 0].copy()
    for epochs, n in ((2, 800), (math.inf, 600)):
        measured = simulate_risk(cov, beta, 0.5, n, (0.2, 0.4), 6, seed=3, epochs=epochs)
        predicted = predict_risk(cov, beta, 0.5, n, (0.2, 0.4), epochs=epochs).total
        assert abs(measured.mean - predicted) < 3 * measured.sem + 0.03 * predicted


def test_infinitely_many_epochs_are_a_scaled_ridge_regression():
    """(q·Ĉ + r·diag Ĉ)⁻¹Xᵀy/n in plain numpy, at p = 300."""
    for name, cov in MODELS.items():
        root = cov.eigenvectors @ np.diag(np.sqrt(cov.eigenvalues)) @ cov.eigenvectors.T
        beta, rng, found = beta_of(cov), np.random.default_rng(6), []
        for _ in range(20):
            x = rng.standard_normal((200, 300)) @ root
            y = x @ beta + 0.5 * rng.standard_normal(200)
            moment = x.T @ x / 200
            fit = np.linalg.solve(0.7 * moment + 0.3 * np.diag(moment.diagonal()), x.T @ y / 200)
            found.append(((root @ (fit - beta)) ** 2).sum())
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        predicted = predict_risk(cov, beta, 0.5, 200, 0.3, epochs=math.inf).total
        assert abs(np.mean(found) - predicted) < 3 * error + 0.04 * predicted, name


@pytest.mark.parametrize("mask", [0.3, (0.1, 0.7)])
def test_many_epochs_approach_their_limit(mask):
    cov = MODELS["spiked"]
    beta, limit = (
        beta_of(cov),
        predict_risk(MODELS["spiked"], beta_of(MODELS["spiked"]), 0.5, 150, mask, epochs=math.inf),
    )
    gaps = [predict_risk(cov, beta, 0.5, 150, mask, epochs=E).total / limit.total - 1 for E in (100, 1000, 10_000)]
    assert gaps[0] > 10 * gaps[2] > 0
    assert abs(gaps[2]) < 2e-3
    assert limit.effective_n == math.inf
    assert limit.gamma_effective == 0


def test_r2mae_is_one_fixed_ratio_after_many_epochs():
    """The normal equations of 120,000 epochs, summed; formulas of the equivalent ratio as integrals."""
    grid = np.linspace(0.1, 0.95, 100_001)
    q = 1 - grid
    assert equivalent_ratio((0.1, 0.95)) == pytest.approx((grid**2 * q).mean() / (grid * q).mean(), abs=1e-4)
    assert equivalent_ratio(Uniform(0.1, 0.95), "steps") == pytest.approx((grid * q).mean() / q.mean(), abs=1e-4)
    assert equivalent_ratio(0.3) == equivalent_ratio(Fixed(0.3), "steps") == pytest.approx(0.3)
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((30, 12)), rng.standard_normal(30)
    left, right = np.zeros((12, 12)), np.zeros(12)
    for _ in range(1200):
        r = rng.uniform(0.1, 0.95, (100, 30))
        z = x * (rng.random((100, 30, 12)) >= r[..., None]) * (rng.random((100, 30, 1)) < r[..., None])
        left += np.einsum("eij,eik->jk", z, z)
        right += np.einsum("eij,i->j", z, y)
    fit = np.linalg.solve(left, right)

    def closed(ratio):
        moment = x.T @ x / 30
        return np.linalg.solve((1 - ratio) * moment + ratio * np.diag(moment.diagonal()), x.T @ y / 30)

    def gap(ratio):
        return np.linalg.norm(fit - closed(ratio)) / np.linalg.norm(fit)

    assert gap(equivalent_ratio((0.1, 0.95))) < 0.01
    assert gap(0.525) > 1.5 * gap(equivalent_ratio((0.1, 0.95)))
    cov = MODELS["uniform"]
    both = risk_curve(cov, beta_of(cov), 0.5, 150, [(0.1, 0.95), equivalent_ratio((0.1, 0.95))], epochs=math.inf).total
    assert both[0, 0] == pytest.approx(both[1, 0], rel=1e-9)


def test_a_range_without_width_is_the_fixed_ratio_in_every_number_of_epochs():
    cov = MODELS["spiked"]
    for epochs in (2, 5, math.inf):
        fixed, narrow = risk_curve(cov, beta_of(cov), 0.5, 150, [0.4, (0.4, 0.4)], epochs=epochs).total[:, 0]
        assert narrow == pytest.approx(fixed, rel=1e-9)


@pytest.mark.parametrize("epochs", [2, 7, math.inf])
@pytest.mark.parametrize("mask", [0.3, (0.2, 0.6)])
def test_every_feature_as_the_target_is_that_targets_own_regression(epochs, mask):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 40)) + rng.standard_normal((300, 40))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    S = shrunk_moment(X, 0.05)
    found = Targets(X, 0.05, np.arange(40)).risks([as_mask(mask)], 30, epochs)[0]
    for j in (0, 17, 39):
        rest = np.delete(np.arange(40), j)
        beta = np.linalg.solve(S[np.ix_(rest, rest)], S[rest, j])
        noise = np.sqrt(S[j, j] - beta @ S[rest, j])
        alone = predict_risk(Covariance.from_matrix(S[np.ix_(rest, rest)]), beta, noise, 30, mask, epochs=epochs)
        assert found[j] == pytest.approx(alone.total, rel=1e-3)


def test_epochs_reach_the_search_the_advice_and_the_commands(tmp_path):
    cov = covariance.uniform_spectrum(80, seed=1)
    beta = cov.eigenvectors[:, -1].copy()
    once, often = (optimal_ratio(cov, beta, 0.5, 60, epochs=epochs) for epochs in (1, math.inf))
    assert often.mask.ratio < once.mask.ratio
    assert often.risk == pytest.approx(predict_risk(cov, beta, 0.5, 60, often.mask, epochs=math.inf).total)
    X = np.random.default_rng(0).standard_normal((90, 3)) @ np.ones((3, 12)) + np.random.default_rng(1).random((90, 12))
    found = {
        epochs: advise(X, ratios=(0.2, 0.5, 0.8), n_bootstrap=0, validate=True, epochs=epochs) for epochs in (1, 3)
    }
    assert not np.allclose(found[1].curve, found[3].curve, rtol=1e-3)
    assert not np.allclose(found[1].validation.measured, found[3].validation.measured, rtol=1e-3)
    assert found[3].epochs == 3
    setting = {"covariance": "beta", "p": 60, "n": 45, "low": 0.3, "high": 0.3, "repeats": 4, "seed": 3}
    for epochs in (2, "inf"):
        run = simulate(options.Simulate(**setting, epochs=epochs, out=tmp_path / str(epochs)))
        values = {record.metric: record.value for record in run.results()}
        model = covariance.beta_spectrum(60, seed=3)
        target = model.eigenvectors[:, -1]
        assert values["predicted_risk"] == pytest.approx(
            predict_risk(model, target, 0.5, 45, 0.3, epochs=float(epochs)).normalized
        )
        direct = simulate_risk(model, target, 0.5, 45, 0.3, 4, 3, epochs=float(epochs))
        assert values["simulated_risk"] == direct.normalized


@pytest.mark.parametrize("wrong", [0, 1.5, -math.inf, math.nan, "many", None, True])
def test_epochs_that_are_none_are_refused(wrong):
    with pytest.raises(TheoryError, match="epochs"):
        predict_risk(covariance.isotropic(10), np.ones(10), 1.0, 5, 0.5, epochs=wrong)


def test_what_has_no_meaning_in_several_epochs_is_refused():
    with pytest.raises(TheoryError, match="decompose is for one epoch"):
        simulate_risk(covariance.isotropic(10), np.ones(10), 1.0, 5, 0.5, 2, decompose=True, epochs=2)
    with pytest.raises(TheoryError, match="memory"):
        simulate_risk(covariance.isotropic(1000), np.ones(1000), 1.0, 500, 0.5, 2, epochs=10**8)
    with pytest.raises(TheoryError, match="hides nothing or everything"):
        equivalent_ratio(1.0)
