"""What a mask-ratio sampler is: the protocol that a training loop needs, and the base of the built-in ones.

A sampler is a pure function of (seed, step). It has no state to save, so every rank, every worker and every resumed
run draws the same ratio at the same step. Whatever is random in it is one number u, uniform on [0, 1), which
`quantile` turns into a ratio: one u for a step, or one for each sample of the step.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from r2mae_core.ratio.randomness import uniform_draw, uniform_draws

if TYPE_CHECKING:
    import numpy as np


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
    A subclass gives `quantile` and has, if it draws, a field `seed`; or it gives `sample` and cannot draw per sample.
    """

    def sample(self, step: int, total_steps: int | None = None) -> float:
        """Return the mask ratio in [0, 1] of optimizer step `step` (from 0) of `total_steps`."""
        seed = self.seed_at(check_step(step), total_steps)
        return float(self.quantile(0.5 if seed is None else uniform_draw(seed, step), step, total_steps))

    def samples(self, step: int, total_steps: int | None = None, *, n: int, first: int = 0) -> "np.ndarray":
        """Return the ratios of `n` samples of a step: each has one of its own (`ratio_per="sample"`).

        Args:
            step: the optimizer step, from 0.
            total_steps: steps of the whole training.
            n: how many samples.
            first: the place of the first of them in the step's global batch. A sample's ratio depends on (seed, step,
                place) alone, so it does not matter how the batch is divided over ranks and micro-batches.

        Returns:
            (n,) float64; where nothing is random, n times the step's ratio.

        Raises:
            ValueError: the sampler has no `quantile`.
        """
        import numpy as np

        seed = self.seed_at(check_step(step), total_steps)
        draws = np.full(n, 0.5) if seed is None else uniform_draws(seed, step, n, first)
        return np.array(np.broadcast_to(self.quantile(draws, step, total_steps), n), dtype=np.float64)

    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        """Return the ratio that a fraction `u` of the draws at this step do not exceed.

        Args:
            u: in [0, 1], a number or an array.
            step: the optimizer step, from 0.
            total_steps: steps of the whole training.

        Raises:
            ValueError: the sampler has no such function.
        """
        raise ValueError(f"{type(self).__name__} has no quantile, so it cannot draw a ratio for each sample")

    def seed_at(self, step: int, total_steps: int | None = None) -> int | None:
        """Return the seed of the draws at this step; None: nothing is drawn."""
        return getattr(self, "seed", None)

    @abstractmethod
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        """Return the smallest and the largest ratio that `sample` can return at this step."""

    @abstractmethod
    def mean(self, step: int, total_steps: int | None = None) -> float:
        """Return the expected ratio at this step."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line for a person."""


def check_ratio(value: Any, name: str) -> float:
    """Return a number in [0, 1] as a float.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:  # NaN fails the chain
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def check_positive(value: Any, name: str) -> float:
    """Return a positive, finite number as a float.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def check_ratios(values: Any, name: str, n: int = 1) -> tuple[float, ...]:
    """Return several numbers in [0, 1].

    Raises:
        ValueError: there are fewer than `n`, or one is not in [0, 1].
    """
    if not isinstance(values, list | tuple) or len(values) < n:
        raise ValueError(f"{name} must be a list of at least {n} {'ratio' if n == 1 else 'ratios'}, got {values!r}")
    return tuple(check_ratio(value, f"{name}[{i}]") for i, value in enumerate(values))


def check_seed(seed: int) -> None:
    """Refuse a seed that is no integer.

    Raises:
        ValueError: it is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")


def check_step(step: int) -> int:
    """Return the step.

    Raises:
        ValueError: it is negative.
    """
    if step < 0:
        raise ValueError(f"step counts from 0, got {step}")
    return step


def inner_samplers(sampler: Any) -> Iterator[Any]:
    """Yield the samplers that a sampler holds, at every depth."""
    if is_dataclass(sampler):
        for field in fields(sampler):
            value = getattr(sampler, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, MaskRatioSampler):
                    yield item
                    yield from inner_samplers(item)


def is_random(sampler: Any) -> bool:
    """Return whether a sampler draws anything."""
    return any(hasattr(each, "seed") for each in (sampler, *inner_samplers(sampler)))


def value_at(parameter: Any, step: int, total_steps: int | None) -> float:
    """Return a parameter of a sampler at a step: a number, or what a sampler in its place gives."""
    return parameter.sample(step, total_steps) if isinstance(parameter, MaskRatioSampler) else parameter


def shown(parameter: Any) -> str:
    """Return a parameter of a sampler for a person."""
    return f"({parameter.describe()})" if isinstance(parameter, MaskRatioSampler) else f"{parameter:g}"
