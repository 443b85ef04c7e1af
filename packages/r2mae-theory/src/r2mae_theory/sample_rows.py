"""The rows of one sample in several epochs, and the risk of a regression on such rows (beyond the paper).

The rows of one sample are dependent: they share its features and its noise. Let a sample have K rows with visible
shares q_e = 1 − r_e. Given the others, Z_i Q Z_iᵀ of its K×p block concentrates at G = A·qqᵀ + B·diag(q_e r_e), with
A = tr(ΣT), B = tr(DT) and D = diag(Σ), so that its leave-one-out weight is W = (1 + G)⁻¹, a rank-one change of a
diagonal matrix. With sums over its rows and d_e = 1 + q_e r_e B,

    s = Σ q²/d,   t = Σ q/d,   x = 1 + A·s,

the deterministic equivalent is T = (1 + n·E[qᵀWq]·Σ + n·E[Σ W_ee q_e r_e]·D)⁻¹, with qᵀWq = s/x. The mean of the
fit is n·E[t/x]·TΣβ, and its spread follows from the covariance of a sample's residuals, as in `risk.assemble` for one
epoch. The limit of a ridge to 0 is taken as in `fixed_point`. Expectations over K and the ratios are exact: 1/x^k is an
integral of e^(−τs), under which the epochs are independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import root
from scipy.special import gamma as gamma_function

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import ConvergenceError
from r2mae_theory.masks import MaskDistribution
from r2mae_theory.resolvents import Evaluation, Resolvent

_STEP = 0.25  # of the trapezoidal rule in log t; its error is about e^(−π²/step)
_DIGITS = 1e-17
_TOLERANCE = 1e-11
_MAX_STEPS = 2000


@dataclass(frozen=True)
class Block:
    """The rows of one sample in E epochs, of which each enters with probability Σ weights at one of the ratios."""

    ratios: Floats
    weights: Floats
    epochs: float

    @classmethod
    def of(cls, mask: MaskDistribution, epochs: float) -> "Block":
        """Read a distribution; ratios of 1, whose rows are empty, are left out."""
        ratios, weights = mask.quadrature()
        keep = (weights > 0) & (ratios < 1)
        return cls(ratios[keep], weights[keep], epochs)

    def expectation(self, exponent: Floats, A: float) -> Callable[..., float]:
        """Return a function E[Π_j Σ_e f_j(r_e) / (1 + A·s)^power] of the values of up to three f at the ratios.

        Args:
            exponent: q²/d at the ratios, whose sum over a sample's rows is s.
            A: positive.
        """
        E, left = self.epochs, 1 - self.weights.sum()
        lowest = np.log(_DIGITS / (1 + A * E * float(self.weights @ exponent)))
        nodes = np.exp(np.arange(lowest, np.log(45.0), _STEP))
        decay = np.exp(-np.outer(np.concatenate([[0.0], nodes]), A * exponent)) * self.weights  # (T + 1, Q)
        log_phi = np.log(left + decay.sum(axis=1))

        def phi_to(power: float) -> Floats:
            return np.exp(power * log_phi)

        def mean(*functions: Floats, power: int) -> float:
            alone = [decay @ f for f in functions]
            values = E * (decay @ np.prod(functions, axis=0)) * phi_to(E - 1)
            if len(functions) == 2:
                values = values + E * (E - 1) * alone[0] * alone[1] * phi_to(E - 2)
            if len(functions) == 3:
                f, g, h = functions
                pairs = sum((decay @ (x * y)) * (decay @ z) for x, y, z in ((f, g, h), (f, h, g), (g, h, f)))
                values = values + E * (E - 1) * pairs * phi_to(E - 2)
                values = values + E * (E - 1) * (E - 2) * alone[0] * alone[1] * alone[2] * phi_to(E - 3)
            if power == 0:
                return float(values[0])
            kernel = nodes**power * np.exp(-nodes) / gamma_function(power)
            return float(_STEP * (kernel @ values[1:]))

        return mean


def epoch_risk(
    resolvent: Resolvent, n: float, laws: Sequence[MaskDistribution], epochs: float, null: Floats, sigmas: Floats
) -> dict[str, Floats]:
    """Return risk, bias, variance and magnitude after a finite number of epochs, each of shape (J, K).

    Args:
        resolvent: evaluates T.
        n: samples.
        laws: J distributions of ratios.
        epochs: how often each sample is seen.
        null: (K,) βᵀΣβ.
        sigmas: (K,).
    """
    found = []
    for law in laws:
        sums = SampleRows(Block.of(law, epochs), n, resolvent.p)
        A, B = solve(resolvent, sums)
        moments = sums.moments(A, B)
        values = resolvent.evaluate(*sums.arguments(moments[:, None]), np.zeros(1, dtype=np.intp))
        found.append(assembled(moments[:, None], values, null, sigmas))
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


@dataclass(frozen=True)
class SampleRows:
    """What the risk needs of a sample's rows, at given A and B."""

    block: Block
    n: float
    p: int

    @property
    def above(self) -> bool:
        """Whether the regression interpolates: fewer rows than features."""
        return bool(self.n * self.block.epochs * self.block.weights.sum() < self.p)

    def arguments(self, moments: Floats) -> tuple[Floats, Floats, Floats]:
        """Return what `Resolvent.evaluate` takes, from moments of shape (≥ 2, J)."""
        return np.full(moments.shape[1], float(self.above)), moments[0], moments[1]

    def response(self, A: float, B: float) -> Floats:
        """Return the coefficients of Σ and D in T, shape (2,)."""
        r, q, d, mean = self._parts(A, B)
        a = mean(q * q / d, power=1)
        return self.n * np.array([a, mean(q * r / d, power=0) - A * mean(q**3 * r / d**2, power=1)])

    def moments(self, A: float, B: float) -> Floats:
        """Return `response`, then the mean's scale, M's three entries, the level's two and the slope's two, (10,)."""
        r, q, d, mean = self._parts(A, B)
        s, t = q * q / d, q / d
        a0, a1, a2, b0, b1 = q * r / d**2, q * q * r / d**2, q**3 * r / d**2, (q * r / d) ** 2, q**4 * r**2 / d**3
        rest = self.n * np.array([
            mean(t, power=1),
            mean(s, s, power=2), mean(a2, power=2),
            mean(b0, power=0) - 2 * A * mean(b1, power=1) + A * A * mean(a2, a2, power=2),
            mean(t, t, power=2),
            mean(a0, power=0) - 2 * A * mean(t, a1, power=1) + A * A * mean(t, t, a2, power=2),
            mean(t, s, power=2), mean(a1, power=1) - A * mean(t, a2, power=2),
        ])  # fmt: skip
        return np.concatenate([self.response(A, B), rest])

    def _parts(self, A: float, B: float) -> tuple[Floats, Floats, Floats, Callable[..., float]]:
        r, q = self.block.ratios, 1 - self.block.ratios
        d = q * r * B + (0.0 if self.above else 1.0)
        return r, q, d, self.block.expectation(q * q / d, A)


def assembled(moments: Floats, values: Evaluation, null: Floats, sigmas: Floats) -> dict[str, Floats]:
    """Return the risk and its parts, each of shape (J, K), from a sample's moments (10, J) and T's traces."""
    scale = moments[2][:, None]
    cross, energy, spread = scale * values.cross, scale**2 * values.energy, scale**2 * values.spread
    M = np.moveaxis(moments[[[3, 4], [4, 5]]], 2, 0)
    level, slope = moments[6:8].T[:, :, None], moments[8:10].T[:, :, None]
    g = level * (sigmas**2 + null)[..., None, :] - 2 * slope * cross[:, None] + M @ np.stack([energy, spread], axis=1)
    K = np.moveaxis(np.array([[values.ss, values.sd], [values.sd, values.dd]]), 2, 0)
    variance = np.linalg.solve(np.eye(2) - K @ M, K @ g)[:, 0]
    bias = np.maximum(null - 2 * cross + energy, 0.0)
    return {"total": bias + variance, "bias": bias, "variance": variance, "magnitude": energy + variance}


def solve(resolvent: Resolvent, sums: SampleRows) -> tuple[float, float]:
    """Solve A = tr(ΣT), B = tr(DT).

    Raises:
        ConvergenceError: it was not found.
    """
    block, one = sums.block, np.zeros(1, dtype=np.intp)
    rows = sums.n * block.epochs * block.weights.sum()
    q = 1 - float(block.weights @ block.ratios / block.weights.sum())
    excess = abs(resolvent.p / rows - 1)
    size = resolvent.p * resolvent.scale * excess if sums.above else resolvent.p / (rows * q * max(excess, 0.1))

    def gap(logs: Floats) -> Floats:
        A, B = np.exp(np.clip(logs, -600, 600)).tolist()
        values = resolvent.evaluate(*sums.arguments(sums.response(A, B)[:, None]), one)
        return np.log(np.maximum([values.s[0], values.d[0]], 1e-300)) - logs

    start = np.log([size, size])
    for _ in range(5):  # the map is increasing and concave: plain steps approach the solution from above
        start = start + gap(start)
    for method in ("hybr", "lm"):
        found = root(gap, start, method=method, tol=_TOLERANCE)
        if np.abs(gap(found.x)).max() < 1e-8:
            return float(np.exp(found.x[0])), float(np.exp(found.x[1]))
    for _ in range(_MAX_STEPS):
        step = gap(start)
        start = start + step
        if np.abs(step).max() < 1e-10:
            return float(np.exp(start[0])), float(np.exp(start[1]))
    raise ConvergenceError(
        f"the fixed point for {block.epochs:g} epochs did not converge: residual {np.abs(gap(start)).max():.2g} at "
        f"p/rows = {resolvent.p / rows:.6g}"
    )
