"""Figures: panels drawn with matplotlib, without a display."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from r2mae_core import RunFolder, new_figure
from r2mae_theory.experiment import Panel

_MAX_COLUMNS = 3


def save_figure(run: RunFolder, name: str, panels: list[Panel]) -> Path:
    """Draw panels on a grid, save it as `figures/<name>.pdf` and `.png`, and return the path of the latter."""
    columns = {4: 2, 8: 4}.get(len(panels), min(_MAX_COLUMNS, len(panels)))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.4 * columns, 3.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    run.save_figure(f"{name}.pdf", figure)
    return run.save_figure(f"{name}.png", figure)


def _panel(axes: Axes, panel: Panel) -> None:
    for k, series in enumerate(panel.series):
        label = series.label or None
        color = f"C{(k if series.color is None else series.color) % 10}"
        y = np.where(np.isfinite(np.asarray(series.y, float)), np.asarray(series.y, float), np.nan)
        if series.dots:
            axes.errorbar(series.x, y, series.error, fmt="o", ms=3, lw=0, elinewidth=0.8, color=color, label=label)
        else:
            axes.plot(series.x, y, color=color, lw=1.5, label=label)
    if panel.level is not None:
        axes.axhline(panel.level, color="0.5", lw=0.8, ls="--", zorder=0)
    if panel.log:
        axes.set_yscale("log")
    if panel.ymax is not None:
        axes.set_ylim(top=panel.ymax, bottom=None if panel.log else 0)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    if any(series.label for series in panel.series):
        axes.legend(fontsize=7, frameon=False)
