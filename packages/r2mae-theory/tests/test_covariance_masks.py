"""Covariance models and mask distributions do what their descriptions say."""

import numpy as np
import pytest

from r2mae_theory import Discrete, Fixed, TheoryError, Uniform, covariance

MODELS = {
    "isotropic": covariance.isotropic(60),
    "spiked": covariance.spiked(60, 20, seed=1),
    "block": covariance.block(60, 7, 30.0, seed=1),
    "uniform": covariance.uniform_spectrum(60, seed=1),
    "beta": covariance.beta_spectrum(60, seed=1),
    "latent": covariance.latent_space(60, 60, seed=1),
    "samples": covariance.from_samples(np.random.default_rng(0).standard_normal((40, 60))),
}


@pytest.mark.parametrize("name", MODELS)
def test_parts_fit_together(name):
    cov = MODELS[name]
    v = np.random.default_rng(1).standard_normal((cov.p, 3))
    U, values = cov.eigenvectors, cov.eigenvalues
    assert np.allclose((U * values) @ U.T, cov.matrix)
    assert np.allclose(U.T @ U, np.eye(cov.p))
    assert np.allclose(cov.matrix @ v, cov.multiply(v))
    assert np.allclose(cov.diagonal, cov.matrix.diagonal())
    assert cov.quadratic(v[:, 0]) == pytest.approx(v[:, 0] @ cov.matrix @ v[:, 0])
    x = cov.sample(40000, np.random.default_rng(2))
    assert np.abs(x.T @ x / len(x) - cov.matrix).max() < 6 * cov.diagonal.max() / np.sqrt(len(x))


def test_spectra_have_the_stated_ends():
    assert MODELS["beta"].eigenvalues[[0, -1]] == pytest.approx([1, 10])
    assert MODELS["uniform"].eigenvalues[0] > 1
    assert MODELS["uniform"].eigenvalues[-1] < 10
    latent = covariance.latent_space(400, 400, seed=1).eigenvalues
    assert 0.99 < latent[0] < 1.1
    assert 9 < latent[-1] < 11
    assert MODELS["block"].eigenvalues[-7:] == pytest.approx(30.0)


def test_wide_models_never_form_a_matrix():
    p = 200_000
    cov = covariance.spiked(p, 20, seed=0)
    assert cov.sample(3, np.random.default_rng(0)).shape == (3, p)
    assert cov.quadratic(np.ones(p)) > p


def test_shrinkage_between_nothing_and_everything():
    X = np.random.default_rng(0).standard_normal((30, 50))
    centred = X - X.mean(0)
    assert np.allclose(covariance.shrunk_moment(centred, 0.0), centred.T @ centred / 30)
    level = (centred**2).sum() / 30 / 50
    assert np.allclose(covariance.shrunk_moment(centred, 1.0), level * np.eye(50))
    sklearn_covariance = pytest.importorskip("sklearn.covariance")
    for n in (20, 60, 400):
        data = np.random.default_rng(n).standard_normal((n, 50)) @ np.diag(np.linspace(1, 3, 50))
        assert np.allclose(covariance.from_samples(data).matrix, sklearn_covariance.ledoit_wolf(data)[0])
    for bad in (-0.1, 1.1, "much"):
        with pytest.raises(TheoryError, match="shrinkage"):
            covariance.from_samples(X, bad)


@pytest.mark.parametrize(
    "mask", [Fixed(0.3), Uniform(0.2, 0.7), Uniform(0, 1), Uniform(0.4, 0.999), Discrete((0.1, 0.9), (3, 1))]
)
def test_quadrature_and_sampling_agree(mask):
    ratios, weights = mask.quadrature()
    drawn = mask.ratios((np.arange(200_000) + 0.5) / 200_000)
    assert mask.mean == pytest.approx(drawn.mean(), rel=1e-4)
    assert weights @ ratios**2 == pytest.approx((drawn**3).mean(), rel=1e-4)
    assert mask.upper == pytest.approx(drawn.max(), abs=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed(-0.1),
        lambda: Uniform(0.5, 1.5),
        lambda: Discrete(()),
        lambda: Discrete((0.5,), (1, 2)),
        lambda: Discrete((0.5,), (-1,)),
        lambda: covariance.spiked(5, 1.0, np.zeros(5)),
        lambda: covariance.spiked(5, -2.0),
        lambda: covariance.block(5, 6, 2.0),
        lambda: covariance.isotropic(0),
        lambda: covariance.from_samples([[1.0, np.nan], [0, 1]]),
        lambda: covariance.from_samples([[1.0, 2.0]]),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(TheoryError):
        make()
