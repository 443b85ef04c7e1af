"""Schedules: the ratio as a function of the step, and phases that put samplers one after another."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from r2mae_core.lab.typing import override
from r2mae_core.ratio.protocol import (
    MaskRatioSampler,
    RatioSampler,
    check_positive,
    check_ratio,
    check_ratios,
    check_step,
)
from r2mae_core.ratio.samplers import Fixed, has_quantile


class Schedule(RatioSampler):
    """Base of the schedules: nothing is drawn. A subclass gives `value`."""

    @abstractmethod
    def value(self, step: int, total_steps: int | None) -> float:
        """Return the ratio of a step."""

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        return self.value(check_step(step), total_steps)

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        value = self.value(check_step(step), total_steps)
        return value, value

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        return self.value(check_step(step), total_steps)


def position(name: str, step: int, total_steps: int | None) -> tuple[int, int]:
    """Return a step and the last step; a step beyond the end stays there.

    Raises:
        ValueError: the length of the training is not known.
    """
    if total_steps is None or total_steps < 1:
        raise ValueError(f"{name} must know the length of the training: total_steps is {total_steps}")
    return min(step, total_steps - 1), total_steps - 1


def between(start: float, end: float, part: float) -> float:
    """Return the ratio at a part of the way: exactly the ends at 0 and 1, and never beyond them by rounding."""
    value = start * (1.0 - part) + end * part
    return min(max(value, min(start, end)), max(start, end))


def check_spans(spans: Any, n: int) -> tuple[float, ...]:
    """Return the lengths of the parts of a training.

    Raises:
        ValueError: their number is wrong, or one is not positive.
    """
    if not isinstance(spans, list | tuple) or len(spans) != n:
        raise ValueError(f"spans must be a list of {n} lengths, one for each part, got {spans!r}")
    return tuple(check_positive(span, f"spans[{i}]") for i, span in enumerate(spans))


@dataclass(frozen=True)
class LinearDecay(Schedule):
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
        object.__setattr__(self, "start", check_ratio(self.start, "start"))
        object.__setattr__(self, "end", check_ratio(self.end, "end"))
        if self.stages is not None and self.stages < 1:
            raise ValueError(f"stages must be at least 1, got {self.stages}")

    @override
    def value(self, step: int, total_steps: int | None) -> float:
        here, last = position("LinearDecay", step, total_steps)
        if self.stages is not None:
            here, last = here * self.stages // (last + 1), self.stages - 1
        if last == 0:
            return self.start
        return between(self.start, self.end, here / last)

    @override
    def describe(self) -> str:
        held = f", held within each of {self.stages} stages" if self.stages is not None else ""
        return f"linear from {self.start:g} to {self.end:g}{held}"


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `start` at the first step to `end` at the last: slow at both ends.

    Raises:
        ValueError: an end is not in [0, 1], or the sampler is asked without `total_steps`.
    """

    start: float
    """Ratio at the first step."""
    end: float
    """Ratio at the last step."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", check_ratio(self.start, "start"))
        object.__setattr__(self, "end", check_ratio(self.end, "end"))

    @override
    def value(self, step: int, total_steps: int | None) -> float:
        here, last = position("Cosine", step, total_steps)
        return between(self.start, self.end, (1.0 - math.cos(math.pi * here / max(last, 1))) / 2)

    @override
    def describe(self) -> str:
        return f"half a cosine from {self.start:g} to {self.end:g}"


@dataclass(frozen=True)
class Slope(Schedule):
    """A stated change per step until a bound, whatever the length of the training.

    `Slope(0.5, -0.4 / 300_000, 0.1)` is the paper's Dynamic MR for the lung atlas: 1/300000 of the range a step (C.8).

    Raises:
        ValueError: a ratio is not in [0, 1], or the slope is zero or leads away from the bound.
    """

    start: float
    """Ratio at the first step."""
    per_step: float
    """What is added at every step; negative: it falls."""
    bound: float
    """Where it stops."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", check_ratio(self.start, "start"))
        object.__setattr__(self, "bound", check_ratio(self.bound, "bound"))
        slope = self.per_step
        if isinstance(slope, bool) or not isinstance(slope, int | float) or not 0 < abs(slope) < math.inf:
            raise ValueError(f"per_step must be a number other than 0, got {slope!r}")
        object.__setattr__(self, "per_step", float(slope))
        if (self.bound - self.start) * slope < 0:
            raise ValueError(
                f"a slope of {slope:g} a step leads from {self.start:g} away from the bound {self.bound:g}"
            )

    @override
    def value(self, step: int, total_steps: int | None) -> float:
        value = self.start + self.per_step * step
        return max(value, self.bound) if self.per_step < 0 else min(value, self.bound)

    @override
    def describe(self) -> str:
        return f"from {self.start:g} by {self.per_step:g} a step to {self.bound:g}"


@dataclass(frozen=True)
class PiecewiseLinear(Schedule):
    """Straight lines between ratios, over parts of the training of any lengths.

    Raises:
        ValueError: a ratio is not in [0, 1], a span is not positive, there is not one span between each two ratios, or
            the sampler is asked without `total_steps`.
    """

    values: tuple[float, ...]
    """The ratio at the first step, at every corner, and at the last step."""
    spans: tuple[float, ...]
    """Relative lengths of the parts between them: percents, steps or tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", check_ratios(self.values, "values", 2))
        object.__setattr__(self, "spans", check_spans(self.spans, len(self.values) - 1))

    @override
    def value(self, step: int, total_steps: int | None) -> float:
        here, last = position("PiecewiseLinear", step, total_steps)
        total, at, before = math.fsum(self.spans), here / max(last, 1), 0.0
        for i, span in enumerate(self.spans):
            share = span / total
            if at < before + share:
                part = min(max((at - before) / share, 0.0), 1.0)
                return between(self.values[i], self.values[i + 1], part)
            before += share
        return self.values[-1]

    @override
    def describe(self) -> str:
        total = math.fsum(self.spans)
        parts = (f"to {v:g} in {s / total:.3g} of it" for v, s in zip(self.values[1:], self.spans, strict=True))
        return f"linear over the training, from {self.values[0]:g} {', '.join(parts)}"


@dataclass(frozen=True)
class Phases(RatioSampler):
    """Samplers one after another, over parts of the training of any lengths.

    Each sees its own part as a whole training, so a schedule runs through within its phase. With numbers it is
    piecewise constant, as mmBERT's 30 → 15 → 5 %: `Phases((0.3, 0.15, 0.05), (74, 22, 4))`; a warm-up is
    `Phases((LinearDecay(0.05, 0.3), Uniform(0.2, 0.4)), (0.1, 0.9))`, a hold `Phases((0.4, LinearDecay(0.4, 0.1)), …)`.

    Raises:
        ValueError: there is no phase, a number is not in [0, 1], the spans are not as many positive numbers as there
            are phases, or the sampler is asked without `total_steps`.
    """

    phases: tuple[float | RatioSampler, ...]
    """Numbers or samplers."""
    spans: tuple[float, ...]
    """Their relative lengths: percents, steps or tokens."""

    def __post_init__(self) -> None:
        if not isinstance(self.phases, list | tuple) or not self.phases:
            raise ValueError(f"phases must be a list of numbers and samplers, got {self.phases!r}")
        phases = tuple(
            phase if isinstance(phase, MaskRatioSampler) else check_ratio(phase, f"phases[{i}]")
            for i, phase in enumerate(self.phases)
        )
        object.__setattr__(self, "phases", phases)
        object.__setattr__(self, "spans", check_spans(self.spans, len(phases)))

    def phase(self, step: int, total_steps: int | None) -> tuple[Any, int, int]:
        """Return the phase of a step, the step within it, and its steps."""
        here, last = position("Phases", check_step(step), total_steps)
        total, first = math.fsum(self.spans), 0
        for i, phase in enumerate(self.phases):
            end = round((last + 1) * (math.fsum(self.spans[: i + 1]) / total))
            if here < end:
                return phase if isinstance(phase, MaskRatioSampler) else Fixed(phase), here - first, end - first
            first = end
        raise AssertionError("the last phase ends with the training")

    @override
    def seed_at(self, step: int, total_steps: int | None = None) -> int | None:
        phase, here, length = self.phase(step, total_steps)
        return phase.seed_at(here, length) if isinstance(phase, RatioSampler) else None

    @override
    def sample(self, step: int, total_steps: int | None = None) -> float:
        phase, here, length = self.phase(step, total_steps)
        # The draw belongs to the step of the training: two phases with one seed do not repeat each other's draws.
        return super().sample(step, total_steps) if has_quantile(phase) else phase.sample(here, length)

    @override
    def quantile(self, u: Any, step: int, total_steps: int | None = None) -> Any:
        phase, here, length = self.phase(step, total_steps)
        if not has_quantile(phase):
            raise ValueError(f"the phase {phase!r} has no quantile, so it cannot draw a ratio for each sample")
        return phase.quantile(u, here, length)

    @override
    def bounds(self, step: int, total_steps: int | None = None) -> tuple[float, float]:
        phase, here, length = self.phase(step, total_steps)
        return phase.bounds(here, length)

    @override
    def mean(self, step: int, total_steps: int | None = None) -> float:
        phase, here, length = self.phase(step, total_steps)
        return phase.mean(here, length)

    @override
    def describe(self) -> str:
        total = math.fsum(self.spans)
        parts = (
            f"{phase.describe() if isinstance(phase, MaskRatioSampler) else format(phase, 'g')} for {span / total:.3g}"
            for phase, span in zip(self.phases, self.spans, strict=True)
        )
        return f"{', then '.join(parts)} of the training"
