"""The paper's experiments on the linear model as data, and `reproduce`, which runs them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from r2mae_core import (
    Record,
    RunFolder,
    check_bounds,
    finished_records,
    open_run,
    page_line,
    read_text,
    resolved,
    say,
    stamped,
    walk_grid,
    write_text,
)
from r2mae_theory import covariance as models
from r2mae_theory import figures
from r2mae_theory.errors import TheoryError
from r2mae_theory.experiment import FULL, Experiment, Size, ratio_grid
from r2mae_theory.options import Reproduce
from r2mae_theory.plots import save_figure
from r2mae_theory.rows import markdown_table, text_table, write_rows
from r2mae_theory.simulate import simulate_risk
from r2mae_theory.tables import GRID, PROTOCOLS, TABLES, reproduce_table

CHOICES = """Not in the paper's text, chosen here: p = 400, sigma = 0.5, n (200 and 1000 in 1A, 200 in 1B to 1D and 3,
100 and 200 in 1E), strengths and alignments of the spike, quantiles of the eigenvector, Beta(1, 10), p latent factors,
the block model's rank, eigenvalue and n, which of 1B and 1C varies the strength, and in the tables n = 100, the top
eigenvector (table 5), the one at quantile 0.9 (table 9) and a range of half-width 0.05. The tables have two protocols:
as the paper states it, and coupled (one random number draws a row's ratio and lets it enter), with a control."""


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: the function that computes it, and how many curves it simulates."""

    run: Callable[[Size], Experiment]
    n_curves: int


FIGURES = {
    "fig1a": Figure(figures.fig1a, 2),
    "fig1b": Figure(figures.fig1b, 5),
    "fig1c": Figure(figures.fig1c, 4),
    "fig1d": Figure(figures.fig1d, 5),
    "fig1e": Figure(figures.fig1e, 36),
    "fig1f": Figure(figures.fig1f, 0),
    "fig1g": Figure(figures.fig1g, 3),
    "fig3": Figure(figures.fig3, 40),
    "fig4": Figure(figures.fig4, 9),
}
EXPERIMENTS = (*FIGURES, *TABLES)


def reproduce(config: Reproduce) -> RunFolder | None:
    """Run what is missing of the target's experiments, and return the run folder, or None after a dry run.

    Each experiment has a folder in that of the run, with its table, its points and its records.
    """
    size = _size(config)
    names = EXPERIMENTS if config.target == "all" else (config.target,)
    if config.dry_run:
        _dry_run(names, size)
        return None
    with open_run("r2mae-theory", "reproduce", config.out, resolved(config), free=("target",)) as run:
        say(CHOICES)
        cells = {name: partial(_reproduce_one, run, name, size) for name in names}
        walk_grid(run, cells, tidy=lambda _: finished_records(run, EXPERIMENTS))
        tables = "\n".join(f"## {name}\n\n{read_text(run.path / name / 'table.md')}" for name in names)
        write_text(run.path / f"{config.target}.md", tables)
        say(f"\nDone: {run.path} (results.json, {config.target}.md)")
        say(page_line("r2mae-theory", run.path))
        return run


def run_experiment(name: str, size: Size = FULL, cache: Path | None = None) -> Experiment:
    """Run one of `EXPERIMENTS`; the tables keep finished rows in `cache`, so that they can be resumed."""
    return FIGURES[name].run(size) if name in FIGURES else reproduce_table(name, size, cache)


def _reproduce_one(run: RunFolder, name: str, size: Size, home: Path) -> list[Record]:
    outcome = run_experiment(name, size, home / "rows")
    say(f"\n{text_table(outcome.table)}\n{outcome.remark}".rstrip())
    write_rows(home / "curves.csv", outcome.rows)
    write_text(home / "table.md", f"{markdown_table(outcome.table)}\n{outcome.remark}".rstrip() + "\n")
    say(f"Figure: {save_figure(run, name, outcome.panels)}")
    return stamped(outcome.records, "cpu")


def _size(config: Reproduce) -> Size:
    check_bounds(config)
    seeds = tuple(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise TheoryError(f"the seeds must be different numbers, at least one, got {list(seeds)}")
    return Size(ratio_grid(config.step), config.repeats, seeds, config.seed, config.workers)


def _dry_run(names: Sequence[str], size: Size) -> None:
    """Print how many training sets each experiment simulates, and an estimate of the time from simulating a few."""
    cov = models.spiked(400, 20.0, seed=0)
    start = time.perf_counter()
    simulate_risk(cov, cov.directions[:, 0], 0.5, 200, 0.5, 20)
    seconds = (time.perf_counter() - start) / 20
    total = 0
    for name in names:
        means = FIGURES[name].n_curves * len(size.ratios) if name in FIGURES else _n_entries(name, size)
        say(f"{name:7} {means:5,} means of {size.repeats} training sets")
        total += means * size.repeats
    say(f"{total:,} training sets, about {total * seconds / 60:.1f} min on one core of this machine")


def _n_entries(name: str, size: Size) -> int:
    return len(TABLES[name].printed) * len(size.table_seeds) * (len(GRID) + len(PROTOCOLS))
