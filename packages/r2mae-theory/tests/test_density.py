"""The best density of ratios: its certificate, what it gains over a fixed ratio, and where nothing is gained."""

import math

import numpy as np
import pytest

from r2mae_core import Beta, LinearDecay, TruncatedNormal
from r2mae_theory import (
    Discrete,
    Fixed,
    Sampled,
    TheoryError,
    Thinned,
    Uniform,
    covariance,
    optimal_density,
    optimal_family,
    optimal_range,
    predict_risk,
    simulate_risk,
)
from r2mae_theory.density import directional
from r2mae_theory.optimum import Objective

STRONG = covariance.spiked(400, 100, seed=0)
BETA = STRONG.directions[:, 0] / np.sqrt(101)
SETTING = (STRONG, BETA, 0.6, 400)


def test_a_spread_wins_where_rows_are_better_left_out():
    """λ = 100, p/n = 1: one ratio and rows that never enter; the same as fewer rows at that ratio."""
    best = optimal_density(*SETTING, method="spectral")
    assert best.is_certified
    assert best.gain > 0.03
    assert best.normalized < optimal_range(*SETTING, method="spectral").normalized
    (zero, ratio), (_, weight) = best.mask.values, np.array(best.mask.weights) / sum(best.mask.weights)
    assert zero < 1e-3
    alone = predict_risk(*SETTING, Thinned(ratio, weight * ratio), method="spectral").normalized
    assert alone == pytest.approx(best.normalized, rel=2e-3)
    assert best.spread == pytest.approx(math.sqrt(weight * (1 - weight)) * (ratio - zero), rel=1e-6)


def test_elsewhere_the_best_density_is_one_ratio():
    cov = covariance.beta_spectrum(400, seed=2)
    best = optimal_density(cov, cov.eigenvectors[:, -1].copy(), 0.5, 100, method="spectral")
    assert best.is_certified
    assert len(best.mask.values) == 1
    assert best.gain == pytest.approx(0, abs=1e-6)
    assert best.mask.values[0] == pytest.approx(best.fixed.mask.ratio)
    assert best.spread == 0


def test_the_certificate_fails_away_from_the_optimum():
    objective = Objective(*SETTING, "spectral")
    best = optimal_density(*SETTING, method="spectral")
    for wrong in (best.fixed.mask.ratio, 0.05, 0.4):
        assert directional(objective, np.array([wrong]), np.ones(1)).min() < -0.01
    moved = np.array(best.mask.values) * np.array([1, 1.3])
    assert directional(objective, moved, np.array(best.mask.weights)).min() < -1e-3


def test_the_directional_derivative_is_that_of_the_risk():
    objective = Objective(*SETTING, "spectral")
    here = objective([Discrete((0.1, 0.3), (0.4, 0.6))])[0][0]
    e = 1e-3
    there = objective([Discrete((0.1, 0.3, 0.2), (0.4 * (1 - e), 0.6 * (1 - e), e))])[0][0]
    slope = directional(objective, np.array([0.1, 0.3]), np.array([0.4, 0.6]), np.array([0.2]))
    assert slope[0] == pytest.approx((there - here) / e / here, rel=0.02)
    same = directional(objective, np.array([0.2]), np.ones(1), np.array([0.2]))
    assert same[0] == pytest.approx(0, abs=1e-5)


def test_a_family_lies_between_the_fixed_ratio_and_the_free_density():
    best = optimal_density(*SETTING, method="spectral")
    found = optimal_family(*SETTING, "truncated normal", method="spectral")
    assert best.normalized < found.normalized < best.fixed.normalized
    assert predict_risk(*SETTING, found.mask, method="spectral").normalized == pytest.approx(found.normalized)


def test_after_many_epochs_no_density_is_better_than_one_ratio():
    best = optimal_density(*SETTING, method="spectral", epochs=math.inf)
    assert best.gain == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("sampler", "same"),
    [(TruncatedNormal(0.4, 0.1, 0.2, 0.6), None), (Beta(2, 3), None), (Beta(1, 1, 0.2, 0.5), Uniform(0.2, 0.5))],
)
def test_a_sampler_of_the_core_is_a_density(sampler, same):
    law = Sampled(sampler)
    drawn = law.ratios(np.random.default_rng(0).random(200_000))
    ratios, weights = law.quadrature()
    assert weights.sum() == pytest.approx(drawn.mean(), abs=1e-3)
    assert weights @ ratios**2 == pytest.approx((drawn**3).mean(), abs=1e-3)
    assert drawn.max() <= law.upper + 1e-9
    if same is not None:
        ours, theirs = (predict_risk(*SETTING, mask, method="spectral").total for mask in (law, same))
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_density_meets_its_simulation():
    cov = covariance.uniform_spectrum(300, seed=1)
    beta, law = cov.eigenvectors[:, -1].copy(), Sampled(TruncatedNormal(0.4, 0.15, 0.0, 0.9))
    measured = simulate_risk(cov, beta, 0.5, 150, law, 30, seed=1)
    assert abs(measured.mean - predict_risk(cov, beta, 0.5, 150, law).total) < 3 * measured.sem + 0.03 * measured.mean


@pytest.mark.parametrize("sampler", [LinearDecay(0.5, 0.1), Fixed(0.3), 0.3, "r2mae"])
def test_what_is_no_density_is_refused(sampler):
    with pytest.raises(TheoryError):
        Sampled(sampler)


def test_bad_arguments_are_refused():
    with pytest.raises(TheoryError, match="family must be one of truncated normal, beta"):
        optimal_family(*SETTING, "uniform")
    with pytest.raises(TheoryError, match="max_atoms"):
        optimal_density(*SETTING, method="spectral", max_atoms=0)
