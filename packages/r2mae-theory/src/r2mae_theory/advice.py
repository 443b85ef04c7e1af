"""Which mask ratio suits a user's data: the theory predicts the risk curve of each feature as the target in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2mae_theory.arguments import MAX_SAMPLES, array, check_memory, flag, seed_number, sequence, shown, whole
from r2mae_theory.arrays import Floats
from r2mae_theory.data import Table, clean
from r2mae_theory.epochs import checked_epochs
from r2mae_theory.errors import TheoryError
from r2mae_theory.masks import Fixed, Uniform
from r2mae_theory.targets import Targets
from r2mae_theory.validate import Validation, held_out_rows, validate_curve

DEFAULT_RATIOS = tuple(round(0.05 * k, 2) for k in range(1, 20))
_BOOTSTRAP_TARGETS = 100  # targets per bootstrap replicate: enough to average over, and keeps 1,000 features in seconds
_MAX_BOOTSTRAP = 10**5
_RANGE_WIDTHS = (0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Advice:
    """Predicted risk curves and what they recommend.

    A curve is the average over targets of the excess risk R, divided by the average null risk: 1 is predicting nothing.
    """

    ratios: Floats
    """Fixed ratios, shape (R,)."""
    curve: Floats
    """Normalised risk at each ratio, shape (R,)."""
    ranges: tuple[tuple[float, float], ...]
    range_curve: Floats
    """Normalised risk of each range, shape (len(ranges),)."""
    best_ratio: float
    best_range: tuple[float, float]
    """The best of `ranges`, all at least 0.2 wide; its risk is usually above that of the best fixed ratio."""
    bootstrap_ratios: Floats
    """The best ratio on each bootstrap replicate of the samples."""
    bootstrap_ranges: tuple[tuple[float, float], ...]
    near_best: tuple[float, float]
    """The smallest and largest ratio of the valley around the best whose risk is within 1 % of the best."""
    per_target: Floats
    """The best ratio of each target alone, shape (J,)."""
    targets: tuple[str, ...]
    n_samples: int
    epochs: float
    """How often each sample is seen; infinite for very often."""
    n_features: int
    notes: tuple[str, ...]
    """What was dropped from the data, and reasons not to rely on the advice."""
    validation: Validation | None = None

    @property
    def ratio_interval(self) -> tuple[float, float] | None:
        """The 5th and 95th percentile of the best ratio over bootstrap replicates; None without a bootstrap."""
        if not len(self.bootstrap_ratios):
            return None
        low, high = np.percentile(self.bootstrap_ratios, [5, 95])
        return float(low), float(high)


def advise(
    X: ArrayLike | Table,
    n_samples: int | None = None,
    ratios: Sequence[float] = DEFAULT_RATIOS,
    targets: str | Sequence[int] = "all",
    *,
    shrinkage: float | str = "auto",
    n_bootstrap: int = 20,
    validate: bool = False,
    seed: int = 0,
    epochs: float = 1,
) -> Advice:
    """Predict the risk of masked regression on the user's data, for fixed ratios and ranges.

    Args:
        X: samples by features, shape (n, p), or a `Table` from `read_table`.
        n_samples: rows of the planned training (default: as many as X has).
        ratios: fixed ratios to compare, each in (0, 1).
        targets: "all", or indices of the columns of X to predict.
        shrinkage: of the sample correlation matrix; "auto" is the Ledoit-Wolf estimate.
        n_bootstrap: bootstrap replicates over samples (0 for none); each uses at most 100 of the targets.
        validate: also fit real masked regressions and evaluate them on held-out rows, with `n_samples` rows each if at
            least a fifth of the rows is left to evaluate on; otherwise with fewer, which `Advice.notes` says.
        seed: seed for the bootstrap and the validation.
        epochs: how often the planned training sees each sample, each time with fresh masks; `math.inf` for very often.

    Raises:
        DataError: for unusable data; see `clean`.
        TheoryError: for arguments out of range.
    """
    table = X if isinstance(X, Table) else clean(X)
    n, p = table.X.shape
    size = n if n_samples is None else whole("n_samples", n_samples, 1, MAX_SAMPLES)
    grid = np.unique(array("ratios", ratios, None))
    if not (grid[0] > 0 and grid[-1] < 1):
        raise TheoryError(f"ratios must be above 0 and below 1, got {grid[0]:g} to {grid[-1]:g}")
    epochs = checked_epochs(epochs)
    n_bootstrap, validate = whole("n_bootstrap", n_bootstrap, 0, _MAX_BOOTSTRAP), flag("validate", validate)
    check_memory(f"the advice for {p} features", 6.0 * p**2)
    chosen, notes = _targets(table, targets)
    ranges = candidate_ranges(grid)
    masks = [*(Fixed(float(r)) for r in grid), *(Uniform(*pair) for pair in ranges)]
    rng = np.random.default_rng(seed_number(seed))

    def curves(rows: Floats, columns: NDArray[np.intp]) -> tuple[Floats, Floats]:
        model = Targets(standardise(rows), shrinkage, columns)
        risks = model.risks(masks, size, epochs)
        with np.errstate(divide="ignore", invalid="ignore"):  # null risk 0: shrunk to the identity
            return risks.mean(axis=1) / model.null.mean(), risks

    pooled, risks = curves(table.X, chosen)
    fixed, ranged = pooled[: len(grid)], pooled[len(grid) :]
    if not np.isfinite(fixed).any():
        raise TheoryError("the predicted risk diverges at every ratio given, or the features are unrelated")
    few = (
        chosen if len(chosen) <= _BOOTSTRAP_TARGETS else np.sort(rng.choice(chosen, _BOOTSTRAP_TARGETS, replace=False))
    )
    best_ratios, best_ranges = [], []
    for _ in range(n_bootstrap):
        rows = table.X[rng.integers(0, n, n)]
        if (rows.std(axis=0) == 0).any():  # a rare feature can be constant on a replicate
            continue
        again, _ = curves(rows, few)
        if not np.isfinite(again[: len(grid)]).any():
            continue
        best_ratios.append(grid[np.argmin(again[: len(grid)])])
        if ranges:
            best_ranges.append(ranges[int(np.argmin(again[len(grid) :]))])
    if len(best_ratios) < n_bootstrap:
        lost = n_bootstrap - len(best_ratios)
        notes.append(f"{lost} bootstrap replicates with a constant feature or no finite risk were skipped")
    best = int(np.argmin(fixed))
    validation = validate_curve(table.X, grid, size, chosen, shrinkage, rng, epochs) if validate else None
    if validation is not None and validation.n_samples != size:
        notes.append(
            f"validated at n = {validation.n_samples:,}, not at the planned {size:,}: "
            f"of {n:,} rows {held_out_rows(n, size):,} are held out"
        )
    return Advice(
        ratios=grid,
        curve=fixed,
        ranges=tuple(ranges),
        range_curve=ranged,
        best_ratio=float(grid[best]),
        best_range=ranges[int(np.argmin(ranged))] if ranges else (float(grid[best]), float(grid[best])),
        bootstrap_ratios=np.array(best_ratios),
        bootstrap_ranges=tuple(best_ranges),
        near_best=_valley(grid, fixed, best),
        per_target=grid[np.argmin(risks[: len(grid)], axis=0)],
        targets=tuple(table.names[k] for k in chosen),
        n_samples=size,
        epochs=epochs,
        n_features=p,
        notes=(*table.notes, *notes, *_doubts(n, p, grid, fixed)),
        validation=validation,
    )


def standardise(X: Floats) -> Floats:
    """Scale columns to mean 0 and variance 1, so that every feature counts the same and diag(Σ) = I.

    Args:
        X: samples by features, shape (n, p), clean (`clean`).
    """
    return (X - X.mean(axis=0)) / X.std(axis=0)


def candidate_ranges(ratios: Floats) -> list[tuple[float, float]]:
    """Return the ranges 0.2, 0.3 and 0.4 wide whose ends are among the ratios (to 1e-6)."""
    ends = {round(float(r), 6) for r in ratios}
    pairs = [(r, round(r + w, 6)) for w in _RANGE_WIDTHS for r in sorted(ends)]
    return [pair for pair in pairs if pair[1] in ends]


def _targets(table: Table, targets: str | Sequence[int]) -> tuple[NDArray[np.intp], list[str]]:
    if isinstance(targets, str):
        if targets != "all":
            raise TheoryError(f'targets must be "all" or column indices, got {shown(targets)}')
        return np.arange(table.X.shape[1]), []
    where = {int(column): k for k, column in enumerate(table.columns)}
    asked = [whole("a target column", k, 0, table.width - 1) for k in sequence("targets", targets)]
    if len(set(asked)) < len(asked):
        raise TheoryError(f"the target columns must be different, got {shown(asked)}")
    lost = [k for k in asked if k not in where]
    kept = np.array([where[k] for k in asked if k in where], dtype=int)
    if not len(kept):
        raise TheoryError(f"none of the target columns {shown(asked)} is usable")
    return kept, [f"{len(lost)} target columns are not usable: {lost[:5]}"] if lost else []


def _doubts(n: int, p: int, grid: Floats, curve: Floats) -> list[str]:
    """Return reasons not to rely on the best ratio of a curve from n samples of p features."""
    notes, best = [], int(np.argmin(curve))
    if n <= p:  # centring costs a sample
        notes.append(
            f"no more samples than features ({n:,} and {p:,}): the sample covariance is singular, "
            "and the coefficients depend on the shrinkage"
        )
    if curve[best] >= 1:
        notes.append(
            "the predicted risk is above the null risk at every ratio: "
            "at this size the linear model learns too little for its best ratio to mean much"
        )
    if len(grid) > 1 and best in (0, len(grid) - 1):
        notes.append(f"the best ratio is at the end of the grid: a {'larger' if best else 'smaller'} one may be better")
    return notes


def _valley(grid: Floats, curve: Floats, best: int) -> tuple[float, float]:
    """Return the ends of the stretch around the best ratio whose risk is within 1 % of the best."""
    low = high = best
    while low > 0 and curve[low - 1] <= 1.01 * curve[best]:
        low -= 1
    while high + 1 < len(grid) and curve[high + 1] <= 1.01 * curve[best]:
        high += 1
    return float(grid[low]), float(grid[high])
