"""What every figure of the package shares."""

from collections.abc import Sequence
from typing import Any

from r2mae_core import Record, compare


def new_figure(**arguments: Any) -> Any:
    """Return a matplotlib figure that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **arguments)
    FigureCanvasAgg(figure)
    return figure


def fixed_ratio(name: str) -> float | None:
    """Return the ratio in a scheme's name such as "fixed 0.75" or "low 0.5"; None if it has no fixed one."""
    word, _, number = name.partition(" ")
    return float(number) if word in ("fixed", "low", "high") and number else None


def draw_curve(axes: Any, records: Sequence[Record], metric: str) -> None:
    """Draw a metric over the fixed ratios, and a line for each scheme that draws its ratio."""
    table = compare([record for record in records if record.metric == metric])
    cells = {key[0]: cell for key, cell in table.cells.items()}
    points = sorted((ratio, cell) for name, cell in cells.items() if (ratio := fixed_ratio(name)) is not None)
    axes.errorbar(
        [ratio for ratio, _ in points],
        [cell.mean for _, cell in points],
        [cell.sd or 0.0 for _, cell in points],
        color="0.2",
        marker="o",
        markersize=4,
        capsize=2,
        label="fixed ratio",
    )
    others = [name for name in table.schemes if fixed_ratio(name) is None]
    for i, name in enumerate(others):
        cell = cells[name]
        axes.axhline(cell.mean, color=f"C{i}", linestyle="-" if name == "r2mae" else "--", label=name)
        if cell.sd is not None:
            axes.axhspan(cell.mean - cell.sd, cell.mean + cell.sd, color=f"C{i}", alpha=0.08, linewidth=0)
    axes.set_xlabel("mask ratio in pretraining")
