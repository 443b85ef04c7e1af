"""Each feature in turn as the target of a masked regression on all the others, from one eigendecomposition.

With Ω = Σ⁻¹, regressing feature j on the rest has β_j = −Ω_·j/Ω_jj and noise variance 1/Ω_jj. Leaving feature j out of
a resolvent Q = (cI + aΣ)⁻¹ is a rank-one (Schur) update, T_j = Q − Q e_j e_jᵀ Q / Q_jj, so a target needs only
(Q)_jj, (Q²)_jj and (Q³)_jj: sums over the eigenvalues weighted by its squared eigenvector entries. Features are
standardised, which makes diag(Σ) = I and this exact.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from r2mae_theory import fixed_point
from r2mae_theory.arrays import Floats
from r2mae_theory.covariance import shrunk_moment
from r2mae_theory.epochs import equivalent_ratio, ridge_risk
from r2mae_theory.errors import ConvergenceError, DataError
from r2mae_theory.masks import MaskDistribution
from r2mae_theory.resolvents import Evaluation, Resolvent, SpectralResolvent
from r2mae_theory.risk import assemble, divergence, rows_taking_part
from r2mae_theory.sample_rows import Block, SampleRows, assembled, solve

_SINGULAR = 1e-10
_SMALL = 1e-4  # step of finite differences of logarithms
_CLOSE = 1e-9
_ROUNDS = 100


class TargetResolvent:
    """T_j for several targets; problem i of `evaluate` is target `targets[index[i]]`."""

    def __init__(self, values: Floats, vectors: Floats, targets: NDArray[np.intp]) -> None:
        """Hold the spectrum of a correlation matrix: eigenvalues (p,) and eigenvectors (p, p)."""
        self.p = len(values) - 1
        self.scale = 1.0
        self._values = values
        self._powers = np.ascontiguousarray(vectors[targets] ** 2)

    @property
    def count(self) -> int:
        """Number of targets."""
        return len(self._powers)

    def evaluate(self, identity: Floats, a: Floats, b: Floats, index: NDArray[np.intp]) -> Evaluation:
        """See `Resolvent.evaluate`; K = 1, the target's own β."""
        p, c = self.p, identity + b
        powers = self._powers if len(index) == len(self._powers) else self._powers[index]
        t = 1 / (c[:, None] + a[:, None] * self._values)
        t2 = t * t
        q1 = np.einsum("jk,jk->j", powers, t)
        q2 = np.einsum("jk,jk->j", powers, t2)
        q3 = np.einsum("jk,jk,jk->j", powers, t2, t)
        trace = t.sum(axis=1) - q2 / q1
        square = t2.sum(axis=1) - 2 * q3 / q1 + (q2 / q1) ** 2
        s = (p - c * trace) / a  # from aΣT = I − cT
        sd = (trace - c * square) / a
        ss = (s - c * sd) / a
        # w = T_j Σ_j β_j = −Q_·j/(a Q_jj) off the target, and Σ_jj = 1.
        remainder = (1 - c * q1) / (a * q1)  # e_jᵀΣQ e_j / Q_jj
        cross = (1 - remainder) / a
        energy = (1 - 2 * remainder + (q1 - c * q2) / (a * q1**2)) / a**2
        spread = (q2 / q1**2 - 1) / a**2
        return Evaluation(s, trace, ss, sd, square, cross[:, None], energy[:, None], spread[:, None])


class Targets:
    """The regressions of standardised data: their spectra, noise and null risks, and their predicted risks."""

    def __init__(self, standardised: Floats, shrinkage: float | str, targets: NDArray[np.intp]) -> None:
        """Estimate the correlation matrix of standardised rows, shape (n, p), once for all targets."""
        S = shrunk_moment(standardised, shrinkage)
        self._values, vectors = np.linalg.eigh(S)
        if self._values[0] < _SINGULAR:
            raise DataError(
                "the sample covariance is singular: some features are exact linear combinations of others; "
                'use shrinkage="auto" or a positive number'
            )
        self._resolvent = TargetResolvent(self._values, vectors, targets)
        precision = vectors[targets] ** 2 @ (1 / self._values)
        self.noise = 1 / precision
        """Irreducible noise, 1/Ω_jj as a share of the target's variance; shape (J,)."""
        self.null = S.diagonal()[targets] - self.noise
        """βᵀΣβ of each target, shape (J,)."""

    def risks(self, masks: Sequence[MaskDistribution], n: float, epochs: float = 1) -> Floats:
        """Predict each target's excess risk under each mask, shape (masks, targets); infinite where it diverges."""
        return np.array([self._one(mask, n, epochs) for mask in masks])

    def _one(self, mask: MaskDistribution, n: float, epochs: float) -> Floats:
        J, p = len(self.noise), self._resolvent.p
        count = rows_taking_part(mask, n, epochs)
        if count == 0:
            return self.null.copy()
        if divergence(mask, count, p):
            return np.full(J, np.inf)
        null, sigmas = self.null[:, None], np.sqrt(self.noise)[:, None]
        if np.isinf(epochs):
            ratios = np.full(J, equivalent_ratio(mask))
            return ridge_risk(self._resolvent, n, ratios, null, sigmas)["total"][:, 0]
        if epochs > 1:
            return self._after(SampleRows(Block.of(mask, epochs), n, p), null, sigmas)
        single = fixed_point.Rows.of([mask], n, p)
        # The fixed point of the full spectrum at the same aspect ratio is within O(1/p) of every target's own.
        stretched = fixed_point.Rows(single.ratios, single.weights, single.count * (p + 1) / p, single.above)
        whole = SpectralResolvent(self._values, np.ones(p + 1), np.zeros((p + 1, 0)))
        near = fixed_point.solve(whole, stretched)
        rows = single.take(np.zeros(J, dtype=int))
        solution = fixed_point.solve(self._resolvent, rows, (np.repeat(near.A, J), np.repeat(near.B, J)))
        return assemble(rows, solution, null, sigmas[:, None])["total"][:, 0]

    def _after(self, rows: SampleRows, null: Floats, sigmas: Floats) -> Floats:
        """Return the risks after several epochs.

        The targets' fixed points lie within O(1/p) of that of their mean traces, so the moments are linear around it,
        and one Jacobian serves all.

        Raises:
            ConvergenceError: a target's fixed point was not found.
        """
        mean = _MeanTarget(self._resolvent)
        middle = np.log(solve(mean, rows))
        moments = rows.moments(*np.exp(middle))
        slope = np.stack([
            (rows.moments(*np.exp(middle + h)) - rows.moments(*np.exp(middle - h))) / (2 * _SMALL)
            for h in _SMALL * np.eye(2)
        ], axis=1)  # fmt: skip

        def traces(resolvent: Resolvent, at: Floats) -> tuple[Floats, Evaluation]:
            near = moments[:, None] + slope @ (at - middle[:, None])
            values = resolvent.evaluate(*rows.arguments(near), np.arange(at.shape[1]))
            return near, values

        def image(resolvent: Resolvent, at: Floats) -> Floats:
            values = traces(resolvent, at)[1]
            return np.log(np.stack([values.s, values.d]))

        around = middle[:, None] + _SMALL * np.eye(2)
        jacobian = (np.column_stack([image(mean, around[:, [k]]) for k in (0, 1)]) - middle[:, None]) / _SMALL
        at = np.repeat(middle[:, None], len(null), axis=1)
        gap = np.full_like(at, np.inf)
        for _ in range(_ROUNDS):
            gap = image(self._resolvent, at) - at
            at = at + np.linalg.solve(np.eye(2) - jacobian, gap)
            if np.abs(gap).max() < _CLOSE:
                near, values = traces(self._resolvent, at)
                return assembled(near, values, null, sigmas)["total"][:, 0]
        raise ConvergenceError(
            f"the fixed points of {len(null):,} targets were not found: largest residual {np.abs(gap).max():.2g}"
        )


class _MeanTarget:
    """The mean over targets of their traces, as one problem."""

    def __init__(self, targets: TargetResolvent) -> None:
        self.p, self.scale, self._targets = targets.p, targets.scale, targets

    def evaluate(self, identity: Floats, a: Floats, b: Floats, index: NDArray[np.intp]) -> Evaluation:
        """See `Resolvent.evaluate`."""
        J = self._targets.count
        i, x, y = (np.repeat(value, J) for value in (identity, a, b))
        found = self._targets.evaluate(i, x, y, np.arange(J))
        return Evaluation(**{name: value.mean(axis=0, keepdims=True) for name, value in vars(found).items()})
