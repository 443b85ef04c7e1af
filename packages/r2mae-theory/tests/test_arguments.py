"""Every argument of every public function: a bad value is refused by name, or the result is finite and right."""

import inspect
import warnings
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

import r2mae_core
import r2mae_theory
from r2mae_core import UserError
from r2mae_theory import Covariance, Fixed, TheoryError, Uniform, covariance, predict_risk

P = 6
ISO = covariance.isotropic(P)
BENT = Covariance.from_matrix(np.diag(np.arange(1.0, P + 1)))
DIRECTION = np.linspace(1, 2, P)
TABLE = np.random.default_rng(0).standard_normal((30, P)).cumsum(axis=1)
RISK = {"covariance": BENT, "beta": DIRECTION, "sigma": 0.5, "n": 20}

GOOD = {
    "Discrete": {"values": (0.2, 0.5), "weights": (1.0, 2.0)},
    "Fixed": {"ratio": 0.3},
    "Uniform": {"low": 0.2, "high": 0.5},
    "Coupled": {"low": 0.2, "high": 0.5},
    "Thinned": {"ratio": 0.2, "share": 0.5},
    "advise": {
        "X": TABLE,
        "n_samples": 15,
        "ratios": [0.2, 0.4],
        "targets": [0, 2],
        "shrinkage": 0.2,
        "n_bootstrap": 1,
        "validate": True,
        "seed": 1,
        "epochs": 2,
    },
    "advise_probe": {
        "X": TABLE, "Y": None, "ratios": [0.2, 0.4], "labels": [5], "n_dimensions": 2, "n_labels": 10,
        "reading": "predictions", "n_splits": 2, "seed": 1,
    },
    "probe_curve": {
        "covariance": BENT, "beta": DIRECTION, "sigma": 0.5, "masks": [0.2, 0.4], "k": 2, "n": 20, "epochs": 2,
        "n_labels": 30, "reading": "coefficients", "n_repeats": 2, "seed": 1,
    },
    "isotropic_risk": {"norm": 1.0, "sigma": 0.5, "gamma": 2.0, "ratio": 0.3},
    "spiked_risk": {"norm": 1.0, "alignment": 0.5, "strength": 3.0, "sigma": 0.5, "gamma": 2.0, "ratio": 0.3},
    "sweet_spot": {"gamma": 0.5, "strength": 3.0},
    "transition_ratio": {"gamma": 0.5},
    "optimal_ratio": {**RISK, "bounds": (0.2, 0.4), "method": "auto", "epochs": 2},
    "optimal_range": {**RISK, "bounds": (0.2, 0.4), "min_width": 0.1, "method": "auto", "epochs": 2},
    "predict_risk": {**RISK, "mask": 0.4, "method": "auto", "epochs": 2},
    "risk_curve": {**RISK, "ratios": [0.2, 0.4], "method": "auto", "epochs": 2},
    "risk_table": {"covariance": BENT, "betas": np.eye(P)[:, :2], "sigmas": [0.5, 1.0], "n": 20, "masks": [0.2, 0.4],
                   "method": "auto", "epochs": 2},
    "simulate_risk": {
        **RISK, "mask": 0.4, "n_repeats": 2, "seed": 1, "n_jobs": 1, "n_test": 3, "decompose": False, "epochs": 2,
    },
    "Sampled": {"sampler": r2mae_core.Beta(2, 3)},
    "equivalent_ratio": {"mask": Fixed(0.4), "loss": "steps"},
    "read_table": {"path": "nowhere.csv"},
    "covariance.beta_spectrum": {"p": P, "a": 2.0, "b": 5.0, "low": 1.0, "high": 10.0, "seed": 1},
    "covariance.block": {"p": P, "rank": 2, "eigenvalue": 3.0, "seed": 1},
    "covariance.from_samples": {"X": TABLE, "shrinkage": 0.2},
    "covariance.haar": {"p": P, "rng": np.random.default_rng(0), "k": 2},
    "covariance.isotropic": {"p": P},
    "covariance.latent_space": {"p": P, "k": 2, "seed": 1, "high": 10.0},
    "covariance.shrunk_moment": {"centred": TABLE, "shrinkage": 0.2},
    "covariance.spiked": {"p": P, "strength": 3.0, "direction": DIRECTION, "seed": 1},
    "covariance.uniform_spectrum": {"p": P, "low": 1.0, "high": 10.0, "seed": 1},
    "covariance.DenseCovariance": {"S": np.eye(P)},
    "covariance.LowRankCovariance": {"p": P, "level": 1.0, "directions": np.eye(P)[:, :1], "strengths": [2.0]},
    "covariance.DenseCovariance.from_spectrum": {"eigenvalues": np.ones(P), "eigenvectors": np.eye(P)},
    "Covariance.from_matrix": {"S": np.eye(P)},
    "BENT.multiply": {"vectors": DIRECTION},
    "BENT.sample": {"n": 3, "rng": np.random.default_rng(0)},
    "BENT.quadratic": {"vector": DIRECTION},
    "UNIFORM.ratios": {"uniforms": np.array([0.1, 0.9])},
    "DISCRETE.ratios": {"uniforms": np.array([0.1, 0.9])},
    "FIXED.ratios": {"uniforms": np.array([0.1, 0.9])},
    "CURVE.pick": {"j": 0, "k": 0},
}  # fmt: skip
OBJECTS = {
    "covariance": covariance,
    "Covariance": Covariance,
    "BENT": BENT,
    "UNIFORM": Uniform(0.2, 0.5),
    "DISCRETE": r2mae_theory.Discrete((0.2, 0.5)),
    "FIXED": Fixed(0.3),
    "CURVE": r2mae_theory.risk_curve(**RISK, ratios=[0.2, 0.4]),
}
SEARCHES = {"optimal_density", "optimal_family"}  # long ones that hand their arguments to optimal_ratio first
MAY_BE_INFINITE = {"gamma_effective", "effective_n", "epochs"}  # no row enters; epochs without end
RESULTS = {
    "Advice",
    "Covariance",
    "OptimalDensity",
    "Optimum",
    "ProbeAdvice",
    "ProbeCurve",
    "Risk",
    "RiskEstimate",
    "RiskTable",
}  # what the functions return
CASES = [(name, argument) for name, arguments in GOOD.items() for argument in arguments]

JUNK = {
    "NaN": float("nan"),
    "infinite": float("inf"),
    "-1": -1,
    "-0.5": -0.5,
    "0": 0,
    "text": "3",
    "None": None,
    "empty": [],
    "complex": 1 + 2j,
    "true": True,
    "1e200": 1e200,
    "1e-200": 1e-200,
    "10^400": 10**400,
    "10^20": 10**20,
    "dict": {},
    "object": object(),
    "list": [0.3],
    "texts": ["a", "b"],
    "ragged": [[1.0], [1.0, 2.0]],
    "nan list": [float("nan")] * P,
    "wrong shape": np.ones((2, 3, 4)),
    "bytes": b"0.3",
}


def scaled(value):
    """Return an array or a number with its values changed for the worse."""
    array = np.asarray(value, float)
    for name, factor in (("times 1e200", 1e200), ("times 1e-200", 1e-200), ("times -1", -1.0), ("times 0", 0.0)):
        yield name, array * factor
    one = array.copy()
    one.flat[0] = np.nan
    yield "one NaN", one
    yield "complex array", array * (1 + 1j)
    yield "texts", array.astype(str)
    yield "objects", array.astype(object)
    yield "transposed ends", array[..., :-1] if array.ndim else array


def bad_values(value):
    yield from JUNK.items()
    if isinstance(value, np.ndarray | list | tuple):
        yield from scaled(value)


def function_of(name):
    first, *rest = name.split(".")
    found = OBJECTS[first] if first in OBJECTS else getattr(r2mae_theory, first)
    for part in rest:
        found = getattr(found, part)
    return found


def numbers(value):
    """Yield every number in a result; a table's own infinities are explained by its notes."""
    if isinstance(value, r2mae_theory.RiskTable):
        if not any(value.notes):
            yield from np.ravel(value.total)
    elif isinstance(value, Covariance):
        yield from value.diagonal
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in MAY_BE_INFINITE:
                yield from numbers(getattr(value, field.name))
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield from value.ravel()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


def test_the_walk_covers_every_public_function_and_argument():
    errors = {n for n in r2mae_theory.__all__ if n.endswith("Error")}
    public = {n for n in r2mae_theory.__all__ if n not in errors | RESULTS | SEARCHES | {"covariance"}}
    public |= {f"covariance.{n}" for n in covariance.__all__ if n != "Covariance"}
    assert public <= set(GOOD)
    for name, arguments in GOOD.items():
        assert set(inspect.signature(function_of(name)).parameters) == set(arguments), name
        if name != "read_table":
            function_of(name)(**arguments)  # the good values are good


def outcome(call):
    """Return what a call returns, or the message with which it refuses; anything else it raises is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return call(), ""
        except UserError as error:
            return None, str(error)


NEVER = ("NaN", "text", "complex", "true", "bytes", "object")  # never taken for something else


@pytest.mark.parametrize(("name", "argument"), CASES, ids=[f"{name}-{argument}" for name, argument in CASES])
def test_a_bad_value_is_refused_or_the_result_is_finite(name, argument):
    good = GOOD[name][argument]
    for kind, value in bad_values(good):
        result, message = outcome(lambda value=value: function_of(name)(**{**GOOD[name], argument: value}))
        if message:
            assert "\n" not in message, kind
            assert len(message) < 400, kind
        else:
            assert all(np.isfinite(number) for number in numbers(result)), f"{argument} = {kind}: {result}"
            assert kind not in NEVER or type(value) is type(good), f"{argument} = {kind} was taken"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: predict_risk(ISO, DIRECTION, 0.5, "100", 0.3), "the number of samples n must be .* got '100'"),
        (lambda: predict_risk(ISO, DIRECTION, float("nan"), 100, 0.3), "sigma has NaN"),
        (lambda: predict_risk(ISO, DIRECTION * 1e200, 0.5, 100, 0.3), "beta has a magnitude of 2e.200"),
        (lambda: Covariance.from_matrix(np.eye(3) * 1e-200), "covariance has a magnitude of 1e-200"),
        (lambda: predict_risk(np.eye(P), DIRECTION, 0.5, 100, 0.3), r"Covariance\.from_matrix"),
        (lambda: r2mae_theory.isotropic_risk(float("nan"), 1, 2, 0.3), "norm must be .* at least 0, got nan"),
        (lambda: r2mae_theory.spiked_risk(1, 1, float("nan"), 1, 2, 0.3), "strength must be .* got nan"),
        (lambda: r2mae_theory.optimal_ratio(ISO, np.zeros(P), 1, 20), "null risk .* is 0"),
        (lambda: predict_risk(ISO, np.zeros(P), 1, 30, 0.3).normalized, "null risk .* is 0"),
        (lambda: r2mae_theory.simulate_risk(ISO, np.zeros(P), 1, 20, 0.3, 2).normalized, "null risk .* is 0"),
        (lambda: r2mae_theory.simulate_risk(ISO, DIRECTION, 1, 10**14, 0.3, 2), "GiB of memory"),
        (lambda: covariance.uniform_spectrum(10**7), "GiB of memory"),
        (lambda: covariance.haar(3, np.random.default_rng(0), 4), "k must be a whole number from 0 to 3, got 4"),
        (lambda: covariance.DenseCovariance.from_spectrum([1, 2], [[1, 0], [1, 1]]), "orthonormal"),
        (lambda: covariance.LowRankCovariance(2, 1.0, [[2.0], [0.0]], [1.0]), "orthonormal"),
        (lambda: r2mae_theory.advise(TABLE, targets=[0, 0]), "must be different"),
        (lambda: r2mae_theory.advise(TABLE, targets=[P]), f"a target column must be a whole number from 0 to {P - 1}"),
        (lambda: r2mae_theory.advise(TABLE * 1e150), "use other units"),
        (lambda: r2mae_theory.advise(TABLE * 1e-150), "use other units"),
        (lambda: r2mae_theory.advise(TABLE * 1j), "complex"),
        (lambda: r2mae_theory.advise(TABLE.astype(str)), "not numeric"),
    ],
)  # fmt: skip
def test_the_message_names_the_argument_and_its_value(call, said):
    with pytest.raises(TheoryError, match=said):
        call()


def test_lists_of_numbers_are_arrays():
    rows = BENT.matrix.tolist()
    listed = predict_risk(Covariance.from_matrix(rows), DIRECTION.tolist(), 0.5, np.int64(20), [0.2, 0.5])
    assert listed == predict_risk(BENT, DIRECTION, 0.5, 20, (0.2, 0.5))
    assert r2mae_theory.advise(TABLE.tolist(), 15, [0.2, 0.4], n_bootstrap=0).curve == pytest.approx(
        r2mae_theory.advise(TABLE, 15, np.array([0.2, 0.4]), n_bootstrap=0).curve
    )


@pytest.mark.parametrize("factor", [1e-40, 1e40])
def test_within_the_limits_the_risk_is_right_at_every_scale(factor):
    """The risk over the null risk does not depend on the unit of the features, nor on that of the target."""
    one = predict_risk(BENT, DIRECTION, 0.5, 20, 0.4).normalized
    features = Covariance.from_matrix(BENT.matrix * factor)
    assert predict_risk(features, DIRECTION / factor**0.5, 0.5, 20, 0.4).normalized == pytest.approx(one, rel=1e-8)
    assert predict_risk(BENT, DIRECTION * factor, 0.5 * factor, 20, 0.4).normalized == pytest.approx(one, rel=1e-8)


def test_a_weak_spike_has_the_sweet_spot_of_none():
    for strength in (0, 1e-30, 1e-9):
        assert r2mae_theory.sweet_spot(0.5, strength) == pytest.approx(0.5)
