"""A matplotlib figure that needs no screen; the packages that draw depend on matplotlib, core does not."""

from typing import Any


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches, laid out without overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
