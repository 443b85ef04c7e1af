"""Real masked regressions, evaluated on held-out rows of the user's data, beside the prediction for the targets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import DataError
from r2mae_theory.masks import Fixed
from r2mae_theory.simulate import estimate_of_epochs
from r2mae_theory.solve import NormalSolver
from r2mae_theory.targets import Targets

_MAX_TARGETS = 24
_REPEATS = 12


@dataclass(frozen=True)
class Validation:
    """Mean squared error over targets as a share of their variance: measured on held-out rows, and predicted."""

    measured: Floats
    """Shape (R,)."""
    sem: Floats
    """Standard error over repeats, shape (R,)."""
    predicted: Floats
    """Excess risk plus irreducible noise, from the rows that are not held out; shape (R,)."""
    measured_ratio: float
    predicted_ratio: float
    steps_apart: int
    """Grid steps between the two minima."""
    is_clear: bool
    """Whether the measured curve is more than 2 standard errors higher two grid steps to either side of its minimum."""
    n_samples: int
    """Rows of each regression, before the choice of those that enter."""
    n_targets: int
    n_held_out: int
    """Rows that the regressions are evaluated on."""


def held_out_rows(n: int, n_samples: int) -> int:
    """Return how many of n rows to hold out, so that `n_samples` are left to train on if possible.

    Half of the rows; fewer if more than the other half are needed, but at least a fifth, and five.
    """
    return min(n - n // 2, max(n - n_samples, n // 5, 5))


def validate_curve(
    X: Floats,
    ratios: Floats,
    n_samples: int,
    targets: NDArray[np.intp],
    shrinkage: float | str,
    rng: np.random.Generator,
    epochs: float = 1,
) -> Validation:
    """Fit masked regressions on some of the rows and evaluate them on the others, for at most 24 of the targets.

    Half of the rows are held out, or fewer, down to a fifth, if the regressions need more rows than the other half.

    Args:
        X: samples by features, shape (n, p).
        ratios: ascending, shape (R,).
        n_samples: rows per regression, before the choice of those that enter; `Validation.n_samples` is lower if the
            data do not allow as many.
        targets: columns to predict.
        shrinkage: of the correlation matrix of the rows that are not held out.
        rng: generator for the split, the targets, the rows and the masks.
        epochs: how often each row is seen.

    Raises:
        DataError: if too few rows or varying features are left.
    """
    order = rng.permutation(len(X))
    kept = len(X) - held_out_rows(len(X), n_samples)
    train, test = X[order[:kept]], X[order[kept:]]
    moving = train.std(axis=0) > 0
    if len(train) < 5 or moving.sum() < 2:
        raise DataError("too few rows or varying features to hold out some of the rows")
    centre, spread = train[:, moving].mean(axis=0), train[:, moving].std(axis=0)
    train, test = (train[:, moving] - centre) / spread, (test[:, moving] - centre) / spread
    position = np.cumsum(moving) - 1
    usable = position[targets[moving[targets]]]
    if not len(usable):
        raise DataError("no target varies on the rows that are not held out")
    chosen = usable if len(usable) <= _MAX_TARGETS else np.sort(rng.choice(usable, _MAX_TARGETS, replace=False))
    size = min(n_samples, len(train))
    errors = np.array([_errors(train, test, ratios, size, chosen, rng, epochs) for _ in range(_REPEATS)])
    model = Targets(train, shrinkage, chosen)
    predicted = model.risks([Fixed(float(r)) for r in ratios], size, epochs).mean(axis=1) + model.noise.mean()
    measured, sem = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(_REPEATS)
    found, expected = int(np.argmin(measured)), int(np.argmin(predicted))
    rivals = [k for k in (found - 2, found + 2) if 0 <= k < len(ratios)]
    gaps = errors[:, rivals] - errors[:, [found]]  # paired: the ratios of a repeat share rows and random numbers
    clear = bool(rivals) and bool((gaps.mean(axis=0) > 2 * gaps.std(axis=0, ddof=1) / np.sqrt(_REPEATS)).all())
    return Validation(
        measured=measured,
        sem=sem,
        predicted=predicted,
        measured_ratio=float(ratios[found]),
        predicted_ratio=float(ratios[expected]),
        steps_apart=abs(found - expected),
        is_clear=clear,
        n_samples=size,
        n_targets=len(chosen),
        n_held_out=len(test),
    )


def _errors(
    train: Floats,
    test: Floats,
    ratios: Floats,
    size: int,
    targets: NDArray[np.intp],
    rng: np.random.Generator,
    epochs: float,
) -> Floats:
    """Return the held-out squared error at each ratio, averaged over targets: appendix C.1's protocol on real rows."""
    rows = train[rng.choice(len(train), size, replace=False)]
    total = np.zeros(len(ratios))
    for j in targets:
        features, held_out = np.delete(rows, j, axis=1), np.delete(test, j, axis=1)
        if epochs > 1:
            for k, ratio in enumerate(ratios):
                fit, _ = estimate_of_epochs(features, rows[:, j], Fixed(float(ratio)), epochs, rng)
                total[k] += ((test[:, j] - held_out @ fit) ** 2).mean()
            continue
        enter, hide = rng.random(size), rng.random(features.shape)
        for k, ratio in enumerate(ratios):
            entered = enter < ratio
            fit = NormalSolver(features[entered] * (hide[entered] >= ratio)).fit(rows[entered, j])
            total[k] += ((test[:, j] - held_out @ fit) ** 2).mean()
    return total / len(targets)
