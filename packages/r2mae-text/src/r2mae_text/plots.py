"""Every figure of the package."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2mae_core import Record, compare, new_figure


def plot_demo(records: Sequence[Record], series: Mapping[str, Sequence[tuple[int, float]]], unigram: float) -> Any:
    """Draw validation loss over the training, loss over the ratio, and accuracy of the fine-tuned models.

    Args:
        records: `loss@r` and `accuracy` of every scheme.
        series: scheme → (step, validation loss at ratio 0.15).
        unigram: loss of a model that ignores context, nats.
    """
    figure = new_figure(14, 4.2)
    left, middle, right = figure.subplots(1, 3)
    for name, points in series.items():
        left.plot(*zip(*points, strict=True), label=name)
    _unigram(left, unigram, "right")
    left.set(xlabel="optimizer step", ylabel="validation loss at ratio 0.15 (nats)", title="pretraining")
    left.legend(fontsize="small", frameon=False)
    plot_curve(middle, [record for record in records if record.metric.startswith("loss@")])
    _unigram(middle, unigram, "left")
    middle.set_title("the same models at other ratios")
    _bars(right, [record for record in records if record.metric == "accuracy"])
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
    for name in table.schemes:
        cells = [table.cells[name, task, f"loss@{ratio:g}"] for ratio in ratios]
        axes.errorbar(
            ratios,
            [cell.mean for cell in cells],
            [cell.sd or 0 for cell in cells],
            marker="o",
            markersize=3,
            label=name,
        )
    axes.set(xlabel="ratio hidden in validation", ylabel="validation loss (nats)")


def _bars(axes: Any, records: Sequence[Record]) -> None:
    table = compare(records)
    task, metric = table.columns[0]
    for i, name in enumerate(table.schemes):
        cell = table.cells[name, task, metric]
        axes.bar(i, cell.mean, yerr=cell.sd or 0, capsize=3, color="0.75" if name == "no pretraining" else f"C{i - 1}")
    low = min(cell.mean - (cell.sd or 0) for cell in table.cells.values())
    axes.set(ylim=(max(low - 0.05, 0), None), ylabel="accuracy", title=f"{task}: after fine-tuning")
    axes.set_xticks(range(len(table.schemes)), table.schemes, rotation=30, ha="right", fontsize="small")


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
