"""Densities of the ratio beside the uniform one: what other masked models draw from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2mae_core.lab.typing import override
from r2mae_core.ratio.incomplete_beta import beta_quantile, log_beta
from r2mae_core.ratio.protocol import (
    RatioSampler,
    check_positive,
    check_ratios,
    check_seed,
)
from r2mae_core.ratio.samplers import RangeSampler

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Ramp:
    """A parameter that is no ratio, such as Beta's alpha, on a straight line over the training.

    Raises:
        ValueError: an end is not a positive number.
    """

    start: float
    """At the first step."""
    end: float
    """At the last step."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", check_positive(self.start, "start"))
        object.__setattr__(self, "end", check_positive(self.end, "end"))

    def value(self, step: int, total_steps: int | None) -> float:
        """Return the parameter at a step.

        Raises:
            ValueError: the length of the training is not known.
        """
        if total_steps is None or total_steps < 1:
            raise ValueError(f"Ramp must know the length of the training: total_steps is {total_steps}")
        here, last = min(step, total_steps - 1), max(total_steps - 1, 1)
        return (self.start * (last - here) + self.end * here) / last

    def describe(self) -> str:
        """Return one line for a person."""
        return f"{self.start:g} to {self.end:g}"


def _check_shape(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):  # as the command line's parser and YAML hold a Ramp
        try:
            return Ramp(**value)
        except TypeError:
            raise ValueError(f"{name} must be a number, or a Ramp with start and end, got {dict(value)!r}") from None
    return value if isinstance(value, Ramp) else check_positive(value, name)


def _shape_at(value: Any, step: int, total_steps: int | None) -> float:
    return value.value(step, total_steps) if isinstance(value, Ramp) else value


def _shape_text(value: Any) -> str:
    return f"({value.describe()})" if isinstance(value, Ramp) else f"{value:g}"


@dataclass(frozen=True)
class Power(RangeSampler):
    """P(ratio ≤ r) = ((r − low) / (high − low))^exponent: above 1 high ratios are likelier, below 1 low ones.

    Raises:
        ValueError: what `Uniform` refuses, or the exponent is not positive.
    """

    exponent: float | Ramp
    """Positive; 1 is uniform."""
    low: float | RatioSampler = 0.0
    """Lower bound: a number or a sampler."""
    high: float | RatioSampler = 1.0
    """Upper bound: a number or a sampler."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "exponent", _check_shape(self.exponent, "exponent"))

    @override
    def unit_quantile(self, u: Any, step: int, total_steps: int | None) -> Any:
        return u ** (1.0 / _shape_at(self.exponent, step, total_steps))

    @override
    def unit_mean(self, step: int, total_steps: int | None) -> float:
        exponent = _shape_at(self.exponent, step, total_steps)
        return exponent / (exponent + 1.0)

    @override
    def unit_density(self, x: Any, step: int, total_steps: int | None) -> Any:
        import numpy as np

        exponent = _shape_at(self.exponent, step, total_steps)
        with np.errstate(divide="ignore"):  # infinite at 0 below an exponent of 1
            return exponent * np.asarray(x) ** (exponent - 1.0)

    @override
    def describe(self) -> str:
        return f"power {_shape_text(self.exponent)} {self._range_text()}"


@dataclass(frozen=True)
class Arccos(RangeSampler):
    """cos(π/2 · u) of a uniform u, spread over a range: MaskGIT's and Muse's, which favours high ratios.

    The density on [0, 1] is 2 / (π √(1 − r²)), its mean 2/π.

    Raises:
        ValueError: what `Uniform` refuses.
    """

    low: float | RatioSampler = 0.0
    """Lower bound: a number or a sampler."""
    high: float | RatioSampler = 1.0
    """Upper bound: a number or a sampler."""
    seed: int = 0
    """Seed of the draws."""

    @override
    def unit_quantile(self, u: Any, step: int, total_steps: int | None) -> Any:
        import numpy as np

        return np.sin(np.pi / 2 * u)  # rises with u, as a quantile does: cos(π/2 · (1 − u))

    @override
    def unit_mean(self, step: int, total_steps: int | None) -> float:
        return 2.0 / math.pi

    @override
    def unit_density(self, x: Any, step: int, total_steps: int | None) -> Any:
        import numpy as np

        with np.errstate(divide="ignore"):  # infinite at 1
            return 2.0 / (np.pi * np.sqrt(1.0 - np.asarray(x) ** 2))

    @override
    def describe(self) -> str:
        return f"cosine of a uniform {self._range_text()}"


@dataclass(frozen=True)
class Beta(RangeSampler):
    """A Beta density, stretched over a range.

    Raises:
        ValueError: what `Uniform` refuses, or alpha or beta is not positive.
    """

    alpha: float | Ramp
    """Positive; above beta, high ratios are likelier."""
    beta: float | Ramp
    """Positive."""
    low: float | RatioSampler = 0.0
    """Lower bound: a number or a sampler."""
    high: float | RatioSampler = 1.0
    """Upper bound: a number or a sampler."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, _check_shape(getattr(self, name), name))

    def _shape(self, step: int, total_steps: int | None) -> tuple[float, float]:
        return _shape_at(self.alpha, step, total_steps), _shape_at(self.beta, step, total_steps)

    @override
    def unit_quantile(self, u: Any, step: int, total_steps: int | None) -> Any:
        return beta_quantile(u, *self._shape(step, total_steps))

    @override
    def unit_mean(self, step: int, total_steps: int | None) -> float:
        alpha, beta = self._shape(step, total_steps)
        return alpha / (alpha + beta)

    @override
    def unit_density(self, x: Any, step: int, total_steps: int | None) -> Any:
        import numpy as np

        alpha, beta = self._shape(step, total_steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.asarray(x)
            left = np.where(x > 0, (alpha - 1.0) * np.log(x), 0.0 if alpha == 1 else math.copysign(math.inf, 1 - alpha))
            right = np.where(
                x < 1, (beta - 1.0) * np.log1p(-x), 0.0 if beta == 1 else math.copysign(math.inf, 1 - beta)
            )
            return np.exp(left + right - log_beta(alpha, beta))

    @override
    def describe(self) -> str:
        return f"Beta({_shape_text(self.alpha)}, {_shape_text(self.beta)}) {self._range_text()}"


@dataclass(frozen=True)
class Choice(RatioSampler):
    """A fresh draw from a short list of ratios with weights: scGPT's has 0.25, 0.5 and 0.75, equally likely.

    Raises:
        ValueError: the list is empty, a value is not in [0, 1], or the weights are not as many positive numbers.
    """

    values: tuple[float, ...]
    """The ratios."""
    weights: tuple[float, ...] | None = None
    """How likely each is, relative to the others; None: all alike."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        object.__setattr__(self, "values", check_ratios(self.values, "values"))
        if self.weights is not None:
            if not isinstance(self.weights, list | tuple) or len(self.weights) != len(self.values):
                raise ValueError(f"weights must be as many as values, {len(self.values)}, got {self.weights!r}")
            weights = tuple(check_positive(weight, f"weights[{i}]") for i, weight in enumerate(self.weights))
            object.__setattr__(self, "weights", weights)

    def _sorted(self) -> tuple[list[float], list[float]]:
        """Return the values in ascending order, and the probability up to each."""
        pairs = sorted(zip(self.values, self.weights or (1.0,) * len(self.values), strict=True))
        weights = [weight for _, weight in pairs]
        total = math.fsum(weights)
        return [value for value, _ in pairs], [math.fsum(weights[: i + 1]) / total for i in range(len(weights))]

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        import numpy as np

        values, upto = self._sorted()
        return np.array(values)[np.searchsorted(upto[:-1], u, side="right")]

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        return min(self.values), max(self.values)

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        weights = self.weights or (1.0,) * len(self.values)
        return math.fsum(v * w for v, w in zip(self.values, weights, strict=True)) / math.fsum(weights)

    @override
    def describe(self) -> str:
        weights = "" if self.weights is None else f" with weights {', '.join(f'{w:g}' for w in self.weights)}"
        values = ", ".join(f"{value:g}" for value in self.values)
        return f"one of {values}{weights}, drawn at every step (seed {self.seed})"
