"""A matplotlib figure that needs no screen; the packages that draw depend on matplotlib, core does not."""

import io
from pathlib import Path
from typing import Any

from r2mae_core.lab.files import atomic_path


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches, laid out without overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, target: Path) -> Path:
    """Write a matplotlib figure atomically and return its path; the suffix sets the format.

    Raises:
        UserError: the disk is full.
    """
    drawn = io.BytesIO()  # matplotlib's writers turn a full disk into errors of their own
    figure.savefig(drawn, format=target.suffix.removeprefix(".") or None, dpi=150, bbox_inches="tight")
    with atomic_path(target) as temporary:
        temporary.write_bytes(drawn.getbuffer())
    return target
