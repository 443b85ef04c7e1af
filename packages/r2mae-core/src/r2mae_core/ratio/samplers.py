"""Mask-ratio samplers: which fraction of the input is hidden at step t of T (paper, section 4; R2MAE is `Uniform`).

A sampler is a pure function of (seed, step). It has no state to save, so every rank, every worker and every resumed
run draws the same ratio at the same step.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from typing_extensions import override

from r2mae_core.ratio.randomness import uniform_draw


@runtime_checkable
class MaskRatioSampler(Protocol):
    """What a training loop needs to know about a scheme. Any object with these four methods works."""

    def sample(self, step: int, total_steps: int | None = None) -> float:
        """Return the mask ratio in [0, 1] of optimizer step `step` (from 0) of `total_steps`."""
        ...

    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        """Return the smallest and the largest ratio that `sample` can return at this step."""
        ...

    def mean(self, step: int, total_steps: int | None = None) -> float:
        """Return the expected ratio at this step."""
        ...

    def describe(self) -> str:
        """Return one line for a person."""
        ...


class RatioSampler(ABC):
    """Base of the built-in samplers; the command line offers its subclasses by name.

    The subclasses are frozen dataclasses, so equality, `repr` and the round trip through plain config come for free.
    """

    @abstractmethod
    def sample(self, step: int, total_steps: int | None = None) -> float:
        """Return the mask ratio in [0, 1] of optimizer step `step` (from 0) of `total_steps`."""

    @abstractmethod
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        """Return the smallest and the largest ratio that `sample` can return at this step."""

    @abstractmethod
    def mean(self, step: int, total_steps: int | None = None) -> float:
        """Return the expected ratio at this step."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line for a person."""


def _check_ratio(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:  # NaN fails the chain
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")


def _check_step(step: int) -> int:
    if step < 0:
        raise ValueError(f"step counts from 0, got {step}")
    return step


@dataclass(frozen=True)
class Fixed(RatioSampler):
    """The same ratio at every step.

    Raises:
        ValueError: the ratio is not a number in [0, 1].
    """

    ratio: float
    """Fraction hidden, in [0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", _check_ratio(self.ratio, "ratio"))

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        _check_step(step)
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


@dataclass(frozen=True)
class LinearDecay(RatioSampler):
    """A straight line from `start` at the first step to `end` at the last (Dynamic MR in the paper's tables).

    Raises:
        ValueError: a bound is not in [0, 1], `stages` is below 1, or the sampler is asked without `total_steps`.
    """

    start: float
    """Ratio at the first step."""
    end: float
    """Ratio at the last step."""
    stages: int | None = None
    """Hold the ratio constant within each of so many equal stages (the paper's vision models: one per epoch)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _check_ratio(self.start, "start"))
        object.__setattr__(self, "end", _check_ratio(self.end, "end"))
        if self.stages is not None and self.stages < 1:
            raise ValueError(f"stages must be at least 1, got {self.stages}")

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        _check_step(step)
        if total_steps is None or total_steps < 1:
            raise ValueError(f"LinearDecay must know the length of the training: total_steps is {total_steps}")
        position, last = min(step, total_steps - 1), total_steps - 1
        if self.stages is not None:
            position, last = position * self.stages // total_steps, self.stages - 1
        if last == 0:
            return self.start
        # Written as a weighted mean so that both ends come out exactly.
        return (self.start * (last - position) + self.end * position) / last

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        value = self.sample(step, total_steps)
        return value, value

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        return self.sample(step, total_steps)

    @override
    def describe(self) -> str:
        held = f", held within each of {self.stages} stages" if self.stages is not None else ""
        return f"linear from {self.start:g} to {self.end:g}{held}"


@dataclass(frozen=True)
class Uniform(RatioSampler):
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

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        for name in ("low", "high"):
            value = getattr(self, name)
            if not isinstance(value, MaskRatioSampler):
                object.__setattr__(self, name, _check_ratio(value, name))
            elif getattr(value, "seed", None) == self.seed:
                # One seed would give both levels the same draw, and the product of the two is not uniform.
                raise ValueError(f"the {name} bound {value!r} draws with this sampler's seed {self.seed}; give another")
        if not isinstance(self.low, MaskRatioSampler) and not isinstance(self.high, MaskRatioSampler):
            self._check_order(self.low, self.high, "")

    @staticmethod
    def _check_order(low: float, high: float, where: str) -> tuple[float, float]:
        if low > high:
            raise ValueError(f"low must not exceed high, got low={low!r}, high={high!r}{where}")
        return low, high

    def _range(self, step: int, total_steps: int | None) -> tuple[float, float]:
        low, high = (
            bound.sample(step, total_steps) if isinstance(bound, MaskRatioSampler) else bound
            for bound in (self.low, self.high)
        )
        return self._check_order(low, high, f" at step {step}")

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        low, high = self._range(_check_step(step), total_steps)
        return min(low + (high - low) * uniform_draw(self.seed, step), high)

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        low = self.low.bounds(step, total_steps)[0] if isinstance(self.low, MaskRatioSampler) else self.low
        high = self.high.bounds(step, total_steps)[1] if isinstance(self.high, MaskRatioSampler) else self.high
        return low, high

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        low = self.low.mean(step, total_steps) if isinstance(self.low, MaskRatioSampler) else self.low
        high = self.high.mean(step, total_steps) if isinstance(self.high, MaskRatioSampler) else self.high
        return (low + high) / 2

    @override
    def describe(self) -> str:
        low, high = (
            f"({bound.describe()})" if isinstance(bound, MaskRatioSampler) else f"{bound:g}"
            for bound in (self.low, self.high)
        )
        return f"uniform from {low} to {high}, drawn at every step (seed {self.seed})"


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
        _check_seed(self.seed)
        values = tuple(_check_ratio(value, f"values[{i}]") for i, value in enumerate(self.values))
        if not values:
            raise ValueError("values must hold at least one ratio, got an empty list")
        object.__setattr__(self, "values", values)

    @classmethod
    def spaced(cls, low: float, high: float, n: int = 10, seed: int = 0) -> "Grid":
        """Return `n` evenly spaced ratios from `low` to `high`, both ends included."""
        _check_ratio(low, "low"), _check_ratio(high, "high")
        if low > high or n < 2:
            raise ValueError(f"spaced needs low <= high and at least 2 values, got low={low}, high={high}, n={n}")
        return cls(tuple((low * (n - 1 - i) + high * i) / (n - 1) for i in range(n)), seed)

    def index(self, step: int, total_steps: int | None = None) -> int:
        """Return which of the values is drawn at this step: the column of the curriculum weights."""
        return int(uniform_draw(self.seed, _check_step(step)) * len(self.values))

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        return self.values[self.index(step, total_steps)]

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
    """First and last step of the fall from +1 to -1; None: over the whole training."""

    def __post_init__(self) -> None:
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
        first, last = self.ramp if self.ramp is not None else (0, max(int(total_steps or 1) - 1, 1))
        return 1.0 - 2.0 * min(max((step - first) / (last - first), 0.0), 1.0)

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        return self.ratio.sample(step, total_steps)

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
