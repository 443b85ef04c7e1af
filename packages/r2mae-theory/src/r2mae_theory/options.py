"""What each command takes. Plain dataclasses that import nothing heavy, so that `--help` is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from r2mae_core import Bound, Natural, NonNegative, Seed, Share

Samples = Annotated[int, Bound(1, 10**15)]
"""Training samples."""
Features = Annotated[int, Bound(2, 10**7)]
"""Features of a covariance."""
Repeats = Annotated[int, Bound(2, 10**7)]
"""Independent training sets; a single one has no spread."""
Processes = Annotated[int, Bound(1, 1024)]
"""Processes, the command's own included."""
Ratio = Annotated[float, Bound(0, 1, above=True)]
"""A mask ratio that hides something."""
Step = Annotated[float, Bound(0.001, 0.999)]
"""Step of a grid of ratios."""

Epochs = Annotated[int, Bound(1, 10**9)] | Literal["inf"]
"""How often each sample is seen; inf: without end."""

CovarianceName = Literal["isotropic", "spiked", "uniform", "beta", "latent", "block"]


@dataclass(frozen=True)
class Demo:
    """Figures 1A to 1C: simulated dots on predicted lines."""

    repeats: Repeats = 10
    """Training sets per dot."""
    seed: Seed = 0
    """Seed for all random numbers."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-demo-TIME."""


@dataclass(frozen=True)
class RiskCurve:
    """Predict the risk curve of one setting of the linear model.

    Not `Risk`: jsonargparse looks whether the package has the name too, and would import the public `Risk` with numpy.
    """

    covariance: CovarianceName = "spiked"
    """Covariance of the features."""
    p: Features = 400
    """Number of features."""
    n: Samples = 200
    """Training samples, before the choice of those that enter the regression."""
    sigma: NonNegative = 0.5
    """Standard deviation of the noise."""
    strength: float = 20.0
    """Strength of the spike, or eigenvalue of the block."""
    rank: Natural = 40
    """Number of directions in the block."""
    alignment: Share = 1.0
    """Alignment of beta with the spike, between 0 and 1."""
    quantile: Share = 1.0
    """Which eigenvector beta is, as a quantile of the spectrum (uniform, beta, latent)."""
    low: Ratio = 0.05
    """Smallest mask ratio."""
    high: Ratio = 0.95
    """Largest mask ratio."""
    step: Step = 0.05
    """Step between mask ratios."""
    width: Share = 0.0
    """If positive, each ratio is the middle of a range this wide (R2MAE); ranges that leave [low, high] are skipped."""
    protocol: Literal["stated", "coupled"] = "stated"
    """How rows of a range enter the regression. stated: independently, with probability equal to the row's ratio, as
    the paper says; coupled: if the random number that drew the ratio is below it, which may be behind tables 5, 9."""
    epochs: Epochs = 1
    """How often each sample is seen, each time with fresh masks (the paper's model: once); inf: without end."""
    seed: Seed = 0
    """Seed for the covariance, beta and any simulation."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-COMMAND-TIME."""


@dataclass(frozen=True)
class Simulate(RiskCurve):
    """Simulate the risk curve of one setting beside its prediction."""

    repeats: Repeats = 50
    """Training sets per mask ratio."""
    workers: Processes = 1
    """Processes. They are started again for each ratio, which pays off if a ratio takes many seconds."""


@dataclass(frozen=True)
class Advise:
    """Recommend a mask ratio and a range for your data."""

    data: Path
    """Table of samples by features: npy, npz, csv, parquet or h5ad."""
    n_samples: Samples | None = None
    """Samples that the planned training will have (default: as many as the file)."""
    step: Annotated[float, Bound(0.001, 0.25)] = 0.05
    """Step between the mask ratios compared."""
    targets: list[Natural] | None = None
    """Columns to predict, each from all the others (default: every column)."""
    shrinkage: Share | Literal["auto"] = "auto"
    """Shrinkage of the correlation matrix towards the identity, 0 to 1."""
    bootstrap: Annotated[int, Bound(0, 10**5)] = 20
    """Bootstrap replicates over samples, for the uncertainty."""
    epochs: Epochs = 1
    """How often the planned training sees each sample, each time with fresh masks; inf: very often."""
    validate: bool = False
    """Also fit real masked regressions and evaluate them on held-out rows."""
    target: Literal["hidden", "representation"] = "hidden"
    """hidden: the risk of predicting hidden features; representation: the held-out error of a linear probe on what the
    masked regressions of all features learn, each sample seen without end."""
    labels: list[Natural] | None = None
    """--target representation: columns that the probe predicts (classes as columns of 0 and 1); they are no features.
    Default: random directions of the features."""
    n_dimensions: Natural | None = None
    """--target representation: width of the representation; default a quarter of the features."""
    n_labels: Samples | None = None
    """--target representation: rows that the probe is fitted on; default half of the rows, those that pretrain."""
    reading: Literal["coefficients", "predictions"] = "coefficients"
    """--target representation: cut at the leading singular vectors of the coefficients, or at the leading principal
    directions of the predictions."""
    n_splits: Annotated[int, Bound(2, 10**5)] = 20
    """--target representation: random halves of the rows."""
    seed: Seed = 0
    """Seed for the bootstrap, the validation and the halves."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-advise-TIME."""


@dataclass(frozen=True)
class Reproduce:
    """Reproduce the paper's experiments on the linear model; those that the run folder already holds are skipped."""

    target: Literal[
        "fig1a", "fig1b", "fig1c", "fig1d", "fig1e", "fig1f", "fig1g", "fig3", "fig4", "table5", "table9", "all"
    ]
    """Figure or table of the paper, or all."""
    repeats: Repeats = 50
    """Training sets per dot of a figure and per entry of a table."""
    step: Step = 0.05
    """Step between the mask ratios that the figures simulate; the tables' is 0.01."""
    workers: Processes = 1
    """Processes. They are started again for each ratio, which pays off if a ratio takes many seconds."""
    seeds: tuple[Seed, ...] = (2, 12, 22, 32, 42)
    """Seeds of the tables' rows; the paper's own by default."""
    seed: Seed = 0
    """Seed for the figures."""
    dry_run: bool = False
    """Print the grid and an estimate of its cost, measured on a few training sets, and stop."""
    out: Path | None = None
    """Run folder; default runs/r2mae-theory-reproduce-TIME."""
