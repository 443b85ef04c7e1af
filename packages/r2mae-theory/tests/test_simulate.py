"""The simulation: the protocol, its solver, its decomposition, and the prediction against it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2mae_theory import Fixed, TheoryError, Uniform, covariance, isotropic_risk, predict_risk, simulate_risk
from r2mae_theory.conditional import conditional_targets
from r2mae_theory.covariance import Covariance
from r2mae_theory.simulate import masked_rows
from r2mae_theory.solve import NormalSolver


def unit(p, seed=0):
    b = np.random.default_rng(seed).standard_normal(p)
    return b / np.linalg.norm(b)


@pytest.mark.parametrize("n", [60, 150, 199, 200, 201, 260, 800])
def test_the_fit_is_the_pseudo_inverse(n):
    cov = covariance.uniform_spectrum(100, seed=1)
    rng = np.random.default_rng(n)
    for _ in range(3):
        Z, y, _ = masked_rows(cov, unit(100), 0.5, n, Fixed(0.5), rng)
        solver, reference = NormalSolver(Z), np.linalg.pinv(Z)
        assert np.linalg.norm(solver.fit(y) - reference @ y) < 1e-8 * np.linalg.norm(reference @ y)
        assert np.linalg.norm(solver.pseudo_inverse() - reference) < 1e-8 * np.linalg.norm(reference)


def test_ill_conditioned_and_empty_rows():
    Z = np.random.default_rng(0).standard_normal((20, 50))
    Z[3] = 0
    assert not NormalSolver(Z).fell_back  # an empty row is set aside, not a reason for the slow way
    assert np.allclose(NormalSolver(Z).fit(np.arange(20.0)), np.linalg.pinv(Z) @ np.arange(20.0))
    Z[5] = Z[4] + 1e-7 * Z[6]
    solver = NormalSolver(Z)
    assert solver.fell_back
    assert np.allclose(solver.fit(np.ones(20)), np.linalg.pinv(Z) @ np.ones(20))
    assert (NormalSolver(np.zeros((4, 7))).fit(np.ones(4)) == np.zeros(7)).all()
    assert (NormalSolver(np.zeros((0, 7))).fit(np.ones(0)) == np.zeros(7)).all()


def test_rows_enter_and_are_masked_with_their_own_ratio():
    rng, mask = np.random.default_rng(0), Uniform(0.2, 0.8)
    hidden = []
    for _ in range(20):
        Z, _, visible = masked_rows(covariance.isotropic(400), unit(400), 0.5, 1000, mask, rng)
        assert ((Z != 0) == visible).all()
        hidden.append(1 - visible.mean(axis=1))
    assert np.mean([len(h) for h in hidden]) == pytest.approx(500, rel=0.03)
    # Rows that entered have density ∝ r, so their mean ratio is E[r²]/E[r], above the mean of the range.
    assert np.concatenate(hidden).mean() == pytest.approx(0.28 / 0.5, rel=0.01)


def test_a_range_without_width_is_bit_for_bit_the_fixed_ratio():
    cov = covariance.uniform_spectrum(80, seed=1)
    fixed = simulate_risk(cov, unit(80), 0.5, 60, Fixed(0.4), 5, seed=7)
    assert (simulate_risk(cov, unit(80), 0.5, 60, Uniform(0.4, 0.4), 5, seed=7).samples == fixed.samples).all()
    assert (simulate_risk(cov, unit(80), 0.5, 60, Fixed(0.4), 5, seed=8).samples != fixed.samples).all()


def test_processes_do_not_change_the_result():
    cov = covariance.spiked(50, 5, seed=1)
    one = simulate_risk(cov, unit(50), 0.5, 40, (0.3, 0.6), 6, seed=3)
    two = simulate_risk(cov, unit(50), 0.5, 40, (0.3, 0.6), 6, seed=3, n_jobs=2)
    assert (one.samples == two.samples).all()
    assert one.mean == two.mean


def test_monte_carlo_error_shrinks_with_the_square_root_of_repeats():
    cov, b = covariance.isotropic(40), unit(40)
    spread = [
        np.std([simulate_risk(cov, b, 0.5, 40, 0.4, k, seed=100 * k + i).mean for i in range(60)], ddof=1)
        for k in (10, 90)
    ]
    assert spread[0] / spread[1] == pytest.approx(3, rel=0.35)
    estimate = simulate_risk(cov, b, 0.5, 40, 0.4, 90, seed=1)
    assert estimate.sem == pytest.approx(estimate.sd / np.sqrt(90))
    assert estimate.sem == pytest.approx(spread[1], rel=0.35)


def test_fresh_test_rows_measure_the_same_risk():
    cov, b = covariance.spiked(100, 10, seed=1), unit(100)
    exact = simulate_risk(cov, b, 0.5, 60, 0.5, 30, seed=1)
    fresh = simulate_risk(cov, b, 0.5, 60, 0.5, 30, seed=1, n_test=4000)
    assert fresh.samples == pytest.approx(exact.samples, rel=0.15)
    assert fresh.mean == pytest.approx(exact.mean, rel=0.02)


def test_conditional_expectation_of_a_row():
    spiked = covariance.block(40, 3, 15.0, seed=1)
    dense = Covariance.from_matrix(spiked.matrix)
    Z, _, visible = masked_rows(spiked, unit(40), 0.5, 30, Uniform(0.1, 0.9), np.random.default_rng(0))
    pairs = [conditional_targets(c, unit(40), 0.5, Z, visible) for c in (spiked, dense)]
    assert np.allclose(pairs[0], pairs[1])
    # Against a regression of y on the visible entries of many fresh rows with the same mask.
    x = dense.sample(200_000, np.random.default_rng(1))
    seen = visible[0]
    weights, *_ = np.linalg.lstsq(x[:, seen], x @ unit(40), rcond=None)
    assert pairs[1][0][0] == pytest.approx(Z[0, seen] @ weights, abs=0.05)
    assert pairs[1][1][0] == pytest.approx(0.25 + np.var(x @ unit(40) - x[:, seen] @ weights), rel=0.02)


def test_lemma_1_splits_the_risk():
    for cov in (covariance.uniform_spectrum(60, seed=1), covariance.spiked(60, 20, seed=1)):
        b = cov.eigenvectors[:, -1].copy()
        got = simulate_risk(cov, b, 0.5, 60, 0.5, 80, seed=1, decompose=True)
        assert got.bias is not None
        assert got.variance is not None
        assert abs(got.bias + got.variance - got.mean) < 3 * got.sem
        assert got.mean_bias < got.bias  # averaging over the masks too can only take bias away
    isotropic = simulate_risk(covariance.isotropic(200), unit(200), 0.5, 100, 0.5, 40, seed=1, decompose=True)
    theorem = isotropic_risk(1.0, 0.5, 2.0, 0.5)
    assert isotropic.bias == pytest.approx(theorem.bias, rel=0.03)
    assert isotropic.variance == pytest.approx(theorem.variance, rel=0.05)


@pytest.mark.parametrize(
    "change", [{"beta": np.ones(3)}, {"sigma": np.nan}, {"n": 0}, {"n_repeats": 0}, {"n_jobs": 0}, {"mask": 2.0}]
)
def test_bad_arguments_are_refused(change):
    arguments = {"covariance": covariance.isotropic(5), "beta": np.ones(5), "sigma": 1.0, "n": 5, "mask": 0.5}
    with pytest.raises(TheoryError):
        simulate_risk(**{**arguments, **change})


def models(p):
    return {
        "isotropic": covariance.isotropic(p),
        "spiked": covariance.spiked(p, 20, seed=1),
        "uniform": covariance.uniform_spectrum(p, seed=1),
        "beta": covariance.beta_spectrum(p, seed=1),
        "block": covariance.block(p, p // 10, 10.0, seed=1),
    }


SMALL = models(300)
DEVIATIONS: list[float] = []


@st.composite
def scenes(draw):
    low = draw(st.floats(0.1, 0.8))
    high = min(low + draw(st.sampled_from([0.0, 0.0, 0.1, 0.3])), 0.9)
    gamma = draw(st.sampled_from([0.15, 0.3, 0.6, 1.5, 3.0]))
    if 0.75 < gamma / ((low + high) / 2) < 1.35:  # near the threshold single repeats dominate the mean
        gamma *= 2
    return draw(st.sampled_from(sorted(SMALL))), low, high, gamma, draw(st.floats(0.1, 1.5)), draw(st.integers(0, 4))


def deviation(cov, scene, n_repeats):
    """Relative deviation of the simulation from the prediction, and its standard error."""
    _, low, high, gamma, sigma, kind = scene
    p = cov.p
    b = unit(p, 3) if kind == 0 else cov.eigenvectors[:, [0, p // 2, int(0.9 * p), p - 1][kind - 1]].copy()
    n = round(p / gamma)
    predicted = predict_risk(cov, b, sigma, n, (low, high)).total
    measured = simulate_risk(cov, b, sigma, n, (low, high), n_repeats, seed=11)
    return measured.mean / predicted - 1, measured.sem / predicted


@settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def check_small(scene):
    gap, error = deviation(SMALL[scene[0]], scene, 20)
    DEVIATIONS.append(gap)
    assert abs(gap) < 3 * error + 0.15, scene


def test_prediction_meets_simulation_at_p_300():
    DEVIATIONS.clear()
    check_small()
    assert len(DEVIATIONS) >= 50
    assert abs(np.mean(DEVIATIONS)) < 0.04


@pytest.mark.parametrize(
    "scene",
    [
        ("spiked", 0.3, 0.6, 3.0, 0.5, 4),
        ("uniform", 0.5, 0.5, 1.5, 0.5, 4),
        ("beta", 0.2, 0.5, 1.5, 1.0, 2),
        ("block", 0.6, 0.8, 3.0, 0.2, 3),
    ],
)
def test_prediction_meets_simulation_at_p_1200(scene):
    cov = {
        "spiked": lambda: covariance.spiked(1200, 20, seed=1),
        "uniform": lambda: covariance.uniform_spectrum(1200, seed=1),
        "beta": lambda: covariance.beta_spectrum(1200, seed=1),
        "block": lambda: covariance.block(1200, 120, 10.0, seed=1),
    }[scene[0]]()
    gap, error = deviation(cov, scene, 16)
    assert abs(gap) < 3 * error + 0.03, scene
