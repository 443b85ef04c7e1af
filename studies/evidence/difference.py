"""Differences of means and their standard errors."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Mean of ours minus mean of theirs, positive where ours is better."""

    value: float
    error: float | None
    """Standard error sqrt(s₁²/n₁ + s₂²/n₂), of the two samples' own deviations; None where one of them is a single
    value, which has none."""
    n: int
    """Seeds of whichever has fewer."""

    @property
    def in_errors(self) -> float | None:
        """The difference in standard errors; None where there is no error to divide by."""
        return self.value / self.error if self.error else None


def difference(ours: Iterable[float], theirs: Iterable[float], *, less_is_better: bool = False) -> Difference:
    """Compare two samples, unpaired: seeds share data order and start, which makes the error larger than a pair's.

    Raises:
        ValueError: a sample is empty, or holds what is not finite.
    """
    one, two = list(ours), list(theirs)
    if not one or not two:
        raise ValueError("there is nothing to compare")
    if not all(map(math.isfinite, [*one, *two])):
        raise ValueError("NaN or infinite values have no mean to compare")
    value = statistics.fmean(one) - statistics.fmean(two)
    n = min(len(one), len(two))
    error = math.sqrt(statistics.variance(one) / len(one) + statistics.variance(two) / len(two)) if n > 1 else None
    return Difference(-value if less_is_better else value, error, n)


def best_ratio(fixed: Mapping[float, Mapping[int, float]], *, less_is_better: bool = False) -> float:
    """Return the fixed ratio with the best mean, the lower one of two that tie.

    Args:
        fixed: ratio → seed → value.
        less_is_better: whether small values are good.
    """
    sign = -1 if less_is_better else 1
    return max(sorted(fixed), key=lambda ratio: sign * statistics.fmean(fixed[ratio].values()))


def searched(fixed: Mapping[float, Mapping[int, float]], *, less_is_better: bool = False) -> list[float]:
    """Return for every seed the value at the ratio that is best on the *other* seeds: what a search would have given.

    The ratio that is best on all seeds is partly so by luck; this one has not seen the seed that judges it.

    Args:
        fixed: ratio → seed → value; the seeds that every ratio has are used.
        less_is_better: whether small values are good.
    """
    seeds = sorted(set.intersection(*(set(values) for values in fixed.values())))
    if len(seeds) < 2:
        return []
    found = []
    for seed in seeds:
        others = {ratio: {s: values[s] for s in seeds if s != seed} for ratio, values in fixed.items()}
        found.append(fixed[best_ratio(others, less_is_better=less_is_better)][seed])
    return found
