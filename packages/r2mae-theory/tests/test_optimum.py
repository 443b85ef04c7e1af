"""The optima are optima."""

import numpy as np
import pytest

from r2mae_theory import (
    Fixed,
    TheoryError,
    Uniform,
    covariance,
    optimal_range,
    optimal_ratio,
    predict_risk,
    risk_curve,
    simulate_risk,
)

SPIKED = covariance.spiked(200, 30, np.ones(200))
BETA = SPIKED.directions[:, 0]


def test_best_ratio_beats_a_fine_grid():
    best = optimal_ratio(SPIKED, BETA, 0.5, 100)
    grid = np.linspace(0.01, 0.99, 981)
    curve = risk_curve(SPIKED, BETA, 0.5, 100, grid).total[:, 0]
    assert isinstance(best.mask, Fixed)
    assert best.risk <= curve.min() * (1 + 1e-9)
    assert best.mask.ratio == pytest.approx(grid[curve.argmin()], abs=2e-3)
    assert best.risk == pytest.approx(predict_risk(SPIKED, BETA, 0.5, 100, best.mask).total)


def test_best_ratio_crosses_the_threshold_if_that_pays():
    # Far more samples than features: the valley lies below the threshold, beyond the peak at r = 0.1.
    best = optimal_ratio(covariance.isotropic(200), np.ones(200), 0.5, 2000)
    assert isinstance(best.mask, Fixed)
    assert best.mask.ratio > 0.12


def test_best_range_with_a_width_beats_a_grid_of_ranges():
    best = optimal_range(SPIKED, BETA, 0.5, 100, min_width=0.2)
    assert isinstance(best.mask, Uniform)
    assert best.mask.high - best.mask.low >= 0.2 - 1e-12
    grid = [(float(lo), float(lo + w)) for w in (0.2, 0.3, 0.5) for lo in np.arange(0.02, 0.98 - w, 0.02)]
    assert best.risk <= risk_curve(SPIKED, BETA, 0.5, 100, grid).total.min() * (1 + 1e-4)
    assert best.risk > optimal_ratio(SPIKED, BETA, 0.5, 100).risk


def test_several_targets_are_averaged():
    betas = np.column_stack([BETA, np.eye(200)[:, 0] - BETA * BETA[0]])
    both = optimal_ratio(SPIKED, betas, 0.5, 100)
    apart = [optimal_ratio(SPIKED, b, 0.5, 100) for b in betas.T]
    assert both.normalized >= np.mean([o.normalized for o in apart])


def test_bad_bounds_are_refused():
    for bounds in ((0.0, 0.5), (0.6, 0.5), (0.5, 1.0)):
        with pytest.raises(TheoryError):
            optimal_ratio(SPIKED, BETA, 0.5, 100, bounds)
    with pytest.raises(TheoryError):
        optimal_range(SPIKED, BETA, 0.5, 100, min_width=1.0)


def test_a_range_can_beat_the_best_fixed_ratio():
    """A strong spike with a small best ratio: the finding of docs/theory-r2mae-vs-fixed, by theory and simulation."""
    cov = covariance.spiked(1000, 100, np.ones(1000))
    beta = cov.directions[:, 0] / np.sqrt(101)
    fixed = optimal_ratio(cov, beta, 0.6, 1000, (0.001, 0.99))
    ranged = optimal_range(cov, beta, 0.6, 1000, (0.001, 0.99))
    assert isinstance(ranged.mask, Uniform)
    assert ranged.mask.high - ranged.mask.low > 0.05
    assert ranged.risk < 0.98 * fixed.risk
    measured = [simulate_risk(cov, beta, 0.6, 1000, best.mask, 600, seed=1).mean for best in (ranged, fixed)]
    assert measured == pytest.approx([ranged.risk, fixed.risk], rel=0.08)


@pytest.mark.parametrize(("p", "n"), [(20, 10**6), (400, 10**6), (200, 10**8)])
def test_a_search_without_bounds_goes_as_far_as_the_minimum(p, n):
    """Theorem 1 without noise below the threshold is r·γ/((1 - r)(r - γ)), whose minimum is at r = √γ."""
    best = optimal_ratio(covariance.isotropic(p), np.ones(p), 0.0, n)
    assert isinstance(best.mask, Fixed)
    assert best.mask.ratio == pytest.approx((p / n) ** 0.5, rel=0.01)
    assert best.note == ""


def test_a_search_that_ends_at_a_bound_says_so():
    cov, beta = covariance.isotropic(20), np.ones(20)
    assert "lower bound, 0.05" in optimal_ratio(cov, beta, 0.0, 10**6, (0.05, 0.5)).note
    assert "upper bound, 0.002" in optimal_ratio(cov, beta, 0.0, 10**6, (0.001, 0.002)).note
    assert "lower bound, 0.05" in optimal_range(cov, beta, 0.0, 10**6, (0.05, 0.5)).note
    assert optimal_ratio(SPIKED, BETA, 0.5, 100, (0.1, 0.9)).note == ""
    assert optimal_range(SPIKED, BETA, 0.5, 100, (0.1, 0.9), 0.1).note == ""


def test_an_optimum_that_is_worse_than_no_masks_says_so():
    cov, beta = covariance.isotropic(20), np.ones(20) / 20**0.5
    for best in (optimal_ratio(cov, beta, 50.0, 200), optimal_ratio(cov, beta, 50.0, 40_000)):
        assert best.normalized > 1
        assert "predicting nothing" in best.note


def test_bounds_within_which_every_risk_is_infinite_are_refused(monkeypatch):
    monkeypatch.setattr("r2mae_theory.risk.divergence", lambda *_: "at the threshold")
    with pytest.raises(TheoryError, match="infinite for every mask"):
        optimal_ratio(SPIKED, BETA, 0.5, 100)
