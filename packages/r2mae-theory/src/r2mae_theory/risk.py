"""The asymptotic risk of masked regression for any covariance, any β and any mask distribution.

R = E‖β̂ − β‖²_Σ of the minimum-norm fit on masked rows, by the deterministic equivalent of `fixed_point`. For one ratio
it is Theorem 1 (Σ = I), Corollary 1 and Theorem 2 (spiked) of the paper; a ratio that differs from row to row (R2MAE)
and a general Σ are this package's extension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory import epochs as several
from r2mae_theory import fixed_point
from r2mae_theory.arguments import MAX_SAMPLES, array, check_memory, finite, number, shown, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.covariance import Covariance, LowRankCovariance
from r2mae_theory.errors import ConvergenceError, DivergentRiskError, TheoryError
from r2mae_theory.masks import MaskDistribution, as_masks
from r2mae_theory.representations import as_covariance
from r2mae_theory.resolvents import DenseResolvent, LowRankResolvent, Resolvent, SpectralResolvent

Mask = MaskDistribution | float | tuple[float, float]

Method = Literal["auto", "exact", "spectral"]
_THRESHOLD_WIDTH = 1e-9  # |1 − p/n_eff| below which the regression counts as at the threshold


@dataclass(frozen=True)
class Risk:
    """The predicted risk of one setting; `total` = `bias` + `variance`."""

    total: float
    """R = E‖β̂ − β‖²_Σ on unmasked samples."""
    bias: float
    """‖E β̂ − β‖²_Σ, the mean over samples, masks and noise (Lemma 1's, given the masks, is larger)."""
    variance: float
    """E‖β̂ − E β̂‖²_Σ."""
    null: float
    """βᵀΣβ, the risk of predicting nothing."""
    effective_n: float
    """Rows that enter the regression, over all epochs: n·E[r] in one; infinite for infinitely many."""
    gamma_effective: float
    """p / effective_n; above 1 the fit interpolates; infinite if no row enters."""
    magnitude: float
    """E β̂ᵀΣβ̂, the mean square prediction (figure 1D)."""

    @property
    def normalized(self) -> float:
        """R / null, as the paper's tables report it; refused if the null risk is 0."""
        return self.total / positive_null(self.null)


@dataclass(frozen=True)
class RiskTable:
    """Risks of J mask distributions for K pairs (β, σ): arrays of shape (J, K), or (J,) where only the mask matters."""

    masks: tuple[MaskDistribution, ...]
    total: Floats
    bias: Floats
    variance: Floats
    magnitude: Floats
    null: Floats
    """Shape (K,)."""
    effective_n: Floats
    """Shape (J,)."""
    notes: tuple[str, ...]
    """Shape (J,): why a risk is infinite, or empty."""

    @property
    def normalized(self) -> Floats:
        """R / null, shape (J, K); refused if a null risk is 0."""
        positive_null(float(self.null.min()))
        return self.total / self.null

    def pick(self, j: int, k: int = 0) -> Risk:
        """One entry as a `Risk`."""
        j, k = (
            whole(name, index, 0, length - 1)
            for name, index, length in zip("jk", (j, k), self.total.shape, strict=True)
        )
        N = float(self.effective_n[j])
        gamma = self._p / N if N > 0 else float("inf")
        columns = (self.total, self.bias, self.variance)
        total, bias, variance = (float(c[j, k]) for c in columns)
        return Risk(total, bias, variance, float(self.null[k]), N, gamma, float(self.magnitude[j, k]))

    _p: int = 0


def positive_null(null: float) -> float:
    """Return the null risk to divide by.

    Raises:
        TheoryError: if it is 0, as for β = 0: no risk is a share of it.
    """
    if not null > 0:
        raise TheoryError("the null risk (beta' Sigma beta) is 0, as for beta = 0, so no risk can be divided by it")
    return null


def predict_risk(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: float,
    n: float,
    mask: Mask,
    method: Method = "auto",
    epochs: float = 1,
) -> Risk:
    """Predict the asymptotic risk of one setting.

    Args:
        covariance: Σ, p×p.
        beta: ground truth, shape (p,).
        sigma: standard deviation of the noise.
        n: training samples, before the choice of those that enter.
        mask: a distribution of ratios; a number means `Fixed`, a pair `Uniform`.
        method: "auto" and "exact" are exact for every Σ (in O(p) if the eigenbasis or a low rank allows it); "spectral"
            replaces diag(Σ) by its mean, which is O(p) for any Σ and right for Haar eigenvectors as p grows.
        epochs: how often each sample is seen, each time with fresh masks: a whole number or `math.inf`. The paper's
            linear model has 1.

    Raises:
        DivergentRiskError: exactly at the interpolation threshold, or for ratios reaching 1 above it.
        ConvergenceError: if the fixed point was not found.
        TheoryError: for input of the wrong shape or range.
    """
    table = risk_table(covariance, beta, sigma, n, [mask], method, epochs)
    if table.notes[0]:
        raise DivergentRiskError(table.notes[0])
    return table.pick(0)


def risk_curve(
    covariance: Covariance,
    beta: ArrayLike,
    sigma: float,
    n: float,
    ratios: Sequence[Mask],
    method: Method = "auto",
    epochs: float = 1,
) -> RiskTable:
    """Predict the risk at many ratios or ranges at once; where it diverges it is infinite, with a note.

    Returns:
        A table with one column (K = 1).
    """
    return risk_table(covariance, beta, sigma, n, ratios, method, epochs)


def risk_table(
    covariance: Covariance,
    betas: ArrayLike,
    sigmas: ArrayLike,
    n: float,
    masks: Sequence[Mask],
    method: Method = "auto",
    epochs: float = 1,
) -> RiskTable:
    """Predict the risks of J masks for K targets that share Σ; the fixed point depends on neither β nor σ: solved once.

    Args:
        covariance: Σ, p×p.
        betas: shape (p,) or (p, K).
        sigmas: one number or shape (K,).
        n: training samples, before the choice of those that enter.
        masks: J mask distributions, numbers or pairs.
        method: see `predict_risk`.
        epochs: see `predict_risk`.

    Raises:
        ConvergenceError: if the fixed point was not found.
        TheoryError: for input of the wrong shape or range.
    """
    columns, noise = _checked(covariance, betas, sigmas, n)
    if not isinstance(method, str) or method not in ("auto", "exact", "spectral"):
        raise TheoryError(f'method must be "auto", "exact" or "spectral", got {shown(method)}')
    laws, epochs = as_masks(masks), several.checked_epochs(epochs)
    null = (columns * covariance.multiply(columns)).sum(axis=0)
    J, K = len(laws), columns.shape[1]
    # If no row enters, the fit is 0 and the risk is the null risk.
    out = {
        "total": np.tile(null, (J, 1)),
        "bias": np.tile(null, (J, 1)),
        "variance": np.zeros((J, K)),
        "magnitude": np.zeros((J, K)),
    }
    counts = np.array([rows_taking_part(law, n, epochs) for law in laws])
    notes = tuple(divergence(law, count, covariance.p) for law, count in zip(laws, counts, strict=True))
    for j, note in enumerate(notes):
        if note:
            out["total"][j] = out["variance"][j] = out["magnitude"][j] = np.inf
    live = np.array([j for j in range(J) if counts[j] > 0 and not notes[j]], dtype=int)
    if len(live):
        found = _solved(covariance, columns, noise, n, [laws[j] for j in live], method, null, epochs)
        for name, values in found.items():
            out[name][live] = values
    return RiskTable(laws, **out, null=null, effective_n=counts, notes=notes, _p=covariance.p)


def _solved(
    covariance: Covariance,
    betas: Floats,
    noise: Floats,
    n: float,
    laws: Sequence[MaskDistribution],
    method: Method,
    null: Floats,
    epochs: float,
) -> dict[str, Floats]:
    """Return the arrays of `assemble` for masks whose risk is finite."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            resolvent = _resolvent(covariance, betas, method)
            if epochs > 1:
                found = several.risks(resolvent, n, laws, epochs, null, noise)
                finite("the risk", *found.values())
                return found
            rows = fixed_point.Rows.of(laws, n, covariance.p)
            if isinstance(resolvent, SpectralResolvent):
                solution = fixed_point.solve(resolvent, rows)
            else:  # the spectral solution is close
                near = fixed_point.solve(SpectralResolvent.of(covariance, betas[:, :0]), rows)
                solution = fixed_point.follow(resolvent, rows, near)
            found = assemble(rows, solution, null, noise)
    except np.linalg.LinAlgError as error:
        raise ConvergenceError(f"the fixed point's equations are singular to working precision ({error})") from None
    finite("the risk", *found.values())
    return found


def assemble(
    rows: fixed_point.Rows, solution: fixed_point.FixedPoint, null: Floats, sigmas: Floats
) -> dict[str, Floats]:
    """Return the risk, its parts and the prediction's magnitude at a solved fixed point; arrays of shape (J, K).

    `null` has shape (K,) or (J, K); `sigmas` has shape (K,) or (J, 1, K).
    """
    u, v, inverse_d = rows.coefficients(solution.A, solution.B)
    values, q = solution.values, 1 - rows.ratios
    scale = rows.mean(q * inverse_d)[:, None]  # m = E[q/d]·TΣβ
    cross, energy, spread = scale * values.cross, scale**2 * values.energy, scale**2 * values.spread
    # τ² without the part that depends on the variance itself: (J, Q, K)
    own = null[:, None] if null.ndim == 2 else null  # (J, 1, K) if each problem has its own targets
    q3, r3 = q[:, :, None], rows.ratios[:, :, None]
    tau = sigmas**2 + own - 2 * q3 * cross[:, None] + q3**2 * energy[:, None] + q3 * r3 * spread[:, None]
    weight = rows.weights * inverse_d
    g = np.stack([np.einsum("jq,jqk->jk", weight * u, tau), np.einsum("jq,jqk->jk", weight * v, tau)], axis=1)
    K, M = fixed_point.response(values, rows.count), fixed_point.coupling(rows, u, v)
    V = np.linalg.solve(np.eye(2) - K @ M, K @ g)[:, 0]
    bias = np.maximum(null - 2 * cross + energy, 0.0)
    return {"total": bias + V, "bias": bias, "variance": V, "magnitude": energy + V}


def _resolvent(covariance: Covariance, betas: Floats, method: Method) -> Resolvent:
    if method == "spectral" or (method == "auto" and covariance.is_flat):
        return SpectralResolvent.of(covariance, betas)
    if isinstance(covariance, LowRankCovariance) and len(covariance.strengths) <= covariance.p // 4:
        return LowRankResolvent(covariance, betas)
    check_memory(f"the exact risk for p = {covariance.p} features", 4.0 * covariance.p**2)
    return DenseResolvent(covariance, betas)


def rows_taking_part(law: MaskDistribution, n: float, epochs: float = 1) -> float:
    """Return n·E[r] times the epochs, less the rows that enter with every feature hidden (an atom at ratio 1)."""
    ratios, weights = law.quadrature()
    share = float(weights[ratios < 1].sum())
    return n * share * epochs if share > 0 else 0.0


def divergence(law: MaskDistribution, count: float, p: int) -> str:
    """Return why the risk is infinite with `count` rows and p features, or an empty string."""
    if count > 0 and abs(1 - p / count) < _THRESHOLD_WIDTH:
        return f"{law}: as many rows as features ({p}) enter the fit; at this threshold the risk is infinite"
    if law.is_continuous_at_one and count < p:
        return (
            f"{law} reaches a ratio of 1 above the interpolation threshold (p/n_eff = {p / count:.3g}): "
            "the variance diverges like log(1/(1 - r)); end the range below 1"
        )
    return ""


def _checked(covariance: Covariance, betas: ArrayLike, sigmas: ArrayLike, n: float) -> tuple[Floats, Floats]:
    p = as_covariance(covariance).p
    columns = array("beta", betas)
    if columns.ndim not in (1, 2) or len(columns) != p:
        raise TheoryError(f"beta has shape {columns.shape}, but the covariance has {p} features")
    columns = columns.reshape(p, -1)
    noise = array("sigma", sigmas)
    if noise.shape not in ((), (columns.shape[1],)) or (noise < 0).any():
        raise TheoryError(f"sigma must be a number, or one for each target, and not negative, got {shown(sigmas)}")
    number("the number of samples n", n, least=1, most=MAX_SAMPLES)
    return columns, np.broadcast_to(noise, (columns.shape[1],))
