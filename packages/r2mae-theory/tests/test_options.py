"""Options reach what they name: the commands against the library, with values that differ from every default."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from r2mae_core import read_records
from r2mae_theory import Fixed, Uniform, advise, covariance, options, predict_risk, simulate_risk
from r2mae_theory.advice_command import advise_command
from r2mae_theory.curve import risk, simulate
from r2mae_theory.demo import demo
from r2mae_theory.experiment import Size, ratio_grid
from r2mae_theory.figures import fig1a
from r2mae_theory.paper import reproduce
from r2mae_theory.scenes import aligned, eigenvector, random_unit


def values(run, metric):
    return {record.scheme: record.value for record in read_records(run.path) if record.metric == metric}


def spiked():
    cov = covariance.spiked(60, 7.0, seed=3)
    return cov, aligned(cov, 0.6, 4)


def block():
    cov = covariance.block(60, 5, 7.0, seed=3)
    return cov, cov.multiply(random_unit(60, 4))


def uniform():
    cov = covariance.uniform_spectrum(60, seed=3)
    return cov, eigenvector(cov, 0.3)


def isotropic():
    return covariance.isotropic(60), random_unit(60, 4)


@pytest.mark.parametrize("model", [spiked, block, uniform, isotropic])
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_options_of_a_setting_reach_the_theory(tmp_path, model, width):
    chosen = {"p": 60, "n": 45, "sigma": 0.8, "strength": 7.0, "rank": 5, "alignment": 0.6, "quantile": 0.3, "seed": 3}
    grid = {"low": 0.15, "high": 0.55, "step": 0.1, "width": width}
    found = values(risk(options.RiskCurve(model.__name__, **chosen, **grid, out=tmp_path)), "predicted_risk")
    masks = {f"fixed {r:g}": Fixed(r) for r in (0.15, 0.25, 0.35, 0.45, 0.55)}
    if width:  # the only one that stays within [low, high]
        masks = {"Uniform(0.2, 0.5)": Uniform(0.2, 0.5)}
    cov, beta = model()
    direct = {name: predict_risk(cov, beta, 0.8, 45, mask).normalized for name, mask in masks.items()}
    assert found == pytest.approx(direct, rel=1e-6)


def test_options_reach_the_simulation(tmp_path):
    config = options.Simulate(
        p=60, n=45, sigma=0.8, strength=7.0, alignment=0.6, low=0.2, high=0.7, step=0.5, seed=3, repeats=4, out=tmp_path
    )
    cov, beta = spiked()
    direct = {f"fixed {r}": simulate_risk(cov, beta, 0.8, 45, r, 4, 3 + j).normalized for j, r in enumerate((0.2, 0.7))}
    run = simulate(config)
    assert values(run, "simulated_risk") == direct
    assert {record.n for record in read_records(run.path) if record.metric == "simulated_risk"} == {4}
    assert {record.n for record in read_records(run.path) if record.metric == "predicted_risk"} == {45}


def test_options_reach_the_advice(tmp_path):
    X = load_breast_cancer().data
    np.save(tmp_path / "x.npy", X)
    config = options.Advise(
        tmp_path / "x.npy", 30, 0.2, [0, 3], 0.3, bootstrap=3, validate=True, seed=5, out=tmp_path / "o"
    )
    found = advise(X, 30, ratio_grid(0.2), [0, 3], shrinkage=0.3, n_bootstrap=3, validate=True, seed=5)
    run = advise_command(config)
    assert values(run, "predicted_risk") == dict(
        zip(
            [f"fixed {r:g}" for r in found.ratios] + [f"Uniform({low:g}, {high:g})" for low, high in found.ranges],
            [*found.curve, *found.range_curve],
            strict=True,
        )
    )
    assert list(values(run, "error").values()) == found.validation.measured.tolist()
    assert list(values(run, "predicted_error").values()) == found.validation.predicted.tolist()
    assert {record.seed for record in read_records(run.path)} == {5}


def test_options_reach_the_demo(tmp_path):
    run = demo(options.Demo(repeats=2, seed=4, out=tmp_path))
    direct = fig1a(Size(ratio_grid(0.1), 2, seed=4)).records
    found = {(r.task, r.metric, r.scheme): r.value for r in read_records(run.path)}
    for record in direct:
        assert found[record.task, record.metric, record.scheme] == record.value


def test_options_reach_the_papers_experiments(tmp_path, monkeypatch):
    sizes = []

    def caught(name, size, cache):
        sizes.append(size)
        raise InterruptedError

    monkeypatch.setattr("r2mae_theory.paper.run_experiment", caught)
    config = options.Reproduce("table5", repeats=3, step=0.3, workers=2, seeds=(12, 7), seed=5, out=tmp_path)
    with pytest.raises(InterruptedError):
        reproduce(config)
    assert sizes == [Size((0.3, 0.6, 0.9), 3, (12, 7), 5, 2)]
    assert options.Reproduce("fig1a").seeds == Size().table_seeds
