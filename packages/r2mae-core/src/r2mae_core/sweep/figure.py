"""The picture of a sweep."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2mae_core.lab.comparison import Direction
from r2mae_core.lab.figures import new_figure
from r2mae_core.sweep.arms import Arm, paper_range
from r2mae_core.sweep.curve import Curve, Point, fit_curve


def draw_curve(
    curve: Curve, found: Sequence[tuple[Point, int]], metric: str, direction: Direction, modality: str
) -> Any:
    """Return the figure: measurements, the curve over fixed ratios with two standard errors, and the ranges."""
    sign = 1 if direction == "max" else -1
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    fixed = [arm.low for arm in curve.arms if arm.low == arm.high]
    grid = np.linspace(min(fixed), max(fixed), 101)
    fine = fit_curve([point for point, _ in found], [Arm(float(r), float(r)) for r in grid])
    error = np.sqrt(np.diag(fine.cov))
    axes.plot(grid, sign * fine.mean, color="C0", label="fixed ratio")
    axes.fill_between(grid, sign * fine.mean - 2 * error, sign * fine.mean + 2 * error, color="C0", alpha=0.15, lw=0)
    default, best = paper_range(modality), curve.arms[curve.best]
    for i, arm in enumerate(curve.arms):
        if arm.low == arm.high:
            continue
        color = "C2" if arm == default else "C1"
        level, half = sign * curve.mean[i], 2 * np.sqrt(curve.cov[i, i])
        axes.hlines(level, arm.low, arm.high, color=color, lw=2, label="R2MAE's range" if arm == default else arm.name)
        axes.vlines((arm.low + arm.high) / 2, level - half, level + half, color=color, lw=1)
    full = [(p.arm, p.score) for p, _ in found if p.share == 1]
    middle = [(arm.low + arm.high) / 2 for arm, _ in full]
    axes.plot(middle, [sign * score for _, score in full], "k.", ms=4, alpha=0.6, label="one full training")
    axes.axvspan(best.low - 0.004, best.high + 0.004, color="C3", alpha=0.12, lw=0, label=f"recommended: {best.name}")
    axes.set_xlabel("mask ratio")
    axes.set_ylabel(metric)
    axes.set_xlim(0, 1)
    axes.legend(fontsize=7, frameon=False)
    return figure
