"""The predicted risk against closed forms, against itself on other paths, and in its limits."""

import numpy as np
import pytest

from r2mae_theory import (
    ConvergenceError,
    Covariance,
    Discrete,
    DivergentRiskError,
    Fixed,
    TheoryError,
    Uniform,
    covariance,
    fixed_point,
    isotropic_risk,
    predict_risk,
    risk_curve,
    risk_table,
    spiked_risk,
    sweet_spot,
)
from r2mae_theory.resolvents import SpectralResolvent

P = 300


@pytest.fixture
def beta():
    b = np.random.default_rng(0).standard_normal(P)
    return b / np.linalg.norm(b)


def scaled_features(p=P, seed=3):
    """A covariance whose diagonal is far from constant."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.3, 3, p)
    return Covariance.from_matrix(covariance.uniform_spectrum(p, seed=seed).matrix * np.outer(scale, scale))


@pytest.mark.parametrize("n", [75, 150, 299, 301, 900, 3000])
@pytest.mark.parametrize("ratio", [0.001, 0.05, 0.3, 0.6, 0.95, 0.995])
def test_theorem_1_on_both_sides_of_the_threshold(beta, n, ratio):
    predicted = predict_risk(covariance.isotropic(P), 1.7 * beta, 0.5, n, ratio)
    assert predicted.total == pytest.approx(isotropic_risk(1.7, 0.5, P / n, ratio).total, rel=1e-6)
    assert predicted.total == pytest.approx(predicted.bias + predicted.variance)


@pytest.mark.parametrize("offset", [-1e-4, -1e-6, 1e-6, 1e-4])
def test_theorem_1_next_to_the_threshold(beta, offset):
    ratio = 0.5 + offset
    predicted = predict_risk(covariance.isotropic(P), beta, 0.5, 2 * P, ratio).total
    assert predicted == pytest.approx(isotropic_risk(1, 0.5, 0.5, ratio).total, rel=1e-6)
    assert predicted > 0.9e3 * 1e-4 / abs(offset)


@pytest.mark.parametrize(("strength", "alignment", "ratio"), [(50, 1.0, 0.5), (20, 0.5, 0.3), (5, 0.75, 0.8)])
def test_gap_to_corollary_1_halves_as_p_doubles(strength, alignment, ratio):
    gaps = []
    for p in (400, 800, 1600):
        spiked = covariance.spiked(p, strength, seed=1)
        v = spiked.directions[:, 0]
        across = np.random.default_rng(0).standard_normal(p)
        across -= v * (v @ across)
        b = alignment * v + np.sqrt(1 - alignment**2) * across / np.linalg.norm(across)
        limit = spiked_risk(1.0, alignment, strength, 0.5, 2.0, ratio).total
        gaps.append(abs(predict_risk(spiked, b, 0.5, p / 2, ratio).total / limit - 1))
    assert gaps[0] < 0.1
    assert 1.7 < gaps[0] / gaps[1] < 2.3
    assert 1.7 < gaps[1] / gaps[2] < 2.3


def test_sweet_spot_is_where_the_bias_along_the_spike_vanishes():
    ratio = sweet_spot(2.0, 50.0)
    assert ratio is not None
    assert spiked_risk(1.0, 1.0, 50.0, 0.5, 2.0, ratio).bias == pytest.approx(0, abs=1e-20)
    assert sweet_spot(2.0, 0.1) is None


@pytest.mark.parametrize("n", [100, 800])
@pytest.mark.parametrize("mask", [0.4, (0.1, 0.6), (0.5, 0.95), (0.0, 0.999), Discrete((0.1, 0.5, 0.9), (1, 2, 1))])
def test_dense_low_rank_and_spectral_paths_agree(beta, n, mask):
    flat = covariance.spiked(P, 20, np.ones(P))  # constant diagonal: the spectral path is exact
    bent = covariance.spiked(P, 20, seed=2)
    for low_rank, methods in ((flat, ("spectral", "exact")), (bent, ("exact",))):
        dense = predict_risk(Covariance.from_matrix(low_rank.matrix), beta, 0.5, n, mask, "exact")
        for method in methods:
            other = predict_risk(low_rank, beta, 0.5, n, mask, method)
            for name in ("total", "bias", "variance", "magnitude", "null"):
                assert getattr(other, name) == pytest.approx(getattr(dense, name), rel=1e-9)


def test_spectral_approximation_improves_with_p():
    errors = []
    for p in (100, 400):
        cov = covariance.uniform_spectrum(p, seed=1)
        b = cov.eigenvectors[:, p // 2]
        exact, near = (predict_risk(cov, b, 0.5, p / 2, 0.5, m).total for m in ("exact", "spectral"))
        errors.append(abs(near / exact - 1))
    assert errors[1] < errors[0] < 0.02


def test_a_range_without_width_is_the_fixed_ratio(beta):
    cov = scaled_features()
    for n in (150, 900):
        fixed = predict_risk(cov, beta, 0.5, n, Fixed(0.6))
        assert predict_risk(cov, beta, 0.5, n, Uniform(0.6, 0.6)) == fixed
        assert predict_risk(cov, beta, 0.5, n, Discrete((0.6, 0.6))).total == pytest.approx(fixed.total, rel=1e-10)
        narrow = predict_risk(cov, beta, 0.5, n, Uniform(0.6 - 1e-7, 0.6 + 1e-7))
        assert narrow.total == pytest.approx(fixed.total, rel=1e-6)


@pytest.mark.parametrize("n", [100, 900])
def test_quadrature_is_fine_enough(beta, n):
    cov = covariance.spiked(P, 20, np.ones(P))
    for low, high in ((0.05, 0.6), (0.3, 0.99), (0.0, 0.9999)):
        many = np.linspace(low, high, 400001)[:-1] + (high - low) / 800000
        reference = predict_risk(cov, beta, 0.5, n, Discrete(tuple(many))).total
        assert predict_risk(cov, beta, 0.5, n, Uniform(low, high)).total == pytest.approx(reference, rel=2e-5)


def test_small_ratios_give_the_null_risk(beta):
    cov = scaled_features()
    null = beta @ cov.matrix @ beta
    gaps = [abs(predict_risk(cov, beta, 0.5, 150, r).total - null) / null for r in (1e-2, 1e-3, 1e-4, 1e-5)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-4
    assert predict_risk(cov, beta, 0.5, 150, 0.0).total == pytest.approx(null)


@pytest.mark.parametrize("n", [150, 900])
def test_scaling(beta, n):
    cov = scaled_features()
    one = predict_risk(cov, beta, 0.5, n, (0.4, 0.7))
    assert predict_risk(cov, 3 * beta, 1.5, n, (0.4, 0.7)).total == pytest.approx(9 * one.total, rel=1e-9)
    assert predict_risk(Covariance.from_matrix(9e4 * cov.matrix), beta, 150.0, n, (0.4, 0.7)).total == pytest.approx(
        9e4 * one.total, rel=1e-8
    )
    # For β = 0 the risk is the noise's alone, so it is quadratic in σ.
    noise = [predict_risk(cov, 0 * beta, s, n, (0.4, 0.7)).total for s in (1.0, 2.0)]
    assert noise[1] == pytest.approx(4 * noise[0], rel=1e-9)
    # Risk is affine in σ².
    risks = [predict_risk(cov, beta, s, n, (0.4, 0.7)).total for s in (0.0, 1.0, 2.0)]
    assert risks[2] - risks[0] == pytest.approx(4 * (risks[1] - risks[0]), rel=1e-9)


def test_spectral_path_is_invariant_under_rotation():
    rng = np.random.default_rng(5)
    values, b = rng.uniform(1, 10, P), rng.standard_normal(P)
    risks = []
    for seed in (1, 2):
        basis = covariance.haar(P, np.random.default_rng(seed))
        cov = covariance.DenseCovariance.from_spectrum(values, basis)
        ordered = basis @ b
        risks.append(predict_risk(cov, ordered, 0.5, 150, (0.3, 0.8), "spectral").total)
    assert risks[0] == pytest.approx(risks[1], rel=1e-9)


def test_continuity_in_the_ratio(beta):
    cov = scaled_features()
    ratios = np.linspace(0.3, 0.7, 81)
    curve = risk_curve(cov, beta, 0.5, 150, ratios).total[:, 0]
    assert np.abs(np.diff(curve) / curve[1:]).max() < 0.03


@pytest.mark.parametrize("mask", [Fixed(0.5), Uniform(0.25, 0.75), Discrete((0.2, 0.8))])
def test_exactly_at_the_threshold_the_risk_is_infinite(beta, mask):
    with pytest.raises(DivergentRiskError, match="threshold"):
        predict_risk(covariance.isotropic(P), beta, 0.5, 2 * P, mask)
    table = risk_curve(covariance.isotropic(P), beta, 0.5, 2 * P, [0.4, mask, 0.6])
    assert np.isinf(table.total[:, 0]).tolist() == [False, True, False]
    assert "threshold" in table.notes[1]


def test_a_range_that_reaches_one(beta):
    cov = covariance.isotropic(P)
    with pytest.raises(DivergentRiskError, match="reaches a ratio of 1"):
        predict_risk(cov, beta, 0.5, P / 2, Uniform(0.2, 1.0))
    ends = [predict_risk(cov, beta, 0.5, P / 2, Uniform(0.2, 1 - 10.0**-k)).total for k in (2, 4, 6, 8)]
    assert np.allclose(np.diff(ends), np.diff(ends)[0], rtol=0.1)  # logarithmic: equal steps per decade
    below = [predict_risk(cov, beta, 0.5, 4 * P, Uniform(0.2, hi)).total for hi in (1 - 1e-9, 1.0)]
    assert below[0] == pytest.approx(below[1], rel=1e-6)


def test_hidden_rows_do_not_count(beta):
    cov = scaled_features()
    some = predict_risk(cov, beta, 0.5, 150, Discrete((0.5, 1.0), (1, 1)))
    assert some.total == pytest.approx(predict_risk(cov, beta, 0.5, 75, Fixed(0.5)).total, rel=1e-9)
    assert predict_risk(cov, beta, 0.5, 150, Fixed(1.0)).total == pytest.approx(cov.quadratic(beta))


def test_table_shares_the_fixed_point_between_targets(beta):
    cov = scaled_features()
    betas = np.column_stack([beta, cov.eigenvectors[:, -1]])
    table = risk_table(cov, betas, [0.5, 1.0], 150, [0.3, (0.2, 0.8)])
    for k, sigma in enumerate((0.5, 1.0)):
        alone = predict_risk(cov, betas[:, k], sigma, 150, (0.2, 0.8))
        assert table.pick(1, k).total == pytest.approx(alone.total, rel=1e-9)
    assert table.pick(0).gamma_effective == pytest.approx(P / 45)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.diag([1.0, 1.0]) + np.array([[0, 2.0], [2.0, 0]]), "positive semi-definite"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "NaN or infinite"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.ones((2, 3)), "square"),
        (np.diag([1.0, 0.0]), "no variance"),
    ],
)
def test_bad_covariances_are_refused(matrix, message):
    with pytest.raises(TheoryError, match=message):
        Covariance.from_matrix(matrix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": np.ones(P + 1)}, "beta has shape"),
        ({"beta": np.full(P, np.inf)}, "NaN or infinite"),
        ({"sigma": -1.0}, "sigma"),
        ({"n": 0}, "samples"),
        ({"mask": 1.2}, "mask ratio"),
        ({"mask": (0.6, 0.3)}, "reversed"),
        ({"mask": float("nan")}, "mask ratio"),
        ({"method": "magic"}, "method"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"covariance": covariance.isotropic(P), "beta": np.ones(P), "sigma": 0.5, "n": 100, "mask": 0.5}
    with pytest.raises(TheoryError, match=message):
        predict_risk(**{**arguments, **change})
    with pytest.raises(TheoryError):
        spiked_risk(1, 1, 5, 0.5, 0.4, 0.6)
    with pytest.raises(DivergentRiskError):
        isotropic_risk(1, 1, 0.5, 0.5)


@pytest.mark.parametrize("count", [0.9, 0.98, 0.999, 1.001, 1.02, 1.1])
@pytest.mark.parametrize("mask", [Fixed(0.03), Fixed(0.9), Uniform(0.1, 0.8), Uniform(0.5, 0.999)])
def test_wide_spectra_next_to_the_threshold_are_solved(count, mask):
    """Eigenvalues over eight decades: the fixed point still satisfies its own equations."""
    values = np.logspace(-4, 4, 80)
    cov = Covariance.from_matrix(np.diag(values))
    betas = np.ones((80, 1)) / values[:, None]
    rows = fixed_point.Rows.of([mask], 80 * count / mask.mean, 80)
    resolvent = SpectralResolvent.of(cov, betas)
    solved = fixed_point.solve(resolvent, rows)
    u, v, _ = rows.coefficients(solved.A, solved.B)
    again = resolvent.evaluate(rows.above.astype(float), rows.mean(u), rows.mean(v), np.arange(1))
    assert again.s / rows.count == pytest.approx(solved.A, rel=1e-6)
    assert again.d / rows.count == pytest.approx(solved.B, rel=1e-6)
    assert solved.evaluations < 60


def test_no_convergence_raises(beta, monkeypatch):
    monkeypatch.setattr(fixed_point, "_MAX_EVALUATIONS", 1)
    with pytest.raises(ConvergenceError, match="did not converge in 1 evaluations"):
        predict_risk(scaled_features(), beta, 0.5, 150, (0.3, 0.8))


@pytest.mark.parametrize("n", [60, 130, 410])
def test_following_the_curve_finds_what_solving_each_point_finds(n):
    """Dense path: extrapolated starts against independent solves, with uneven variances, ratios and ranges mixed."""
    rng = np.random.default_rng(3)
    factor = rng.standard_normal((120, 200)) * np.exp(rng.standard_normal((120, 1)))
    cov = covariance.Covariance.from_matrix(factor @ factor.T / 200)
    target = rng.standard_normal(120)
    masks = [0.9, 0.1, (0.2, 0.5), 0.5, 0.7, (0.4, 0.8), 0.3, (0.1, 0.3), 0.2, 0.6]
    together = risk_curve(cov, target, 0.5, n, masks).total[:, 0]
    each = [predict_risk(cov, target, 0.5, n, mask).total for mask in masks]
    assert together == pytest.approx(each, rel=1e-6)
