"""The two protocols of tables 5 and 9, and the control that tells rows and ratio from randomness."""

import numpy as np
import pytest

from r2mae_theory import Coupled, Fixed, TheoryError, Thinned, Uniform, covariance, options, predict_risk, simulate_risk
from r2mae_theory.curve import risk
from r2mae_theory.experiment import Size
from r2mae_theory.paper import run_experiment

RANGES = [(0.5, 0.6), (0.4, 0.5), (0.2, 0.7), (0.7, 0.9), (0.3, 0.3), (0.0, 0.4), (0.6, 1.0)]


@pytest.mark.parametrize("ends", RANGES)
def test_the_rows_that_enter_are_those_of_one_number(ends):
    """Plain numpy: u draws the ratio, and u < r keeps the row."""
    low, high = ends
    u = np.random.default_rng(1).random(400_000)
    r = low + (high - low) * u
    kept = r[u < r]
    law = Coupled(low, high)
    ratios, weights = law.quadrature()
    assert law.mean == pytest.approx(len(kept) / len(u), abs=2e-3)
    for power in (1, 2, 5):
        assert ratios**power @ weights == pytest.approx((kept**power).sum() / len(u), abs=2e-3)
    ratios, enters = law.drawn(400_000, np.random.default_rng(2))
    drawn = ratios[enters]
    assert len(drawn) == pytest.approx(len(kept), abs=2000)
    if len(kept):
        assert drawn.mean() == pytest.approx(kept.mean(), abs=1e-3)
        assert drawn.max() <= law.share + 1e-12
        control = law.control()
        assert (control.ratio, control.share) == pytest.approx((kept.mean(), law.share), abs=1e-3)


def test_without_width_the_protocols_are_one_bit_for_bit():
    cov = covariance.beta_spectrum(60, seed=1)
    beta = cov.eigenvectors[:, -1]
    risks = [
        simulate_risk(cov, beta, 0.5, 40, mask, 4, seed=2).samples
        for mask in (Fixed(0.55), Uniform(0.55, 0.55), Coupled(0.55, 0.55), Thinned(0.55, 0.55))
    ]
    assert all((found == risks[0]).all() for found in risks)
    fixed, coupled = (predict_risk(cov, beta, 0.5, 40, mask).total for mask in (0.55, Coupled(0.55, 0.55)))
    assert coupled == pytest.approx(fixed, rel=1e-9)


def plain_risk(sigma_root, beta, sigma, n, low, high, rng):
    """One run of the coupled protocol without any of this package's code."""
    u = rng.random(n)
    r = low + (high - low) * u
    r = r[u < r]
    x = rng.standard_normal((len(r), len(beta))) @ sigma_root
    y = x @ beta + sigma * rng.standard_normal(len(r))
    z = x * (rng.random(x.shape) >= r[:, None])
    error = np.linalg.pinv(z) @ y - beta
    return float(((sigma_root @ error) ** 2).sum())


@pytest.mark.parametrize(("low", "high", "n"), [(0.5, 0.6, 75), (0.3, 0.6, 150), (0.6, 0.8, 700)])
def test_the_coupled_risk_meets_an_independent_simulation(low, high, n):
    cov = covariance.beta_spectrum(300, seed=3)
    root = cov.eigenvectors @ np.diag(np.sqrt(cov.eigenvalues)) @ cov.eigenvectors.T
    beta, rng = cov.eigenvectors[:, -1], np.random.default_rng(4)
    measured = np.array([plain_risk(root, beta, 0.5, n, low, high, rng) for _ in range(40)])
    predicted = predict_risk(cov, beta, 0.5, n, Coupled(low, high)).total
    stated = predict_risk(cov, beta, 0.5, n, Uniform(low, high)).total
    error = measured.std(ddof=1) / np.sqrt(len(measured))
    assert abs(measured.mean() - predicted) < 3 * error + 0.02 * predicted
    assert abs(predicted / stated - 1) > 0.01  # it is another protocol


def test_the_tables_show_both_protocols_beside_the_control():
    table = run_experiment("table5", Size((0.5,), 12, (2, 12)))
    for row in table.rows:
        assert row["theory coupled"] < row["theory mid"] < row["theory stated"]
        assert row["theory control"] == pytest.approx(row["theory coupled"], rel=0.003)
        assert abs(row["coupled - control"]) < 4 * row["sem of the difference"] + 0.003
        assert row["sem of the difference"] < 0.3 * row["sem coupled"]  # the same rows in both
    schemes = {record.scheme for record in table.records}
    assert {"r2mae", "r2mae coupled", "fixed control", "best fixed"} <= schemes
    papers = {r.paper for r in table.records if (r.scheme, r.metric) == ("r2mae coupled", "simulated_risk")}
    assert papers == {0.504, 0.599, 0.662}


def test_the_command_has_the_protocol(tmp_path):
    setting = {"p": 60, "n": 45, "low": 0.2, "high": 0.5, "step": 0.1, "width": 0.1}
    found = {}
    for name in ("stated", "coupled"):
        run = risk(options.RiskCurve("beta", **setting, protocol=name, out=tmp_path / name))
        found[name] = {record.scheme: record.value for record in run.results()}
    assert list(found["coupled"]) == ["Coupled(0.25, 0.35)", "Coupled(0.35, 0.45)"]
    cov = covariance.beta_spectrum(60)
    direct = predict_risk(cov, cov.eigenvectors[:, -1], 0.5, 45, Coupled(0.25, 0.35)).normalized
    assert found["coupled"]["Coupled(0.25, 0.35)"] == pytest.approx(direct)
    assert found["stated"]["Uniform(0.25, 0.35)"] != pytest.approx(direct, rel=1e-3)
    with pytest.raises(TheoryError, match="is for ranges"):
        risk(options.RiskCurve("beta", protocol="coupled", out=tmp_path / "none"))


@pytest.mark.parametrize("wrong", [lambda: Coupled(0.6, 0.5), lambda: Coupled(-0.1, 0.5), lambda: Thinned(0.5, 1.5)])
def test_ratios_out_of_range_are_refused(wrong):
    with pytest.raises(TheoryError):
        wrong()
