"""The paper's closed forms: Theorem 1 (Σ = I) and Corollary 1 (one spike)."""

from dataclasses import dataclass

from r2mae_theory.arguments import finite, number
from r2mae_theory.errors import DivergentRiskError, TheoryError


@dataclass(frozen=True)
class ClosedForm:
    """A risk in closed form, split as in the paper's statement; `total` = `bias` + `variance`."""

    total: float
    bias: float
    variance: float


def transition_ratio(gamma: float) -> float | None:
    """Return the ratio at which the risk diverges, r = γ, or None if every ratio interpolates (γ ≥ 1)."""
    gamma = _gamma(gamma)
    return gamma if gamma < 1 else None


def sweet_spot(gamma: float, strength: float) -> float | None:
    """Return the ratio at which the bias along the spike vanishes, 1 + rλ = γ/r (after Corollary 1).

    Args:
        gamma: p / n.
        strength: λ ≥ 0 of the spike.

    Returns:
        The root in (0, 1), or None.
    """
    gamma, strength = _gamma(gamma), number("strength", strength, least=0)
    ratio = 2 * gamma / (1 + (1 + 4 * strength * gamma) ** 0.5)  # the form that also holds as λ → 0
    return ratio if 0 < ratio < 1 else None


def isotropic_risk(norm: float, sigma: float, gamma: float, ratio: float) -> ClosedForm:
    """Theorem 1, Σ = I, on either side of the threshold γ = r.

    The bias is Lemma 1's, conditional on the masks: ‖β‖²(1 − r/γ) above the threshold and 0 below.

    Args:
        norm: ‖β‖.
        sigma: standard deviation of the noise.
        gamma: p / n.
        ratio: mask ratio in [0, 1).

    Raises:
        DivergentRiskError: at γ = r, or at r = 1.
    """
    norm = number("norm", norm, least=0)
    sigma, gamma, ratio = _checked(sigma, gamma, ratio)
    noise = (sigma**2 + ratio * norm**2) / (1 - ratio)
    if gamma == ratio:
        raise DivergentRiskError(f"the risk is infinite at the threshold gamma = ratio = {ratio}")
    if gamma > ratio:
        bias, variance = norm**2 * (1 - ratio / gamma), noise * ratio / (gamma - ratio)
    else:
        bias, variance = 0.0, noise * gamma / (ratio - gamma)
    return _closed(bias, variance)


def spiked_risk(norm: float, alignment: float, strength: float, sigma: float, gamma: float, ratio: float) -> ClosedForm:
    """Corollary 1, Σ = I + λvvᵀ with a delocalised unit vector v, above the threshold.

    The bias is that of the mean estimator: (1 + λ)·(bias along v)² + (bias across v)².

    Args:
        norm: ‖β‖.
        alignment: a = vᵀβ, at most ‖β‖.
        strength: λ ≥ 0.
        sigma: standard deviation of the noise.
        gamma: p / n.
        ratio: mask ratio in (0, 1).

    Raises:
        TheoryError: for input out of range, and below the threshold (γ < r), which Corollary 1 does not cover but
            `predict_risk` does.
    """
    norm, strength = number("norm", norm, least=0), number("strength", strength, least=0)
    alignment = number("alignment", alignment)
    sigma, gamma, ratio = _checked(sigma, gamma, ratio)
    if not 0 < ratio < gamma:
        raise TheoryError(f"Corollary 1 holds for 0 < ratio < gamma, got ratio = {ratio}, gamma = {gamma}")
    if abs(alignment) > norm * (1 + 1e-12):
        raise TheoryError(f"the alignment must not exceed the norm of beta, got {alignment} and {norm}")
    r, q, a, lam = ratio, 1 - ratio, alignment, strength
    g = gamma / r
    b2 = max(norm**2 - a**2, 0.0)
    kappa = q * (g - 1)
    noise = sigma**2 + r * b2 + (1 + lam) * a**2 * r / (1 + q * lam)
    along = a * (1 + r * lam - g) / (q * lam + g)
    seen = q * (1 + q * lam)  # variance of the masked spike direction
    effective = a * (1 + lam) / (1 + q * lam)
    shrunk = q * b2 / (q + kappa) ** 2 + seen * effective**2 / (seen + kappa) ** 2
    variance = (noise + kappa**2 * shrunk) / (1 - 1 / g) / (q * g)
    bias = (1 + lam) * along**2 + b2 * (1 - 1 / g) ** 2
    return _closed(bias, variance)


def _closed(bias: float, variance: float) -> ClosedForm:
    finite("the risk", bias + variance)
    return ClosedForm(bias + variance, bias, variance)


def _gamma(gamma: float) -> float:
    return number("gamma", gamma, above=0)


def _checked(sigma: float, gamma: float, ratio: float) -> tuple[float, float, float]:
    ratio = number("ratio", ratio, least=0, most=1)
    if ratio == 1:
        raise DivergentRiskError("at a mask ratio of 1 nothing is visible: the formula diverges")
    return number("sigma", sigma, least=0), _gamma(gamma), ratio
