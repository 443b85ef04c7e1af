"""Every figure: panels to a matplotlib figure, drawn without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from r2mae_theory.experiment import Panel

_MAX_COLUMNS = 3


def draw(panels: list[Panel]) -> Figure:
    """Lay panels out on a grid without ragged ends where that is easy."""
    columns = {4: 2, 8: 4}.get(len(panels), min(_MAX_COLUMNS, len(panels)))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _panel(axes: Axes, panel: Panel) -> None:
    for k, series in enumerate(panel.series):
        color = f"C{(k if series.color is None else series.color) % 10}"
        y = np.where(np.isfinite(np.asarray(series.y, float)), np.asarray(series.y, float), np.nan)
        if series.dots:
            axes.errorbar(
                series.x,
                y,
                yerr=series.error,
                fmt="o",
                ms=3,
                lw=0,
                elinewidth=0.8,
                color=color,
                label=series.label or None,
            )
        else:
            axes.plot(series.x, y, color=color, lw=1.5, label=series.label or None)
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
