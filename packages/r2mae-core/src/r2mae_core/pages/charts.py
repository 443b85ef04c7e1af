"""Charts as Bokeh draws them: hovering, zooming, and renderers that the page's legend finds by their scheme."""

import math
from collections.abc import Mapping
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.figures import scheme_style
from r2mae_core.pages.curves import Chart, Line

_HEIGHT = 300
_DASHES = {"solid": "solid", "dashed": "dashed", "dotted": "dotted", "dashdot": "dotdash"}
_SHADES = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")
"""Seven steps of matplotlib's viridis, for lines that stand for ratios."""


def library(program: str) -> Any:
    """Return Bokeh.

    Args:
        program: whose extra is named where it is missing.

    Raises:
        UserError: it is missing.
    """
    try:
        import bokeh
        import jinja2  # noqa: F401
    except ImportError as error:
        missing = str(error.name or "bokeh").partition(".")[0]
        raise UserError(f"a page needs {missing}: pip install '{program}[report]'") from None
    return bokeh


def scripts() -> str:
    """Return Bokeh's code for the browser, to stand in the page itself."""
    from bokeh.resources import Resources

    # Only the core: its other parts (widgets, tables, maps, formulas) are larger, and some load things from elsewhere.
    code = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    return code.replace("</script", "<\\/script")


def drawn(chart: Chart, styles: Mapping[str, int]) -> dict[str, Any]:
    """Return a chart as the plain data that `Bokeh.embed.embed_item` takes.

    Args:
        chart: what is drawn.
        styles: scheme → its number in the legend, which is also that of its colour.
    """
    from bokeh.embed import json_item
    from bokeh.models import BasicTickFormatter, DataRange1d, FixedTicker, HoverTool, Plot
    from bokeh.plotting import figure

    plot: Plot = figure(  # pyright: ignore[reportAssignmentType]
        # What is hidden takes no room.
        x_range=DataRange1d(only_visible=True), y_range=DataRange1d(only_visible=True),
        height=_HEIGHT, sizing_mode="stretch_width", tools="box_zoom,reset,save", active_drag=None, min_border_right=12,
        background_fill_color=None, border_fill_color=None, outline_line_color=None, output_backend="canvas",
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    # Titles and names of schemes stand in the page, not here: Bokeh would read $$ in them as a formula.
    plot.xaxis.axis_label, plot.yaxis.axis_label = chart.x, _plain(chart.y)
    hit = [_line(plot, chart, line, styles[line.scheme]) for line in chart.lines]
    hit += [_range(plot, line, styles[line.scheme]) for line in chart.horizontal]
    if chart.x == "step":
        plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
        steps = sorted({x for line in chart.lines for x, _ in line.points})
        if len(steps) == 1:  # else the axis shows fractions of steps
            plot.xaxis.ticker = FixedTicker(ticks=steps)
    tips = [("", "@scheme, @name"), (_plain(chart.x), "@x{0.[0000]}"), (_plain(chart.y), "@y{0.[00000]}")]
    if any(line.spread for line in (*chart.lines, *chart.horizontal)):
        tips.append(("±", "@spread"))
    plot.add_tools(HoverTool(renderers=hit, tooltips=tips, mode="mouse"))
    return json_item(plot)  # pyright: ignore[reportReturnType]


def _plain(text: str) -> str:
    return text.replace("$", "＄").replace("\\", "＼")


def _line(plot: Any, chart: Chart, line: Line, number: int) -> Any:
    style = scheme_style(line.scheme, number)
    colour = style["color"] if line.shade is None else _SHADES[round(line.shade * (len(_SHADES) - 1))]
    # A value that is not finite is a gap, not a lie in between.
    xs, ys = [x for x, _ in line.points], [y if math.isfinite(y) else math.nan for _, y in line.points]
    name = f"scheme-{number}"
    spread = list(line.spread) or [None] * len(xs)
    if not chart.dots and len(xs) > 1:
        plot.line(xs, ys, color=colour, line_width=2, line_dash=_DASHES[style["linestyle"]], alpha=0.9, name=name)
    bars = [(x, y - sd, y + sd) for x, y, sd in zip(xs, ys, spread, strict=True) if sd is not None]
    if bars:
        x, low, high = zip(*bars, strict=True)
        plot.segment(list(x), list(low), list(x), list(high), color=colour, line_width=1.5, alpha=0.7, name=name)
    data = {"x": xs, "y": ys, "scheme": [line.scheme] * len(xs), "name": [line.name] * len(xs),
            "spread": ["" if sd is None else f"{sd:.3g}" for sd in spread]}  # fmt: skip
    # Long lines have points too, which only the pointer finds.
    size, alpha = (6, 0.8) if chart.dots or len(xs) <= 30 else (8, 0.0)
    return plot.scatter("x", "y", source=data, size=size, color=colour, alpha=alpha, hover_alpha=1.0, name=name)


def _range(plot: Any, line: Line, number: int) -> Any:
    style = scheme_style(line.scheme, number)
    (low, y), (high, _) = line.points
    spread, middle, name = line.spread[0], (low + high) / 2, f"scheme-{number}"
    dash = _DASHES[style["linestyle"]]
    plot.segment([low], [y], [high], [y], color=style["color"], line_width=3, line_dash=dash, name=name)
    if spread is not None:
        ends = ([middle], [y - spread], [middle], [y + spread])
        plot.segment(*ends, color=style["color"], line_width=1.5, alpha=0.7, name=name)
    data = {"x": [middle], "y": [y], "scheme": [line.scheme], "name": [line.name],
            "spread": ["" if spread is None else f"{spread:.3g}"]}  # fmt: skip
    return plot.scatter("x", "y", source=data, size=9, color=style["color"], name=name)


def shades(chart: Chart) -> list[tuple[str, str]]:
    """Return (name, colour) of the lines of a chart that stand for ratios."""
    return [
        (line.name, _SHADES[round(line.shade * (len(_SHADES) - 1))])
        for line in chart.lines
        if line.shade is not None
    ]  # fmt: skip
