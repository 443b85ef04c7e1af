"""The risk after several epochs: every sample is seen E times, with a fresh mask each time (beyond the paper).

In each epoch a sample enters the regression with probability equal to its ratio, with other features hidden. For finite
E see `sample_rows`. For E = ∞ the fit is (q·Ĉ + r·diag Ĉ)⁻¹Xᵀy/n with Ĉ = XᵀX/n: a ridge regression, scaled by 1/q,
whose penalty is r/q times diag Ĉ, which concentrates at D = diag(Σ). A distribution of ratios gives the same form, so
R2MAE is then *exactly* one fixed ratio, `equivalent_ratio`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from r2mae_theory.arguments import number, shown
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import ConvergenceError, TheoryError
from r2mae_theory.masks import MaskDistribution, as_mask
from r2mae_theory.resolvents import Evaluation, Resolvent
from r2mae_theory.sample_rows import epoch_risk

_MAX_STEPS = 2000


def checked_epochs(value: object) -> float:
    """Return a number of epochs: whole and at least 1, or infinite.

    Raises:
        TheoryError: it is neither.
    """
    if isinstance(value, float | np.floating) and value == np.inf:
        return np.inf
    epochs = number("epochs", value, least=1, most=10**9)
    if epochs != round(epochs):
        raise TheoryError(f"epochs must be a whole number, or infinity, got {shown(value)}")
    return epochs


def equivalent_ratio(
    mask: MaskDistribution | float | tuple[float, float], loss: Literal["entries", "steps"] = "entries"
) -> float:
    """Return the one fixed ratio that a distribution of ratios equals exactly after infinitely many epochs.

    Args:
        mask: a distribution of ratios; a number means `Fixed`, a pair `Uniform`.
        loss: "entries": every hidden entry counts the same, as in this package's regression: E[r²q]/E[rq]. "steps":
            every mini-batch's mean over its hidden entries counts the same, as in the networks, which draw one ratio
            a step: E[rq]/E[q].

    Raises:
        TheoryError: every ratio is 0 or 1.
    """
    if not isinstance(loss, str) or loss not in ("entries", "steps"):
        raise TheoryError(f'loss must be "entries" or "steps", got {shown(loss)}')
    law = as_mask(mask)
    ratios, weights = law.quadrature()
    if loss == "steps":
        keep = ratios > 0
        ratios, weights = ratios[keep], weights[keep] / ratios[keep]
    whole = weights @ (1 - ratios)
    if not whole > 0:
        raise TheoryError(f"{law} hides nothing or everything, so no ratio is equivalent to it")
    return float(weights @ (ratios * (1 - ratios)) / whole)


def risks(
    resolvent: Resolvent, n: float, laws: Sequence[MaskDistribution], epochs: float, null: Floats, sigmas: Floats
) -> dict[str, Floats]:
    """Return risk, bias, variance and magnitude of J distributions after two or more epochs, each of shape (J, K).

    Raises:
        ConvergenceError: a fixed point was not found.
    """
    if np.isfinite(epochs):
        return epoch_risk(resolvent, n, laws, epochs, null, sigmas)
    found = [ridge_risk(resolvent, n, np.array([equivalent_ratio(law)]), null, sigmas) for law in laws]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def ridge_risk(resolvent: Resolvent, n: float, ratios: Floats, null: Floats, sigmas: Floats) -> dict[str, Floats]:
    """Return the risk and its parts for infinitely many epochs at fixed ratios, each of shape (J, K).

    With T = (Σ + κD)⁻¹ and κ the solution of r/q = κ·(1 − tr(ΣT)/n), the ridge regression whose penalty is r/q times D
    has the mean TΣβ and the variance f·(bias + σ²)/(1 − f), f = tr(ΣTΣT)/n; here it is scaled by 1/q.

    Args:
        resolvent: evaluates T for J problems.
        n: samples.
        ratios: (J,), above 0 and below 1.
        null: (K,), or (J, K) if each problem has its own targets.
        sigmas: as `null`.
    """
    values = _penalised(resolvent, n, ratios / (1 - ratios))
    c, f = (1 / (1 - ratios))[:, None], (values.ss / n)[:, None]
    plain = null - 2 * values.cross + values.energy
    variance = c**2 * f * (plain + sigmas**2) / (1 - f)
    bias = np.maximum(null - 2 * c * values.cross + c**2 * values.energy, 0.0)
    return {
        "total": bias + variance, "bias": bias, "variance": variance, "magnitude": c**2 * values.energy + variance
    }  # fmt: skip


def _penalised(resolvent: Resolvent, n: float, penalties: Floats) -> Evaluation:
    """Evaluate (Σ + κD)⁻¹ where κ·(1 − tr(ΣT)/n) is the penalty, for J problems, by Newton's method in a bracket."""
    index = np.arange(len(penalties))
    low, high = penalties.copy(), penalties + resolvent.p / n  # κ·tr(ΣT) lies between 0 and tr(D⁻¹Σ) = p
    kappa, gap = high, high
    for _ in range(_MAX_STEPS):
        values = resolvent.evaluate(np.zeros(len(index)), np.ones(len(index)), kappa, index)
        gap = kappa * (1 - values.s / n) - penalties
        low, high = np.where(gap < 0, kappa, low), np.where(gap < 0, high, kappa)
        if (np.abs(gap) <= 1e-13 * penalties).all() or (high / low - 1 < 1e-14).all():
            return values
        after = kappa - gap / (1 - values.s / n + kappa * values.sd / n)
        kappa = np.where((after > low) & (after < high), after, np.sqrt(low * high))
    raise ConvergenceError(f"the ridge's penalty was not found (largest residual {np.abs(gap / penalties).max():.2g})")
