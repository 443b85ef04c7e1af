"""What each command takes. Plain dataclasses that import nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CovarianceName = Literal["isotropic", "spiked", "uniform", "beta", "latent", "block"]
Experiments = Literal[
    "fig1a", "fig1b", "fig1c", "fig1d", "fig1e", "fig1f", "fig1g", "fig3", "fig4", "table5", "table9", "all"
]


@dataclass(frozen=True)
class Setting:
    """One setting of the linear model and the masks to try on it."""

    covariance: CovarianceName = "spiked"
    """Covariance of the features."""
    p: int = 400
    """Number of features."""
    n: int = 200
    """Training samples before any is left out."""
    sigma: float = 0.5
    """Standard deviation of the noise."""
    strength: float = 20.0
    """Strength of the spike, or eigenvalue of the block."""
    rank: int = 40
    """Directions in the block."""
    alignment: float = 1.0
    """Alignment of beta with the spike, between 0 and 1."""
    quantile: float = 1.0
    """Which eigenvector beta is, as a quantile of the spectrum (uniform, beta, latent)."""
    low: float = 0.05
    """Smallest mask ratio."""
    high: float = 0.95
    """Largest mask ratio."""
    step: float = 0.05
    """Step between mask ratios."""
    width: float = 0.0
    """If positive, each ratio is the middle of a range this wide (R2MAE); those that leave [low, high] are skipped."""
    seed: int = 0
    """Seed of the covariance, beta and any simulation."""


@dataclass(frozen=True)
class RiskConfig(Setting):
    """Predict the risk curve of one setting."""


@dataclass(frozen=True)
class SimulateConfig(Setting):
    """Measure the risk curve of one setting beside the prediction."""

    repeats: int = 50
    """Training sets per mask ratio."""
    jobs: int = 1
    """Processes."""


@dataclass(frozen=True)
class DemoConfig:
    """Figures 1A to 1C: simulated dots on predicted lines."""

    repeats: int = 10
    """Training sets per dot."""
    seed: int = 0
    """Seed of everything random."""


@dataclass(frozen=True)
class ReproduceConfig:
    """Run the paper's experiments on the linear model."""

    quick: bool = False
    """Fewer ratios, repeats and seeds: a look in a minute instead of the full size."""
    repeats: int | None = None
    """Training sets per dot and per table entry, instead of the size's own."""
    jobs: int = 1
    """Processes."""
    seed: int = 0
    """Seed of the figures; the tables have the paper's own seeds."""


@dataclass(frozen=True)
class AdviseConfig:
    """Recommend a mask ratio and a range for your data."""

    n_samples: int | None = None
    """Samples that the planned training will have (default: as many as the file)."""
    step: float = 0.05
    """Step between the mask ratios compared."""
    targets: list[int] | None = None
    """Columns that take the target's part (default: every one)."""
    shrinkage: float | Literal["auto"] = "auto"
    """Shrinkage of the correlation matrix towards the identity, 0 to 1."""
    bootstrap: int = 20
    """Bootstrap replicates over samples, for the uncertainty."""
    validate: bool = False
    """Also fit real masked regressions and score them on held-out rows."""
    seed: int = 0
    """Seed of the bootstrap and the validation."""
