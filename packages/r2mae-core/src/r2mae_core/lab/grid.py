"""A grid of experiments, such as schemes × seeds: what is finished is not done again, and processes may share it."""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from r2mae_core.lab.errors import InterruptedTrainingError
from r2mae_core.lab.locks import BusyError, one_writer
from r2mae_core.lab.records import Record, read_records, write_records
from r2mae_core.lab.run_folder import RunFolder
from r2mae_core.lab.terminal import first_rank, say

Measure = Callable[[Path], Sequence[Record]]
"""Does a cell's work in its folder and returns what it measured."""


def cell_name(*parts: object) -> str:
    """Return the folder of a cell, such as "Uniform-0.1-0.5-0" for ("Uniform(0.1, 0.5)", 0)."""
    return re.sub(r"[ (),/\\]+", "-", "-".join(re.sub(r"\)$", "", str(part)) for part in parts)).strip("-")


def walk_grid(
    run: RunFolder,
    cells: Mapping[str, Measure],
    *,
    part: str = "",
    again: bool = False,
    tidy: Callable[[list[Record]], list[Record]] = lambda records: records,
) -> list[Record]:
    """Do what is missing of a grid, with a line for each cell, and return the records of these cells.

    A finished cell leaves its records in its own folder, `<run>/<cell>/results.json`; after each one, the run's own
    `results.json` holds those of all cells that are there, also of earlier calls. Several processes may walk one
    folder: a cell that another process is working on is left to it, and waited for at the end. The other ranks of a
    training on several devices join the work of each missing cell, and write nothing; such walks are not shared.

    Args:
        run: the folder of the grid.
        cells: name of the cell's folder → its work, which must itself resume where an earlier call was interrupted.
        part: subfolder of a cell that its results lie in, where several grids share the cells' models.
        again: do finished cells again, because their work knows what is missing.
        tidy: what the run's `results.json` makes of all records.
    """
    if not first_rank():
        for name, measure in cells.items():
            if again or not (run.path / name / part / "results.json").exists():
                measure(run.path / name / part)
        return []
    kept: dict[str, list[Record]] = {}
    waiting: list[str] = []
    for wait, names in ((False, list(cells)), (True, waiting)):
        for name in names:
            home, start = run.path / name / part, time.perf_counter()
            with claimed(home, wait=wait) as ours:
                if not ours:
                    waiting.append(name)
                    continue
                before = read_records(home) if (home / "results.json").exists() else None
                if again or before is None:
                    with telling_how_to_go_on(run):
                        records = cells[name](home)
                    write_records(home / "results.json", records)
                kept[name] = read_records(home)
            with run.summing_up():
                run.write_results(tidy(finished_records(run, cells, part)))
            took = "done before" if kept[name] == before else f"{time.perf_counter() - start:.0f} s"
            say(f"[{len(kept)}/{len(cells)}] {name}: {took}")
    return [record for name in cells for record in kept[name]]


@contextlib.contextmanager
def telling_how_to_go_on(run: RunFolder) -> Iterator[None]:
    """Let the message of an interrupted training name the command's own folder, not that of the training within it."""
    try:
        yield
    except InterruptedTrainingError:
        raise InterruptedTrainingError(f"interrupted; run the same command with --out {run.path} to go on") from None


def finished_records(run: RunFolder, first: Iterable[str] = (), part: str = "") -> list[Record]:
    """Return the records of all finished cells of a grid: those named first, in their order, then the others."""
    found = {file.parent for file in run.path.glob(f"*/{part}/results.json" if part else "*/results.json")}
    order = [home for name in first if (home := run.path / name / part) in found]
    return [record for home in [*order, *sorted(found - set(order))] for record in read_records(home)]


@contextlib.contextmanager
def claimed(home: Path, *, wait: bool) -> Iterator[bool]:
    """Keep other processes from a cell while the block runs, and give whether that succeeded."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(one_writer(home, wait=wait))
        except BusyError:
            ours = False
        else:
            ours = True
        yield ours
