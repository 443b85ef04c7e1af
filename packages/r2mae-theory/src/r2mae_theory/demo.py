"""`r2mae-theory demo`: figures 1A to 1C, simulated dots on predicted lines."""

import time

from r2mae_core import RunFolder, check_bounds, open_run, page_line, resolved, say, stamped, write_text
from r2mae_theory import figures
from r2mae_theory.experiment import Size, ratio_grid
from r2mae_theory.options import Demo
from r2mae_theory.plots import save_figure
from r2mae_theory.rows import markdown_table, text_table, write_rows


def demo(config: Demo) -> RunFolder:
    """Run figures 1A to 1C at a tenth of the ratios, print the table, draw them in one, and return the run folder."""
    check_bounds(config)
    with open_run("r2mae-theory", "demo", config.out, resolved(config)) as run:
        start = time.perf_counter()
        size = Size(ratio_grid(0.1), config.repeats, seed=config.seed)
        parts = [part(size) for part in (figures.fig1a, figures.fig1b, figures.fig1c)]
        table = [line for part in parts for line in part.table]
        say(text_table(table))
        write_text(run.path / "table.md", markdown_table(table))
        write_rows(run.path / "curves.csv", [row for part in parts for row in part.rows])
        figure = save_figure(run, "demo", [panel for part in parts for panel in part.panels])
        run.write_results(stamped((record for part in parts for record in part.records), "cpu"))
        say(f"Figure: {figure}\nRun folder: {run.path} ({time.perf_counter() - start:.0f} s)")
        say(page_line("r2mae-theory", run.path))
        return run
