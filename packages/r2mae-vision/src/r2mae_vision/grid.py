"""A paper's figure as a grid of experiments: its ratios, how it is walked, and how it is reported."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from r2mae_core import (
    Fixed,
    RatioSampler,
    Record,
    RunFolder,
    Uniform,
    UserError,
    read_records,
    report,
    say,
    scheme_name,
    write_records,
)
from r2mae_vision.evaluate import RANK_BY
from r2mae_vision.options import Reproduce


def grid_samplers(config: Reproduce) -> dict[str, RatioSampler]:
    """Return name → sampler of every fixed ratio and every range of R2MAE.

    Raises:
        UserError: a ratio is not in [0, 1], or a range is reversed.
    """
    try:
        samplers = [*map(Fixed, config.ratios), *(Uniform(low, high) for low, high in config.ranges)]
    except ValueError as error:
        raise UserError(f"--ratios or --ranges: {error}") from None
    return {scheme_name(sampler, "vision"): sampler for sampler in samplers}


def cell_name(scheme: str, seed: int) -> str:
    """Return the folder of a scheme and a seed, such as "Uniform-0.1-0.5-0"."""
    return f"{re.sub(r'[ (),]+', '-', scheme).strip('-')}-{seed}"


def walk(run: RunFolder, cells: Mapping[str, Callable[[Path], list[Record]]]) -> list[Record]:
    """Do what is missing of a grid and return the records of its cells.

    A finished cell leaves its records in its own folder; the run's `results.json` holds those of all that are there.

    Args:
        run: the folder of the walk.
        cells: name → function from the cell's folder to its records.
    """
    records: list[Record] = []
    for i, (name, judge) in enumerate(cells.items(), 1):
        start, home = time.perf_counter(), run.path / name
        done = (home / "results.json").exists()
        if not done:
            write_records(home / "results.json", judge(home))
        records += read_records(home)
        run.write_results(list(_all_records(run)))
        say(f"[{i}/{len(cells)}] {name}: " + ("done before" if done else f"{time.perf_counter() - start:.0f} s"))
    return records


def report_cells(run: RunFolder, shown: list[Record], target: str, title: str) -> None:
    """Print a target's table and write it as `<target>.md`, beside `results.json` with all finished cells."""
    report(run, shown, RANK_BY, title, name=target)
    run.write_results(list(_all_records(run)))


def _all_records(run: RunFolder) -> Iterator[Record]:
    """Yield the records of every finished cell, also of those that this call did not ask for."""
    for file in sorted(run.path.glob("*/results.json")):
        yield from read_records(file)
