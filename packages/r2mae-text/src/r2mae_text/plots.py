"""Every figure of the package."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2mae_core import Record, compare, new_figure, scheme_style


def plot_demo(records: Sequence[Record], series: Mapping[str, Sequence[tuple[int, float]]], unigram: float) -> Any:
    """Draw validation loss over the training, loss over the ratio, and the probes of every row.

    Args:
        records: `loss@r` of every scheme, and `auroc` of every row; rows without a loss have learned nothing.
        series: scheme → (step, validation loss at ratio 0.15), mean over seeds.
        unigram: loss of a model that ignores context, nats.
    """
    figure = new_figure(15, 4.2)
    left, middle, right = figure.subplots(1, 3)
    for i, (name, points) in enumerate(series.items()):
        left.plot(*zip(*points, strict=True), color=scheme_style(name, i)["color"], label=name)
    _unigram(left, unigram, "right")
    left.set(xlabel="optimizer step", ylabel="validation loss at ratio 0.15 (nats)", title="pretraining")
    left.legend(fontsize="small", frameon=False)
    plot_curve(middle, [record for record in records if record.metric.startswith("loss@")])
    _unigram(middle, unigram, "left")
    middle.set_title("the same models at other ratios")
    _probes(right, [record for record in records if record.metric == "auroc"], list(series))
    return figure


def _unigram(axes: Any, unigram: float, side: str) -> None:
    axes.axhline(unigram, color="0.5", linestyle=":", linewidth=1.2)
    place = (0.98 if side == "right" else 0.02, unigram)
    style: dict[str, Any] = {"ha": side, "va": "top", "color": "0.4", "fontsize": "small"}
    axes.annotate("unigram entropy", place, xycoords=("axes fraction", "data"), **style)


def plot_curve(axes: Any, records: Sequence[Record]) -> None:
    """Draw validation loss over the ratio at which it is measured, one line per scheme."""
    table = compare(records)
    ratios = sorted(float(metric.split("@")[1]) for _, metric in table.columns)
    task = table.columns[0][0]
    for i, name in enumerate(table.schemes):
        cells = [table.cells[name, task, f"loss@{ratio:g}"] for ratio in ratios]
        axes.errorbar(
            ratios,
            [cell.mean for cell in cells],
            [cell.sd or 0 for cell in cells],
            marker="o",
            markersize=3,
            color=scheme_style(name, i)["color"],
            label=name,
        )
    axes.set(xlabel="ratio hidden in validation", ylabel="validation loss (nats)")


def _probes(axes: Any, records: Sequence[Record], schemes: Sequence[str]) -> None:
    """Draw the mean and standard deviation of every row in every task; rows that have learned nothing in grey."""
    table = compare(records)
    floors = [name for name in table.schemes if name not in schemes]
    rows = [*floors, *schemes]
    for i, name in enumerate(rows):
        cells = [table.cells[name, task, metric] for task, metric in table.columns]
        places = [column + (i - (len(rows) - 1) / 2) * 0.1 for column in range(len(cells))]
        style: dict[str, Any] = {"marker": "o", "color": scheme_style(name, i - len(floors))["color"]}
        if name in floors:
            style = {"marker": "xsd"[i % 3], "color": "0.45", "markerfacecolor": "white"}
        means, sds = [cell.mean for cell in cells], [cell.sd or 0 for cell in cells]
        axes.errorbar(places, means, sds, linestyle="", capsize=2, markersize=5, label=name, **style)
    axes.set_xticks(range(len(table.columns)), [task for task, _ in table.columns])
    axes.set(ylabel="AUROC of words", title="frozen encoders on held-out sentences")
    axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def plot_ratios(
    ours: Mapping[str, Mapping[float, float]], published: Mapping[str, Mapping[float, float]], ylabel: str, title: str
) -> Any:
    """Draw curves over the fixed ratio: ours full, published dashed.

    Args:
        ours: name → ratio → value.
        published: the same.
        ylabel: the axis label.
        title: the figure's title.
    """
    figure = new_figure(7, 4.6)
    axes = figure.subplots()
    for i, (name, curve) in enumerate(ours.items()):
        axes.plot(*zip(*sorted(curve.items()), strict=True), color=f"C{i}", marker="o", label=name)
    for i, (name, curve) in enumerate(published.items()):
        axes.plot(*zip(*sorted(curve.items()), strict=True), color=f"C{i}", linestyle="--", marker=".", label=name)
    axes.set(xlabel="mask ratio in pretraining", ylabel=ylabel, title=title)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
