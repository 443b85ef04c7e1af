"""The paper's experiments on the linear model as data, and `reproduce`, which runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2mae_theory import figures
from r2mae_theory.experiment import FULL, Experiment, Size
from r2mae_theory.tables import reproduce_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


CHOICES = """Not in the paper's text, chosen here: p = 400, sigma = 0.5, n (200 and 1000 in 1A, 200 in 1B to 1D and 3,
100 and 200 in 1E), strengths and alignments of the spike, quantiles of the eigenvector, Beta(2, 5), p latent factors,
the block model's rank, eigenvalue and n, which of 1B and 1C varies the strength, and in the tables n = 100, the top
eigenvector (table 5), the one at quantile 0.9 (table 9) and a range of half-width 0.15."""


def _table5(size: Size, cache: Path | None) -> Experiment:
    return reproduce_table("table5", size, cache)


def _table9(size: Size, cache: Path | None) -> Experiment:
    return reproduce_table("table9", size, cache)


def _plain(run: Callable[[Size], Experiment]) -> Callable[[Size, Path | None], Experiment]:
    return lambda size, _: run(size)


EXPERIMENTS: dict[str, Callable[[Size, Path | None], Experiment]] = {
    "fig1a": _plain(figures.fig1a),
    "fig1b": _plain(figures.fig1b),
    "fig1c": _plain(figures.fig1c),
    "fig1d": _plain(figures.fig1d),
    "fig1e": _plain(figures.fig1e),
    "fig1f": _plain(figures.fig1f),
    "fig1g": _plain(figures.fig1g),
    "fig3": _plain(figures.fig3),
    "fig4": _plain(figures.fig4),
    "table5": _table5,
    "table9": _table9,
}


def reproduce(name: str, size: Size = FULL, cache: Path | None = None) -> Experiment:
    """Run one of `EXPERIMENTS`; the tables keep finished rows in `cache`, so that they can be resumed."""
    return EXPERIMENTS[name](size, cache)
