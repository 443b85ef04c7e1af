"""What a linear probe reads from the linear model's own representation (beyond the paper).

Masked regressions of *all* features on the visible ones have a matrix of coefficients B, (p, p): its column j predicts
feature j. They are one linear network, x ↦ xB, whose representation is what a narrow layer of k units would keep of x:
x ↦ xU. Two readings of the cut:

- "coefficients": U are the first k left singular vectors of B.
- "predictions": U spans BV, with V the first k principal directions of the predictions xB.

A probe regresses a downstream target on xU. For one ratio r, q = 1 − r, and endless samples or epochs, the coefficients
solve (qS₋ⱼ + r·diag S₋ⱼ)βⱼ = S₋ⱼ,ⱼ for each target j, where S is the covariance (or XᵀX/n, without end of epochs:
`epochs`). With A = qS + r·diag S, those are the leave-one-out regressions of A divided by q, so that by Schur's
complement all of them are columns of one inverse:

    B = (I − Q·diag(Q)⁻¹)/q,  Q = A⁻¹.

A distribution of ratios gives the same with one fixed ratio, `equivalent_ratio`. `docs/theory-representation.md` says
what follows: at r → 0 the directions of *least* variance come first, at r → 1 those whose variance is farthest from the
mean, which are those of most in data of a few strong directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory.arguments import array, check_memory, number, seed_number, sequence, shown, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.epochs import checked_epochs, equivalent_ratio
from r2mae_theory.errors import TheoryError
from r2mae_theory.masks import MaskDistribution, as_mask
from r2mae_theory.representations import Covariance, as_covariance
from r2mae_theory.risk import Mask
from r2mae_theory.solve import NormalSolver

Reading = Literal["coefficients", "predictions"]
READINGS: tuple[Reading, ...] = ("coefficients", "predictions")
_MAX_REPEATS = 10**6


@dataclass(frozen=True)
class ProbeCurve:
    """The risk of a probe on representations that were learned at several ratios."""

    masks: tuple[MaskDistribution, ...]
    risk: Floats
    """Mean excess risk of the probe over the null risk, shape (R,): 1 is as good as predicting the mean."""
    sd: Floats
    """Standard deviation over pretraining sets, shape (R,); 0 without an end of samples."""
    best: int
    """Index of the smallest."""


def coefficient_matrix(moment: Floats, ratio: float) -> Floats:
    """Return the coefficients of all masked regressions at one ratio, (p, p); see the module.

    Args:
        moment: S, (p, p), the covariance of the features, or XᵀX/n of samples that are seen without end.
        ratio: above 0 and below 1.
    """
    ratio = number("the ratio", ratio, above=0, below=1)
    A = (1 - ratio) * moment
    np.fill_diagonal(A, moment.diagonal())  # q + r = 1
    Q = np.linalg.inv(A)
    B = Q / (-(1 - ratio) * Q.diagonal())
    np.fill_diagonal(B, 0.0)
    return B


def fitted_coefficients(x: Floats, mask: MaskDistribution, epochs: float, rng: np.random.Generator) -> Floats:
    """Fit all masked regressions on samples, each seen in several epochs with a fresh mask, and return B, (p, p).

    A row with its mask is in the regression of every feature that it hides. The fit is of minimum norm.

    Args:
        x: (n, p), centred.
        mask: the distribution of a row's ratio.
        epochs: how often each sample is seen; infinite for very often, which is exact and takes one inverse.
        rng: generator for ratios and masks.
    """
    n, p = x.shape
    if np.isinf(epochs):
        return coefficient_matrix(x.T @ x / n, equivalent_ratio(mask))
    rows, hidden = [], []
    for _ in range(int(epochs)):
        # Not those that enter: whether a row enters the regression of a feature is whether it hides it.
        ratios = mask.drawn(n, rng)[0]
        hides = rng.random((n, p)) < ratios[:, None]
        rows.append(np.where(hides, 0.0, x))
        hidden.append(hides)
    Z, hides, targets = np.concatenate(rows), np.concatenate(hidden), np.tile(x, (int(epochs), 1))
    B = np.zeros((p, p))
    for j in range(p):
        ours = hides[:, j]
        B[:, j] = NormalSolver(Z[ours]).fit(targets[ours, j])  # column j of Z is 0 there, and so is its coefficient
    return B


def directions(B: Floats, moment: Floats, k: int, reading: Reading = "coefficients") -> Floats:
    """Return an orthonormal basis of the representation, (p, k); see the module.

    Args:
        B: coefficients, (p, p).
        moment: of the features that are shown, (p, p); only for "predictions".
        k: width of the representation.
        reading: "coefficients" or "predictions".

    Raises:
        TheoryError: k is not between 1 and p, or the reading is unknown.
    """
    k = whole("the width of the representation", k, 1, len(B))
    if checked_reading(reading) == "coefficients":
        return np.linalg.eigh(B @ B.T)[1][:, ::-1][:, :k]  # a third of the time of an SVD
    leading = np.linalg.eigh(B.T @ moment @ B)[1][:, -k:]
    return np.linalg.qr(B @ leading)[0]


def checked_reading(value: object) -> Reading:
    """Return a reading.

    Raises:
        TheoryError: it is none.
    """
    if not isinstance(value, str) or value not in READINGS:
        raise TheoryError(f"the reading must be one of {READINGS}, got {shown(value)}")
    return value


def endless_or_whole(name: str, value: object) -> float:
    """Return a number of samples: whole and at least 2, or infinite.

    Raises:
        TheoryError: it is neither.
    """
    if isinstance(value, float | np.floating) and value == np.inf:
        return np.inf
    return whole(name, value, 2)


def probe_risk(moment: Floats, U: Floats, beta: Floats, sigma: float, n_labels: float = np.inf) -> float:
    """Return the exact risk of least squares on xU, of a target xᵀβ + σε and Gaussian x, over the null risk βᵀΣβ.

    With c = UᵀΣβ the best probe misses a = βᵀΣβ − cᵀ(UᵀΣU)⁻¹c. The rest of the target is independent of xU, of variance
    a + σ², and least squares with n labels and k Gaussian features adds the share k/(n − k − 1) of it (the mean of an
    inverse Wishart matrix). So the risk is a + (a + σ²)·k/(n − k − 1): the labels do not move the best ratio.

    Args:
        moment: Σ, (p, p).
        U: (p, k).
        beta: (p,).
        sigma: of the target's noise.
        n_labels: labelled samples, above k + 1; infinite for very many.

    Raises:
        TheoryError: there are too few labels.
    """
    k = U.shape[1]
    if not n_labels > k + 1:
        raise TheoryError(f"a probe on {k} directions needs more than {k + 1} labels, got {shown(n_labels)}")
    c = U.T @ (moment @ beta)
    null = float(beta @ moment @ beta)
    if not null > 0:
        raise TheoryError("the target does not depend on the features: its null risk is 0")
    missed = max(null - float(c @ np.linalg.lstsq(U.T @ moment @ U, c, rcond=None)[0]), 0.0)
    return (missed + (missed + sigma**2) * (k / (n_labels - k - 1) if np.isfinite(n_labels) else 0.0)) / null


def probe_curve(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: float,
    masks: Sequence[Mask],
    k: int,
    *,
    n: float = np.inf,
    epochs: float = np.inf,
    n_labels: float = np.inf,
    reading: Reading = "coefficients",
    n_repeats: int = 20,
    seed: int = 0,
) -> ProbeCurve:
    """Predict the probe's risk over ratios: exactly for endless samples, else with simulated pretrainings.

    Args:
        covariance: of the features.
        beta: the downstream target's coefficients, (p,).
        sigma: standard deviation of its noise.
        masks: ratios, pairs (R2MAE) or distributions.
        k: width of the representation.
        n: samples of the pretraining.
        epochs: how often each is seen; infinite for very often.
        n_labels: labelled samples of the probe.
        reading: how the coefficients are cut; see the module.
        n_repeats: pretraining sets for finite n; each is used at every ratio.
        seed: for samples and masks.

    Raises:
        TheoryError: an argument is out of range.
    """
    cov = as_covariance(covariance)
    target, sigma = array("beta", beta, cov.p), number("sigma", sigma, least=0)
    laws, S = tuple(as_mask(mask) for mask in sequence("masks", masks)), cov.matrix
    if not laws:
        raise TheoryError("give at least one mask")
    checked_reading(reading)
    n_labels = endless_or_whole("n_labels", n_labels)
    n = endless_or_whole("n", n)
    endless = np.isinf(n)
    epochs, repeats = checked_epochs(epochs), 1 if endless else whole("n_repeats", n_repeats, 2, _MAX_REPEATS)
    size = 0 if endless else whole("n", n, 2)
    check_memory(f"the coefficients of {cov.p} features", 6.0 * cov.p**2)
    risks = np.zeros((repeats, len(laws)))
    for i in range(repeats):
        rng = np.random.default_rng([seed_number(seed), i])
        x = None if endless else cov.sample(size, rng)
        for j, law in enumerate(laws):
            if x is None:
                B = coefficient_matrix(S, equivalent_ratio(law))
            else:
                B = fitted_coefficients(x, law, epochs, np.random.default_rng([seed_number(seed), i, j]))
            risks[i, j] = probe_risk(S, directions(B, S, k, reading), target, sigma, n_labels)
    mean = risks.mean(axis=0)
    sd = risks.std(axis=0, ddof=1) if repeats > 1 else np.zeros(len(laws))
    return ProbeCurve(laws, mean, sd, int(np.argmin(mean)))
