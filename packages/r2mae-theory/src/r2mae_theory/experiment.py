"""The input of an experiment (its size) and its output (records, rows and panels). Nothing here draws or prints."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from r2mae_core import Record
from r2mae_theory.arguments import number
from r2mae_theory.rows import Row

MIN_STEP = 0.001
"""Finest grid of ratios."""


@dataclass(frozen=True)
class Series:
    """One curve: a line, or dots with error bars (standard deviations, as in the paper)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    dots: bool = False
    color: int | None = None
    """Index into the colour cycle, so that dots and their line match; None takes the next colour."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    xlabel: str
    ylabel: str
    series: list[Series]
    level: float | None = None
    """A horizontal line, such as the null risk."""
    ymax: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Experiment:
    """The outcome of one figure or table of the paper."""

    name: str
    records: list[Record]
    rows: list[Row]
    """One for each point."""
    panels: list[Panel] = field(default_factory=list)
    summary: list[Row] | None = None
    """A short table to print if there are too many rows."""
    remark: str = ""

    @property
    def table(self) -> list[Row]:
        """The table to print."""
        return self.rows if self.summary is None else self.summary


def ratio_grid(step: float) -> tuple[float, ...]:
    """Return the multiples of `step` inside (0, 1).

    Raises:
        TheoryError: for a step below 0.001 or not below 1.
    """
    step = number("the step between ratios", step, least=MIN_STEP, below=1)
    return tuple(round(step * k, 6) for k in range(1, int((1 - 1e-9) / step) + 1))


@dataclass(frozen=True)
class Size:
    """How much to run: the ratios to simulate, repeats per ratio, and seeds."""

    ratios: tuple[float, ...] = ratio_grid(0.05)
    repeats: int = 50
    table_seeds: tuple[int, ...] = (2, 12, 22, 32, 42)
    seed: int = 0
    n_jobs: int = 1


FULL = Size()
