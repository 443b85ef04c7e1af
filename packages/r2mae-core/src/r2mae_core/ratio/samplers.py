"""The paper's mask-ratio samplers: which fraction is hidden at step t of T (section 4; R2MAE is `Uniform`)."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from r2mae_core.lab.typing import override
from r2mae_core.ratio.protocol import (
    MaskRatioSampler,
    RatioSampler,
    check_ratio,
    check_ratios,
    check_seed,
    check_step,
    inner_samplers,
    shown,
    value_at,
)
from r2mae_core.ratio.randomness import uniform_draw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Fixed(RatioSampler):
    """The same ratio at every step.

    Raises:
        ValueError: the ratio is not a number in [0, 1].
    """

    ratio: float
    """Fraction hidden, in [0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", check_ratio(self.ratio, "ratio"))

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        return self.ratio

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        return self.ratio, self.ratio

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        return self.ratio

    @override
    def describe(self) -> str:
        return f"fixed at {self.ratio:g}"


class RangeSampler(RatioSampler):
    """Base of the samplers that spread a density over a range [low, high], whose ends may be samplers themselves.

    Subclasses are dataclasses with the fields `low`, `high` and `seed`, and give the density of the unit interval.
    """

    low: float | RatioSampler
    high: float | RatioSampler
    seed: int

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("low", "high"):
            value = getattr(self, name)
            if not isinstance(value, MaskRatioSampler):
                object.__setattr__(self, name, check_ratio(value, name))
            elif self.seed in {getattr(each, "seed", None) for each in (value, *inner_samplers(value))}:
                # One seed would give both levels the same draw, and the product of the two is not of this density.
                raise ValueError(f"the {name} bound {value!r} draws with this sampler's seed {self.seed}; give another")
        if not isinstance(self.low, MaskRatioSampler) and not isinstance(self.high, MaskRatioSampler):
            _check_order(self.low, self.high)

    @abstractmethod
    def unit_quantile(self, u: Any, step: int, total_steps: int | None) -> Any:
        """Return the quantile of the density on [0, 1]; 0 and 1 at the ends."""

    @abstractmethod
    def unit_mean(self, step: int, total_steps: int | None) -> float:
        """Return the mean of the density on [0, 1]."""

    @abstractmethod
    def unit_density(self, x: Any, step: int, total_steps: int | None) -> Any:
        """Return the density on [0, 1] at points that lie there."""

    def range(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        """Return the ends of the range at a step.

        Raises:
            ValueError: they are reversed there.
        """
        low, high = value_at(self.low, step, total_steps), value_at(self.high, step, total_steps)
        return _check_order(low, high, f" at step {step}")

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        low, high = self.range(step, total_steps)
        ratio = low + (high - low) * self.unit_quantile(u, step, total_steps)
        if isinstance(ratio, float):
            return min(ratio, high)
        import numpy as np

        return np.minimum(ratio, high)

    def density(self, x: Any, step: int, total_steps: int | None = None) -> "np.ndarray":
        """Return the probability density of the ratio at points `x`; 0 outside of the range.

        Raises:
            ValueError: the range is a single point there.
        """
        import numpy as np

        low, high = self.range(step, total_steps)
        if low == high:
            raise ValueError(f"at step {step} the range is the single ratio {low:g}, which has no density")
        unit = (np.asarray(x, dtype=np.float64) - low) / (high - low)
        inside = (unit >= 0) & (unit <= 1)
        return np.where(inside, self.unit_density(np.where(inside, unit, 0.5), step, total_steps), 0.0) / (high - low)

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        low = self.low.bounds(step, total_steps)[0] if isinstance(self.low, MaskRatioSampler) else self.low
        high = self.high.bounds(step, total_steps)[1] if isinstance(self.high, MaskRatioSampler) else self.high
        return low, high

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        low, high = (
            bound.mean(step, total_steps) if isinstance(bound, MaskRatioSampler) else bound
            for bound in (self.low, self.high)
        )
        return low + (high - low) * self.unit_mean(step, total_steps)

    def _range_text(self) -> str:
        return f"from {shown(self.low)} to {shown(self.high)}, drawn at every step (seed {self.seed})"


def _check_order(low: float, high: float, where: str = "") -> tuple[float, float]:
    if low > high:
        raise ValueError(f"low must not exceed high, got low={low!r}, high={high!r}{where}")
    return low, high


@dataclass(frozen=True)
class Uniform(RangeSampler):
    """A fresh draw from U(low, high) at every step: R2MAE. `Uniform(0, 1)` is MDLM's training phase.

    A bound may itself be a sampler: `Uniform(0.05, LinearDecay(0.55, 0.05))` is R2MAE + Dynamic.

    Raises:
        ValueError: a bound is not in [0, 1], the bounds are reversed, or a random bound shares this sampler's seed.
    """

    low: float | RatioSampler
    """Lower bound: a number or a sampler."""
    high: float | RatioSampler
    """Upper bound: a number or a sampler."""
    seed: int = 0
    """Seed of the draws; equal seeds give equal ratios on every machine."""

    @override
    def unit_quantile(self, u: Any, step: int, total_steps: int | None) -> Any:
        return u

    @override
    def unit_mean(self, step: int, total_steps: int | None) -> float:
        return 0.5

    @override
    def unit_density(self, x: Any, step: int, total_steps: int | None) -> Any:
        return 1.0

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        low, high = (
            bound.mean(step, total_steps) if isinstance(bound, MaskRatioSampler) else bound
            for bound in (self.low, self.high)
        )
        return (low + high) / 2

    @override
    def describe(self) -> str:
        return f"uniform {self._range_text()}"


@dataclass(frozen=True)
class Grid(RatioSampler):
    """A fresh draw from a short list of ratios, each equally likely: the R2MAE + CL schemes (paper, appendix A.3).

    Raises:
        ValueError: the list is empty, or a value is not in [0, 1].
    """

    values: tuple[float, ...]
    """The ratios; their order is the order of the columns of the curriculum weights."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        object.__setattr__(self, "values", check_ratios(self.values, "values"))

    @classmethod
    def spaced(cls, low: float, high: float, n: int = 10, seed: int = 0) -> "Grid":
        """Return `n` evenly spaced ratios from `low` to `high`, both ends included."""
        check_ratio(low, "low"), check_ratio(high, "high")
        if low > high or n < 2:
            raise ValueError(f"spaced needs low <= high and at least 2 values, got low={low}, high={high}, n={n}")
        return cls(tuple((low * (n - 1 - i) + high * i) / (n - 1) for i in range(n)), seed)

    def index(self, step: int, total_steps: int | None = None) -> int:
        """Return which of the values is drawn at this step: the column of the curriculum weights."""
        return int(uniform_draw(self.seed, check_step(step)) * len(self.values))

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        return self.values[self.index(step, total_steps)]

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        import numpy as np

        # In ascending order, as a quantile is: a draw per sample needs no columns.
        return np.sort(self.values)[np.minimum((np.asarray(u) * len(self.values)).astype(int), len(self.values) - 1)]

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        return min(self.values), max(self.values)

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        return math.fsum(self.values) / len(self.values)

    @override
    def describe(self) -> str:
        low, high = self.bounds(0)
        return f"one of {len(self.values)} ratios from {low:g} to {high:g}, drawn at every step (seed {self.seed})"


@dataclass(frozen=True)
class Curriculum(RatioSampler):
    """A sampler together with the schedule of its learned loss weights (CL-MAE; paper, appendix A.3).

    The ratios are those of `ratio`. The training loop also asks which column of the weight matrix to use
    (`column`) and by what to multiply the gradient of the weight head (`multiplier`).

    Raises:
        ValueError: the columns do not match the grid, or the ramp is not an increasing pair.
    """

    ratio: RatioSampler
    """Where the ratios come from: a `Grid` (R2MAE + CL) or a `Fixed` one (plain CL, always the first column)."""
    n_columns: int = 10
    """K, the columns of the weight matrix."""
    k0: bool = False
    """Keep the multiplier at +1 (the paper's k = 0, an easy mask) instead of letting it fall to -1 (easy to hard)."""
    freeze_steps: int = 5000
    """The head learns nothing for so many steps, and every weight is 1."""
    ramp: tuple[int, int] | None = None
    """First and last step of the fall from +1 to -1; None: see `falls_from`."""
    falls_from: Literal["thaw", "start"] = "thaw"
    """Without a ramp, the fall ends with the last step, and begins when the head does ("thaw": the paper's "throughout
    its training", of the head), or with the first step of all ("start": the head thaws below +1)."""

    def __post_init__(self) -> None:
        if self.falls_from not in ("thaw", "start"):
            raise ValueError(f"falls_from must be thaw or start, got {self.falls_from!r}")
        if self.n_columns < 1 or self.freeze_steps < 0:
            raise ValueError(f"n_columns must be positive and freeze_steps not negative, got {self!r}")
        if isinstance(self.ratio, Grid) and len(self.ratio.values) != self.n_columns:
            raise ValueError(f"{len(self.ratio.values)} grid values need as many columns, got {self.n_columns}")
        if self.ramp is not None:
            object.__setattr__(self, "ramp", tuple(self.ramp))
            if len(self.ramp) != 2 or self.ramp[0] >= self.ramp[1]:
                raise ValueError(f"ramp must be (first step, later step), got {self.ramp!r}")

    def column(self, step: int, total_steps: int | None = None) -> int:
        """Return the column of the weight matrix that belongs to this step's ratio."""
        return self.ratio.index(step, total_steps) if isinstance(self.ratio, Grid) else 0

    def multiplier(self, step: int, total_steps: int | None = None) -> float:
        """Return m(t), the factor on the gradient of the weight head: 0 while frozen, then +1 falling to -1."""
        if step < self.freeze_steps:
            return 0.0
        if self.k0:
            return 1.0
        if self.ramp is None and (total_steps is None or total_steps < 1):
            raise ValueError(f"a falling multiplier must know the length of the training: total_steps is {total_steps}")
        start = self.freeze_steps if self.falls_from == "thaw" else 0
        first, last = self.ramp or (start, int(total_steps or 1) - 1)
        return 1.0 - 2.0 * min(max((step - first) / max(last - first, 1), 0.0), 1.0)

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        return self.ratio.sample(step, total_steps)

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        raise ValueError("a curriculum has one column of weights for each step's ratio, and cannot draw per sample")

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        return self.ratio.bounds(step, total_steps)

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        return self.ratio.mean(step, total_steps)

    @override
    def describe(self) -> str:
        goal = "an easy mask" if self.k0 else "easy to hard"
        return f"{self.ratio.describe()}, with learned loss weights ({goal})"


def has_quantile(sampler: Any) -> bool:
    """Return whether a sampler can draw a ratio for each sample."""
    own = getattr(type(sampler), "quantile", RatioSampler.quantile)
    return own not in (RatioSampler.quantile, Curriculum.quantile)
