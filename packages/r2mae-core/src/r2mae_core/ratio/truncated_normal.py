"""A normal density of the ratio, cut off at a range."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from r2mae_core.lab.typing import override
from r2mae_core.ratio.protocol import (
    MaskRatioSampler,
    RatioSampler,
    check_ratio,
    check_seed,
    is_random,
    shown,
    value_at,
)

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TruncatedNormal(RatioSampler):
    """A normal density cut off at a range: MAGE's has mean 0.55 and deviation 0.25 on [0.5, 1].

    Raises:
        ValueError: a parameter is out of range or draws by itself, the bounds are reversed or equal, or the normal has
            no mass between them.
    """

    mean_ratio: float | RatioSampler
    """Mean of the normal before it is cut: a number or a schedule."""
    sd: float | RatioSampler
    """Its standard deviation, in (0, 1]: a number or a schedule."""
    low: float | RatioSampler = 0.0
    """Lower bound: a number or a schedule."""
    high: float | RatioSampler = 1.0
    """Upper bound: a number or a schedule."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        names = ("mean_ratio", "sd", "low", "high")
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, MaskRatioSampler):
                object.__setattr__(self, name, check_ratio(value, name))
            elif is_random(value):
                raise ValueError(f"{name} of a truncated normal may follow a schedule, but not be drawn: {value!r}")
        if not any(isinstance(getattr(self, name), MaskRatioSampler) for name in names):
            self._parts(0, None)

    def _parts(self, step: int, total_steps: int | None) -> "_Cut":
        values = (value_at(p, step, total_steps) for p in (self.mean_ratio, self.sd, self.low, self.high))
        return _Cut(*values)

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        return self._parts(step, total_steps).quantile(u)

    def density(self, x: Any, step: int, total_steps: int | None = None) -> "np.ndarray":
        """Return the probability density of the ratio at points `x`; 0 outside of the range."""
        return self._parts(step, total_steps).density(x)

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        cut = self._parts(step, total_steps)
        return cut.low, cut.high

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        return self._parts(step, total_steps).mean()

    @override
    def describe(self) -> str:
        return (
            f"normal with mean {shown(self.mean_ratio)} and deviation {shown(self.sd)}, cut to {shown(self.low)} … "
            f"{shown(self.high)}, drawn at every step (seed {self.seed})"
        )


class _Cut:
    """A normal between two bounds. Where both lie above the mean, tails are computed mirrored, where they are exact."""

    def __init__(self, mean: float, sd: float, low: float, high: float) -> None:
        where = f"mean {mean:g}, deviation {sd:g}, bounds {low:g} and {high:g}"
        if not sd > 0:
            raise ValueError(f"sd must be positive, got {sd!r}")
        if not low < high:
            raise ValueError(f"low must be below high: {where}")
        self.centre, self.sd, self.low, self.high = mean, sd, low, high
        self.a, self.b = (low - mean) / sd, (high - mean) / sd
        self.flipped = self.a > 0
        first, last = (-self.b, -self.a) if self.flipped else (self.a, self.b)
        self.below, above = _normal_cdf(first), _normal_cdf(last)
        self.mass = above - self.below
        if not self.mass > 1e-290:
            raise ValueError(f"a normal with {where} has no mass there")

    def quantile(self, u: Any) -> Any:
        """Return the ratio that a fraction `u` of the draws do not exceed."""
        import numpy as np

        if isinstance(u, float | int):
            return self._one(float(u))
        return np.array([self._one(each) for each in np.asarray(u, dtype=np.float64).ravel()]).reshape(np.shape(u))

    def _one(self, u: float) -> float:
        if u <= 0:
            return self.low
        if u >= 1:
            return self.high
        p = self.below + (1.0 - u if self.flipped else u) * self.mass
        z = NormalDist().inv_cdf(min(max(p, 5e-324), 1.0 - 2.0**-53))
        value = self.centre + self.sd * (-z if self.flipped else z)
        return min(max(value, self.low), self.high)

    def density(self, x: Any) -> "np.ndarray":
        """Return the density at `x`, 0 outside of the bounds."""
        import numpy as np

        x = np.asarray(x, dtype=np.float64)
        z = (x - self.centre) / self.sd
        value = np.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * self.sd * self.mass)
        return np.where((x >= self.low) & (x <= self.high), value, 0.0)

    def mean(self) -> float:
        """Return the expected ratio."""
        value = self.centre + self.sd * (_normal_density(self.a) - _normal_density(self.b)) / self.mass
        return min(max(value, self.low), self.high)


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _normal_density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
