"""What an experiment takes (its size) and hands over (records and panels). Nothing here draws or prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Record = dict[str, float | int | str | None]


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
    panels: list[Panel] = field(default_factory=list)
    summary: list[Record] | None = None
    """A short table to print where the records are too many."""
    remark: str = ""


@dataclass(frozen=True)
class Size:
    """How much to run: the ratios that are simulated, repeats per ratio, and where random numbers start."""

    ratios: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(1, 20))
    repeats: int = 50
    table_seeds: tuple[int, ...] = (2, 12, 22, 32, 42)
    table_repeats: int = 50
    seed: int = 0
    n_jobs: int = 1


FULL = Size()
QUICK = Size(ratios=tuple(round(0.1 * k, 2) for k in range(1, 10)), repeats=8, table_seeds=(2,), table_repeats=10)
