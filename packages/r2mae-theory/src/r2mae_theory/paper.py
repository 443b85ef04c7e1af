"""The paper's experiments on the linear model as data, and `reproduce`, which walks them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2mae_theory import covariance as models
from r2mae_theory import figures
from r2mae_theory.commands import say
from r2mae_theory.curve import check_simulation
from r2mae_theory.errors import TheoryError
from r2mae_theory.experiment import FULL, Experiment, Size, ratio_grid
from r2mae_theory.files import write_text
from r2mae_theory.plots import draw
from r2mae_theory.records import read_records, write_records
from r2mae_theory.rows import csv_text, markdown_table, text_table
from r2mae_theory.run_folder import open_run, stamped
from r2mae_theory.simulate import simulate_risk
from r2mae_theory.tables import GRID, TABLES, reproduce_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from r2mae_theory.options import Reproduce
    from r2mae_theory.run_folder import RunFolder


CHOICES = """Not in the paper's text, chosen here: p = 400, sigma = 0.5, n (200 and 1000 in 1A, 200 in 1B to 1D and 3,
100 and 200 in 1E), strengths and alignments of the spike, quantiles of the eigenvector, Beta(2, 5), p latent factors,
the block model's rank, eigenvalue and n, which of 1B and 1C varies the strength, and in the tables n = 100, the top
eigenvector (table 5), the one at quantile 0.9 (table 9) and a range of half-width 0.15."""


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: what draws it, and how many curves it simulates."""

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


def run_experiment(name: str, size: Size = FULL, cache: Path | None = None) -> Experiment:
    """Run one of `EXPERIMENTS`; the tables keep finished rows in `cache`, so that they can be resumed."""
    return FIGURES[name].run(size) if name in FIGURES else reproduce_table(name, size, cache)


def reproduce(config: Reproduce) -> RunFolder | None:
    """Walk what is missing of the target's experiments, and return the run folder (None: a dry run).

    An experiment is a folder in the run's: its table, its points, its records, the last of which say that it is done.
    """
    size = _size(config)
    names = EXPERIMENTS if config.target == "all" else (config.target,)
    if config.dry_run:
        _dry_run(names, size)
        return None
    run = open_run("reproduce", config)
    say(CHOICES)
    for i, name in enumerate(names, 1):
        home = run.path / name
        if (home / "results.json").exists():
            say(f"[{i}/{len(names)}] {name}: done before")
            continue
        start = time.perf_counter()
        outcome = run_experiment(name, size, home / "rows")
        say(f"\n{text_table(outcome.table)}\n{outcome.remark}".rstrip())
        write_text(home / "curves.csv", csv_text(outcome.rows))
        write_text(home / "table.md", f"{markdown_table(outcome.table)}\n{outcome.remark}".rstrip() + "\n")
        say(f"Figure: {run.save_figure(name, draw(outcome.panels))}")
        write_records(home / "results.json", stamped(outcome.records))
        say(f"[{i}/{len(names)}] {name}: {time.perf_counter() - start:.0f} s")
        _gather(run)
    _gather(run)
    tables = "\n".join(f"## {name}\n\n{(run.path / name / 'table.md').read_text(encoding='utf-8')}" for name in names)
    write_text(run.path / f"{config.target}.md", tables)
    say(f"\nDone: {run.path} (results.json, {config.target}.md)")
    return run


def _size(config: Reproduce) -> Size:
    check_simulation(config.repeats, config.workers)
    seeds = FULL.table_seeds
    if not 0 < config.step < 1 or not 1 <= config.n_seeds <= len(seeds):
        given = f"got {config.step} and {config.n_seeds}"
        raise TheoryError(f"the step must lie in (0, 1) and n_seeds between 1 and {len(seeds)}, {given}")
    return Size(ratio_grid(config.step), config.repeats, seeds[: config.n_seeds], config.seed, config.workers)


def _gather(run: RunFolder) -> None:
    """Write the records of every experiment that the folder holds."""
    done = [file for name in EXPERIMENTS if (file := run.path / name / "results.json").exists()]
    run.write_results(record for file in done for record in read_records(file))


def _dry_run(names: tuple[str, ...], size: Size) -> None:
    """Print how many training sets each experiment simulates, and what they take at the time of some of them."""
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
    return len(TABLES[name].printed) * len(size.table_seeds) * (len(GRID) + 1)
