"""Settings of the linear model, and theory and simulation side by side along a curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2mae_theory import covariance as models
from r2mae_theory.arguments import check_vectors, features, number, seed_number
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError
from r2mae_theory.representations import Covariance
from r2mae_theory.risk import risk_table
from r2mae_theory.rows import Row
from r2mae_theory.simulate import simulate_risk

SPECTRA = ("uniform", "beta", "latent")


@dataclass(frozen=True)
class Scene:
    """A covariance, a ground truth, the noise and the number of samples, with a name for tables and legends."""

    label: str
    covariance: Covariance
    beta: Floats
    sigma: float
    n: int


def random_unit(p: int, seed: int) -> Floats:
    """Draw a vector of uniform entries and normalise it (figure 1A)."""
    check_vectors(features(p))
    vector = np.random.default_rng(seed_number(seed)).uniform(size=p)
    return vector / np.linalg.norm(vector)


def aligned(spiked: models.LowRankCovariance, alignment: float, seed: int) -> Floats:
    """Draw a unit vector β with vᵀβ = alignment (figures 1B to 1D).

    Raises:
        TheoryError: for an alignment outside [-1, 1], and for one feature, across which there is nothing.
    """
    alignment = number("alignment", alignment, least=-1, most=1)
    v = spiked.directions[:, 0]
    across = np.random.default_rng(seed_number(seed)).uniform(size=spiked.p)
    across -= v * (v @ across)
    if spiked.p == 1:
        raise TheoryError("an alignment with the spike needs at least 2 features, got p = 1")
    return alignment * v + np.sqrt(1 - alignment**2) * across / np.linalg.norm(across)


def spectrum(name: str, p: int, seed: int) -> Covariance:
    """Build a covariance of figure 1E: "uniform", "beta" or "latent" (with p latent factors, this package's choice)."""
    if name == "uniform":
        return models.uniform_spectrum(p, seed=seed)
    if name == "beta":
        return models.beta_spectrum(p, seed=seed)
    if name == "latent":
        return models.latent_space(p, p, seed)
    raise TheoryError(f"unknown spectrum {name!r}; known spectra: {SPECTRA}")


def eigenvector(covariance: Covariance, quantile: float) -> Floats:
    """Return the eigenvector whose eigenvalue is at a quantile of the spectrum."""
    quantile = number("quantile", quantile, least=0, most=1)
    return covariance.eigenvectors[:, round(quantile * (covariance.p - 1))]


def predict(scenes: Sequence[Scene], ratios: Sequence[float]) -> list[tuple[Floats, Floats]]:
    """Return each scene's risk and prediction magnitude over its null risk, each of shape (R,).

    Scenes that share covariance, noise and n share one table, since the fixed point does not depend on β.
    """
    first = scenes[0]
    if all(s.covariance is first.covariance and (s.sigma, s.n) == (first.sigma, first.n) for s in scenes):
        betas = np.column_stack([s.beta for s in scenes])
        table = risk_table(first.covariance, betas, first.sigma, first.n, list(ratios))
        return list(zip(table.normalized.T, (table.magnitude / table.null).T, strict=True))
    return [predict([s], ratios)[0] for s in scenes]


def compare(
    scene: Scene, ratios: Sequence[float], predicted: tuple[Floats, Floats], n_repeats: int, seed: int, n_jobs: int
) -> list[Row]:
    """Simulate along a curve beside its prediction; all values are over the null risk."""
    rows: list[Row] = []
    for j, ratio in enumerate(ratios):
        measured = simulate_risk(scene.covariance, scene.beta, scene.sigma, scene.n, ratio, n_repeats, seed + j, n_jobs)
        rows.append(
            {
                "setting": scene.label,
                "ratio": float(ratio),
                "theory": float(predicted[0][j]),
                "simulated": measured.normalized,
                "sd": measured.sd / measured.null,
                "theory magnitude": float(predicted[1][j]),
                "magnitude": measured.magnitude / measured.null,
                "n": scene.n,
                "repeats": n_repeats,
            }
        )
    return rows
