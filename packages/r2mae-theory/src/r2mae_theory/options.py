"""What each command takes. Plain dataclasses that import nothing heavy, so that `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CovarianceName = Literal["isotropic", "spiked", "uniform", "beta", "latent", "block"]


@dataclass(frozen=True)
class Demo:
    """Figures 1A to 1C: simulated dots on predicted lines."""

    repeats: int = 10
    """Training sets per dot."""
    seed: int = 0
    """Of everything random."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-demo-TIME."""


@dataclass(frozen=True)
class RiskCurve:
    """Predict the risk curve of one setting of the linear model.

    Not `Risk`: jsonargparse looks whether the package has the name too, and would import the public `Risk` with numpy.
    """

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
    """Of the covariance, beta and any simulation."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-COMMAND-TIME."""


@dataclass(frozen=True)
class Simulate(RiskCurve):
    """Measure the risk curve of one setting beside the prediction."""

    repeats: int = 50
    """Training sets per mask ratio."""
    workers: int = 1
    """Processes; they start anew for each ratio, which pays where a ratio takes many seconds."""


@dataclass(frozen=True)
class Advise:
    """Recommend a mask ratio and a range for your data."""

    file: Path
    """Table of samples by features: npy, npz, csv, parquet or h5ad."""
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
    """Of the bootstrap and the validation."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-advise-TIME."""


@dataclass(frozen=True)
class Reproduce:
    """Walk the paper's experiments on the linear model; what the run folder holds already is not done again."""

    target: Literal[
        "fig1a", "fig1b", "fig1c", "fig1d", "fig1e", "fig1f", "fig1g", "fig3", "fig4", "table5", "table9", "all"
    ]
    """Figure or table of the paper, or all."""
    repeats: int = 50
    """Training sets per dot of a figure and per entry of a table."""
    step: float = 0.05
    """Step between the mask ratios that the figures simulate; the tables' is 0.01."""
    n_seeds: int = 5
    """How many of the tables' five seeds."""
    seed: int = 0
    """Of the figures; the tables have the paper's own seeds."""
    workers: int = 1
    """Processes; they start anew for each ratio, which pays where a ratio takes many seconds."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few steps, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-reproduce-TIME."""
