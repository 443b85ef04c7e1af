"""The fixed point in two numbers (A, B), for rows whose ratios differ ("Linear model" of the recovered formulas).

A row of ratio r = 1 − q has covariance q²Σ + qrD. With a tiny ridge λ, d = λ + q²A + qrB, T = (I + E[q²/d]Σ +
E[qr/d]D)⁻¹, A = tr(ΣT)/N and B = tr(DT)/N. Here the limit λ → 0 is taken exactly: above the interpolation threshold
(N < p) λ drops out of d, below it A, B and T are of order λ and the identity drops out of T. So nothing depends on how
small a ridge one dares to take. J problems are solved at a time by Newton's method on (log A, log B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from r2mae_theory.errors import ConvergenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from r2mae_theory.masks import MaskDistribution
    from r2mae_theory.resolvents import Evaluation, Resolvent

    Floats = NDArray[np.floating]

_MAX_EVALUATIONS = 100
_TOLERANCE = 1e-9  # of a Newton step in log A, log B; the error left after the step is of the order of its square
_CLOSE = 1e-5  # a step this small is taken, evaluated once more, and trusted


@dataclass(frozen=True)
class Rows:
    """The rows that entered each of J regressions: ratios and weights (J, Q), their number and regime (J,)."""

    ratios: Floats
    weights: Floats
    count: Floats
    above: NDArray[np.bool_]
    """Whether the regression interpolates: fewer rows than features."""

    @classmethod
    def of(cls, masks: Sequence[MaskDistribution], n: float, p: int) -> Rows:
        """Quadrature for each mask distribution, padded to a common number of nodes with weight 0."""
        rules = [_usable(*mask.quadrature()) for mask in masks]
        width = max(len(r) for r, _ in rules)
        ratios = np.array([np.concatenate([r, np.full(width - len(r), r[0])]) for r, _ in rules])
        weights = np.array([np.concatenate([w, np.zeros(width - len(w))]) for _, w in rules])
        mass = weights.sum(axis=1)
        return cls(ratios, weights / mass[:, None], n * mass, n * mass < p)

    def take(self, index: NDArray[np.intp]) -> Rows:
        """The problems named by index."""
        return Rows(self.ratios[index], self.weights[index], self.count[index], self.above[index])

    def coefficients(self, A: Floats, B: Floats) -> tuple[Floats, Floats, Floats]:
        """(q²/d, qr/d, 1/d), each of shape (J, Q), written so that nothing is lost as q → 0."""
        r = self.ratios
        q = 1 - r
        mixed = q * A[:, None] + r * B[:, None]  # d/q without the ridge
        d = np.where(self.above[:, None], 0.0, 1.0) + q * mixed
        above = self.above[:, None]
        u = np.where(above, q / mixed, q * q / d)
        v = np.where(above, r / mixed, q * r / d)
        return u, v, 1 / d

    def mean(self, values: Floats) -> Floats:
        """Expectation over the rows that entered, (J, Q) → (J,)."""
        return (self.weights * values).sum(axis=1)


def _usable(ratios: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Drop rows that show nothing (ratio 1) or never enter (ratio 0): they take no part in the regression."""
    keep = (weights > 0) & (ratios < 1)
    return ratios[keep], weights[keep]


@dataclass(frozen=True)
class FixedPoint:
    """The solution of J problems and the last evaluation of the resolvent there."""

    A: Floats
    B: Floats
    values: Evaluation
    evaluations: int


def solve(resolvent: Resolvent, rows: Rows, start: tuple[Floats, Floats] | None = None) -> FixedPoint:
    """Find (A, B) for J problems.

    Raises:
        ConvergenceError: if some problem is not solved after 100 evaluations; the message gives its residual.
    """
    J = len(rows.count)
    gamma = resolvent.p / rows.count
    if start is None:
        q = 1 - rows.mean(rows.ratios)
        with np.errstate(divide="ignore"):
            isotropic = np.where(
                rows.above, resolvent.scale * (gamma - 1), gamma / (q * (1 - gamma))
            )  # exact for Σ ∝ I
        start = (isotropic, isotropic)
    x = np.log(np.stack(start, axis=1))
    active = np.arange(J)
    best: dict[str, Floats] = {}
    residual = np.full(J, np.inf)
    previous, step, final = x.copy(), np.zeros_like(x), np.zeros(J, dtype=bool)
    for count in range(1, _MAX_EVALUATIONS + 1):
        part = rows.take(active)
        A, B = np.exp(x[active]).T
        u, v, _ = part.coefficients(A, B)
        values = resolvent.evaluate(part.above.astype(float), part.mean(u), part.mean(v), active)
        for name, column in vars(values).items():
            best.setdefault(name, np.zeros((J, *column.shape[1:])))[active] = column
        image = np.log(np.stack([values.s, values.d], axis=1) / part.count[:, None])
        G = image - x[active]
        size = np.abs(G).max(axis=1)
        worse = ~(size < 2 * residual[active]) & ~final[active]
        KM = np.matmul(response(values, part.count), coupling(part, u, v))
        X = np.stack([A, B], axis=1)
        jacobian = np.eye(2) - KM * X[:, None, :] / np.exp(image)[:, :, None]
        move = np.linalg.solve(jacobian, G[:, :, None])[:, :, 0]
        move *= np.minimum(1.0, 2.0 / np.maximum(np.abs(move).max(axis=1), 1e-300))[:, None]  # at most e² at a time
        stride = np.abs(move).max(axis=1)
        done = final[active] | (stride < _TOLERANCE)
        # A step that made things worse is halved from where it started; any other is replaced by the next one.
        back = worse & (count > 1)
        step[active] = np.where(back[:, None], step[active] / 2, move)
        previous[active] = np.where(back[:, None], previous[active], x[active])
        residual[active] = np.where(back, residual[active], size)
        final[active] = ~back & (stride < _CLOSE)
        x[active] = np.where(done[:, None], x[active], previous[active] + step[active])
        active = active[~done]
        if not len(active):
            A, B = np.exp(x).T
            return FixedPoint(A, B, type(values)(**best), count)
    worst = active[np.argmax(residual[active])]
    raise ConvergenceError(
        f"the fixed point did not converge in {_MAX_EVALUATIONS} evaluations: residual {residual[worst]:.2g} "
        f"at p/n_eff = {gamma[worst]:.6g}"
    )


def response(values: Evaluation, count: Floats) -> Floats:
    """K = [[tr ΣTΣT, tr ΣTDT], [tr ΣTDT, tr DTDT]]/N, shape (J, 2, 2)."""
    K = np.array([[values.ss, values.sd], [values.sd, values.dd]]) / count
    return np.moveaxis(K, 2, 0)


def coupling(rows: Rows, u: Floats, v: Floats) -> Floats:
    """M = E[(q²/d, qr/d)(q²/d, qr/d)ᵀ], shape (J, 2, 2)."""
    M = np.array([[rows.mean(u * u), rows.mean(u * v)], [rows.mean(u * v), rows.mean(v * v)]])
    return np.moveaxis(M, 2, 0)
