"""The fixed point in two numbers (A, B), for rows whose ratios differ.

A row of ratio r = 1 − q has covariance q²Σ + qrD. With a tiny ridge λ, d = λ + q²A + qrB, T = (I + E[q²/d]Σ +
E[qr/d]D)⁻¹, A = tr(ΣT)/N and B = tr(DT)/N. Here the limit λ → 0 is taken exactly: above the interpolation threshold
(N < p) λ drops out of d, below it A, B and T are of order λ and the identity drops out of T. So the size of a
ridge plays no role. J problems are solved at once by Newton's method.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import ConvergenceError
from r2mae_theory.masks import MaskDistribution
from r2mae_theory.resolvents import Evaluation, Resolvent

_MAX_EVALUATIONS = 200
_TOLERANCE = 1e-9  # size of a Newton step relative to A and B; the error after the step is of the order of its square
_FOLLOW_TOLERANCE = 1e-8  # for evaluations that cost a p×p inverse: the error of the risk is of this order
_CLOSE = 1e-5  # after a step this small, one more evaluation ends the search


@dataclass(frozen=True)
class Rows:
    """The rows that entered each of J regressions: ratios and weights (J, Q), their number and regime (J,)."""

    ratios: Floats
    weights: Floats
    count: Floats
    above: NDArray[np.bool_]
    """Whether the regression interpolates: fewer rows than features."""

    @classmethod
    def of(cls, masks: Sequence[MaskDistribution], n: float, p: int) -> "Rows":
        """Compute the quadrature of each mask distribution, padded to a common number of nodes with weight 0."""
        rules = [_usable(*mask.quadrature()) for mask in masks]
        width = max(len(r) for r, _ in rules)
        ratios = np.array([np.concatenate([r, np.full(width - len(r), r[0])]) for r, _ in rules])
        weights = np.array([np.concatenate([w, np.zeros(width - len(w))]) for _, w in rules])
        mass = weights.sum(axis=1)
        return cls(ratios, weights / mass[:, None], n * mass, n * mass < p)

    def take(self, index: NDArray[np.intp]) -> "Rows":
        """Return the problems at these indices."""
        return Rows(self.ratios[index], self.weights[index], self.count[index], self.above[index])

    def coefficients(self, A: Floats, B: Floats) -> tuple[Floats, Floats, Floats]:
        """Return q²/d, qr/d and 1/d, each of shape (J, Q), without loss of precision as q → 0."""
        r = self.ratios
        q = 1 - r
        mixed = q * A[:, None] + r * B[:, None]  # d/q without the ridge
        d = np.where(self.above[:, None], 0.0, 1.0) + q * mixed
        above = self.above[:, None]
        u = np.where(above, q / mixed, q * q / d)
        v = np.where(above, r / mixed, q * r / d)
        return u, v, 1 / d

    def mean(self, values: Floats) -> Floats:
        """Return the expectation over the rows that entered, (J, Q) → (J,)."""
        return (self.weights * values).sum(axis=1)


def _usable(ratios: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Drop rows that are wholly hidden (ratio 1) or never enter (ratio 0): they do not affect the regression."""
    keep = (weights > 0) & (ratios < 1)
    return ratios[keep], weights[keep]


@dataclass(frozen=True)
class FixedPoint:
    """The solution of J problems and the last evaluation of the resolvent there."""

    A: Floats
    B: Floats
    values: Evaluation
    evaluations: int
    refined: Floats
    """(A, B) after one more step, with twice as many digits, shape (J, 2); the resolvent was not evaluated there."""


def solve(
    resolvent: Resolvent, rows: Rows, start: tuple[Floats, Floats] | None = None, tolerance: float = _TOLERANCE
) -> FixedPoint:
    """Find (A, B) for J problems.

    Args:
        resolvent: evaluates T.
        rows: the J problems.
        start: initial A and B, each of shape (J,); None: the isotropic solution.
        tolerance: relative size of a Newton step at which the search ends.

    Raises:
        ConvergenceError: if a problem is not solved after 200 evaluations; the message gives its residual.
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
    y = np.stack(start, axis=1)
    refined = y.copy()
    active = np.arange(J)
    best: dict[str, Floats] = {}
    residual, last = np.full(J, np.inf), np.zeros(J, dtype=bool)
    for count in range(1, _MAX_EVALUATIONS + 1):
        part, now = rows.take(active), y[active]
        u, v, _ = part.coefficients(now[:, 0], now[:, 1])
        values = resolvent.evaluate(part.above.astype(float), part.mean(u), part.mean(v), active)
        for name, column in vars(values).items():
            best.setdefault(name, np.zeros((J, *column.shape[1:])))[active] = column
        gap = np.stack([values.s, values.d], axis=1) / part.count[:, None] - now
        residual[active] = np.abs(gap / now).max(axis=1)
        after, safe = _newton(now, gap, np.matmul(response(values, part.count), coupling(part, u, v)))
        stride = np.abs(after / now - 1).max(axis=1)
        done = safe & (last[active] | (stride < tolerance))
        last[active] = safe & (stride < _CLOSE)
        restart = np.where(part.above[:, None], resolvent.scale * gamma[active, None], 4 * (gap + now))
        after = np.where(safe[:, None], after, restart)
        refined[active] = after
        y[active] = np.where(done[:, None], now, after)  # where it is done, the evaluation is at A and B
        active = active[~done]
        if not len(active):
            return FixedPoint(y[:, 0], y[:, 1], type(values)(**best), count, refined)
    worst = active[np.argmax(residual[active])]
    raise ConvergenceError(
        f"the fixed point did not converge in {_MAX_EVALUATIONS} evaluations: residual {residual[worst]:.2g} "
        f"at p/n_eff = {gamma[worst]:.6g}"
    )


def follow(resolvent: Resolvent, rows: Rows, near: FixedPoint) -> FixedPoint:
    """Find (A, B) for J problems one after another, for a resolvent that is expensive to evaluate.

    The error of a cheap approximation changes slowly from one mask to the next, so a polynomial through the last
    six problems predicts it, mostly to 1e-8, and one evaluation per problem is enough.

    Args:
        resolvent: evaluates T.
        rows: the J problems.
        near: a cheap approximate solution of the same problems.
    """
    J = len(rows.count)
    spread = np.ptp(np.where(rows.weights > 0, rows.ratios, rows.ratios[:, :1]), axis=1) > 0
    order = np.lexsort((rows.count, spread, rows.above))  # neighbours are alike: regime, fixed or range, size
    guess, found, refined = np.stack([near.A, near.B], axis=1), np.empty((J, 2)), np.empty((J, 2))
    columns: dict[str, Floats] = {}
    done: list[int] = []
    evaluations = 0
    for j in order:
        if done and (rows.above[done[-1]], spread[done[-1]]) != (rows.above[j], spread[j]):
            done = []
        past = done[-6:]
        correction = np.zeros(2)
        if past:
            x, off = rows.count[past], np.log(refined[past] / guess[past])
            # The Lagrange polynomial through the past problems, evaluated at this one; of equal sizes one is enough.
            unique = np.unique(x, return_index=True)[1]
            x, off = x[unique], off[unique]
            basis = [np.prod((rows.count[j] - np.delete(x, k)) / (x[k] - np.delete(x, k))) for k in range(len(x))]
            correction = np.asarray(basis) @ off
        start = guess[j] * np.exp(correction)
        one = solve(resolvent, rows.take(np.array([j])), (start[:1], start[1:]), _FOLLOW_TOLERANCE)
        found[j], refined[j] = (one.A[0], one.B[0]), one.refined[0]
        evaluations += one.evaluations
        for name, column in vars(one.values).items():
            columns.setdefault(name, np.zeros((J, *column.shape[1:])))[j] = column[0]
        done.append(int(j))
    return FixedPoint(found[:, 0], found[:, 1], type(near.values)(**columns), evaluations, refined)


def _newton(now: Floats, gap: Floats, slope: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return a Newton step on Φ(y) − y, shape (J, 2), and whether it can be trusted.

    Φ is positive and concave, and its slope KM has no negative entry. Where I − KM is an M-matrix (positive diagonal
    and determinant) the tangent lies above Φ, so the step ends at a point with Φ(y) ≤ y, and from such a point Newton's
    method descends to the root without leaving that set. Otherwise the caller restarts from a y so large that
    Φ(y) ≤ y: above the threshold tr(Σ)/N, since T ≤ I; below it 4Φ(y), which also turns towards the root's A : B.
    """
    a, b, c, d = 1 - slope[:, 0, 0], -slope[:, 0, 1], -slope[:, 1, 0], 1 - slope[:, 1, 1]
    determinant = a * d - b * c
    trusted = (a > 0) & (d > 0) & (determinant > 0)
    divisor = np.where(trusted, determinant, 1.0)
    step = np.stack([d * gap[:, 0] - b * gap[:, 1], a * gap[:, 1] - c * gap[:, 0]], axis=1) / divisor[:, None]
    return now + step, trusted & (now + step > 0).all(axis=1)


def response(values: Evaluation, count: Floats) -> Floats:
    """Return K = [[tr ΣTΣT, tr ΣTDT], [tr ΣTDT, tr DTDT]]/N, shape (J, 2, 2)."""
    K = np.array([[values.ss, values.sd], [values.sd, values.dd]]) / count
    return np.moveaxis(K, 2, 0)


def coupling(rows: Rows, u: Floats, v: Floats) -> Floats:
    """Return M = E[(q²/d, qr/d)(q²/d, qr/d)ᵀ], shape (J, 2, 2)."""
    M = np.array([[rows.mean(u * u), rows.mean(u * v)], [rows.mean(u * v), rows.mean(v * v)]])
    return np.moveaxis(M, 2, 0)
