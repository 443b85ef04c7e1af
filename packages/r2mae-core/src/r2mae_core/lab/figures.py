"""How things look: a scheme's colour everywhere, and a matplotlib figure that needs no screen.

The packages that draw depend on matplotlib, core does not.
"""

import io
from pathlib import Path
from typing import Any

from r2mae_core.lab.control import NO_PRETRAINING, SHUFFLED_WEIGHTS
from r2mae_core.lab.files import atomic_path

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Of Okabe and Ito's palette (2008), which people with any colour vision tell apart, those that show on light and dark
grounds."""
FIXED_RATIOS = "fixed ratio"
"""Name of the curve over fixed ratios, in pictures where it stands beside schemes."""
OWN_COLOUR = {
    NO_PRETRAINING: ("#808080", "dotted"),
    SHUFFLED_WEIGHTS: ("#808080", "dashdot"),
    FIXED_RATIOS: ("#a0703c", "solid"),
}
"""What is no scheme → its colour and line."""


def scheme_style(name: str, number: int) -> dict[str, str]:
    """Return the `color` and `linestyle` of a scheme: those of its place in the table, grey for controls.

    Args:
        name: of the scheme.
        number: its place among the schemes that are shown, from 0; after the last colour the lines are dashed.
    """
    if name in OWN_COLOUR:
        colour, line = OWN_COLOUR[name]
        return {"color": colour, "linestyle": line}
    turn, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": ("solid", "dashed", "dotted")[turn % 3]}


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches, laid out without overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Any, dpi: int = 110) -> bytes:
    """Return a matplotlib figure as the bytes of a PNG file."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    return drawn.getvalue()


def save_figure(figure: Any, target: Path) -> Path:
    """Write a matplotlib figure atomically and return its path; the suffix sets the format.

    Raises:
        UserError: the disk is full.
    """
    drawn = io.BytesIO()  # matplotlib's writers turn a full disk into errors of their own
    figure.savefig(drawn, format=target.suffix.removeprefix(".") or None, dpi=150, bbox_inches="tight")
    with atomic_path(target) as temporary:
        temporary.write_bytes(drawn.getvalue())
    return target
