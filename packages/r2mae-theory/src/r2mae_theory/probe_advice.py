"""Which ratio suits a linear probe: the linear model's own representation of the user's data, probed on held-out rows.

Half of the rows, drawn anew for each split, pretrain: the masked regressions of all features, each sample seen without
end (`coefficient_matrix`). Their representation is cut to k directions, a least-squares probe is fitted on rows of the
same half, and its squared error is measured on the other half.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from r2mae_theory.advice import DEFAULT_RATIOS
from r2mae_theory.arguments import array, check_memory, seed_number, sequence, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.data import Table, clean, numeric
from r2mae_theory.errors import DataError, TheoryError
from r2mae_theory.probe_risk import Reading, checked_reading, coefficient_matrix, directions

N_DIRECTIONS = 50
"""Random directions that the probe predicts where no labels are given."""
_MAX_SPLITS = 10**5


@dataclass(frozen=True)
class ProbeAdvice:
    """The held-out error of a linear probe over the ratio of the pretraining, and the best ratio."""

    ratios: Floats
    """Shape (R,)."""
    error: Floats
    """Squared error over the labels' variance, mean over splits; shape (R,)."""
    sd: Floats
    """Standard deviation over splits, shape (R,)."""
    best_ratio: float
    split_ratios: Floats
    """The best ratio of each split alone."""
    as_good: tuple[float, ...]
    """Ratios whose paired difference from the best is within two standard errors over the splits."""
    n_dimensions: int
    """Width of the representation, k."""
    n_labels: int
    """Rows that the probe was fitted on."""
    n_features: int
    labels: tuple[str, ...]
    """Names of the label columns; empty: random directions of the features."""
    notes: tuple[str, ...]


def advise_probe(
    X: ArrayLike | Table,
    Y: ArrayLike | None = None,
    ratios: Sequence[float] = DEFAULT_RATIOS,
    *,
    labels: Sequence[int] | None = None,
    n_dimensions: int | None = None,
    n_labels: int | None = None,
    reading: Reading = "coefficients",
    n_splits: int = 20,
    seed: int = 0,
) -> ProbeAdvice:
    """Probe the linear model's own representation of the user's data, for fixed ratios of its pretraining.

    Args:
        X: samples by features, shape (n, p), or a `Table` from `read_table`.
        Y: labels, shape (n,) or (n, m): numbers; of classes a column of 0 and 1 for each. Needs an X without gaps.
        ratios: each in (0, 1).
        labels: instead of Y, columns of X that are labels, and then no features.
        n_dimensions: width of the representation; default a quarter of the features.
        n_labels: rows that the probe is fitted on; default all of the half that pretrains.
        reading: how the coefficients are cut, "coefficients" or "predictions"; see `probe_risk`.
        n_splits: random halves.
        seed: for the halves, and the random directions that are predicted where there are no labels.

    Raises:
        DataError: for unusable data; see `clean`.
        TheoryError: for arguments out of range.
    """
    table = X if isinstance(X, Table) else clean(X)
    asked_labels, reading = () if labels is None else sequence("labels", labels), checked_reading(reading)
    features, targets, names = _divided(table, Y, asked_labels)
    grid = np.unique(array("ratios", ratios, None))
    if not (grid[0] > 0 and grid[-1] < 1):
        raise TheoryError(f"ratios must be above 0 and below 1, got {grid[0]:g} to {grid[-1]:g}")
    n, p = features.shape
    half = n // 2
    k = whole("n_dimensions", max(p // 4, 1) if n_dimensions is None else n_dimensions, 1, p - 1)
    asked = whole("n_labels", half if n_labels is None else n_labels, 1)
    if not k + 1 < asked <= half:
        raise TheoryError(
            f"a probe on {k} directions needs more than {k + 1} labels, and {half} of {n} rows have them here, got "
            f"{asked}; fewer dimensions need fewer"
        )
    check_memory(f"the representation of {p} features", 8.0 * p**2)
    n_splits, errors, lost = whole("n_splits", n_splits, 2, _MAX_SPLITS), [], 0
    for split in range(n_splits):
        rng = np.random.default_rng([seed_number(seed), split])
        order = rng.permutation(n)
        train, test = order[:half], order[half:]
        moving = features[train].std(axis=0) > 0
        if moving.sum() <= k:
            raise DataError(
                f"only {moving.sum()} features vary on half of the rows; a representation of {k} needs more"
            )
        lost += int((~moving).sum())
        errors.append(_errors(features[:, moving], targets, train, test, grid, k, asked, reading, rng))
    notes = [*table.notes]
    if lost:
        notes.append(f"{lost / n_splits:.1f} features on average did not vary on half of the rows, and were left out")
    found = np.array(errors)
    mean, best = found.mean(axis=0), int(found.mean(axis=0).argmin())
    gaps = found - found[:, [best]]
    close = gaps.mean(axis=0) <= 2 * gaps.std(axis=0, ddof=1) / np.sqrt(n_splits)
    return ProbeAdvice(
        grid, mean, found.std(axis=0, ddof=1), float(grid[best]), grid[found.argmin(axis=1)],
        tuple(float(r) for r in grid[close]), k, asked, p, names, tuple(notes),
    )  # fmt: skip


def _divided(table: Table, Y: ArrayLike | None, labels: Sequence[int]) -> tuple[Floats, Floats | None, tuple[str, ...]]:
    """Return features (n, p), labels (n, m) or None, and the labels' names."""
    if Y is not None and len(labels):
        raise TheoryError("give either Y or labels, not both")
    if Y is not None:
        given = numeric(Y if np.ndim(Y) != 1 else np.asarray(Y)[:, None])
        found = array("Y", given, None, None)
        if len(found) != len(table.X):
            raise TheoryError(f"{len(found)} labels do not fit {len(table.X)} complete rows")
        return table.X, found, tuple(f"label {i}" for i in range(found.shape[1]))
    if not len(labels):
        return table.X, None, ()
    where = {int(column): i for i, column in enumerate(table.columns)}
    asked = [whole("a label column", column, 0, table.width - 1) for column in labels]
    if missing := [column for column in asked if column not in where]:
        raise TheoryError(f"the label column {missing[0]} is not usable: it has gaps, no numbers, or one value")
    places = [where[column] for column in dict.fromkeys(asked)]
    if table.X.shape[1] - len(places) < 2:
        raise TheoryError("beside the labels there must be two features at least")
    return np.delete(table.X, places, axis=1), table.X[:, places], tuple(table.names[i] for i in places)


def _errors(
    X: Floats,
    Y: Floats | None,
    train: np.ndarray,
    test: np.ndarray,
    ratios: Floats,
    k: int,
    n_labels: int,
    reading: Reading,
    rng: np.random.Generator,
) -> Floats:
    """Return the probe's held-out error over the labels' variance for one split, (R,)."""
    centre, spread = X[train].mean(axis=0), X[train].std(axis=0)
    shown, held_out = (X[train] - centre) / spread, (X[test] - centre) / spread
    S = shown.T @ shown / len(shown)
    if Y is None:
        beta = rng.standard_normal((X.shape[1], N_DIRECTIONS))
        seen, hidden = shown[:n_labels] @ beta, held_out @ beta
    else:
        seen, hidden = Y[train[:n_labels]], Y[test]
    middle = seen.mean(axis=0)
    total = float(((hidden - middle) ** 2).sum())
    if not total > 0:
        raise DataError("the labels of half of the rows are all alike; there is nothing to predict")
    found = np.zeros(len(ratios))
    for i, ratio in enumerate(ratios):
        U = directions(coefficient_matrix(S, float(ratio)), S, k, reading)
        z, offset = shown[:n_labels] @ U, (shown[:n_labels] @ U).mean(axis=0)
        weights = np.linalg.lstsq(z - offset, seen - middle, rcond=None)[0]
        found[i] = ((hidden - middle - (held_out @ U - offset) @ weights) ** 2).sum() / total
    return found
