"""The figures of the CelebA experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

from r2mae_core import Record, compare, new_figure
from r2mae_vision.grid import drawn_range, fixed_ratio

N_LABELLED = 6  # attributes whose curves are named


def plot_fig2b(records: Sequence[Record], paper_optima: Mapping[int, float]) -> Any:
    """Draw the error on uncorrupted images over the mask ratio, one panel per model size (figure 2B).

    Args:
        records: tasks named "celeba-<base channels>", schemes named as `scheme_name` does.
        paper_optima: base channels → the ratio that the paper calls optimal.
    """
    table = compare([record for record in records if record.metric == "reconstruction_mse"])
    sizes = sorted({int(task.rsplit("-", 1)[1]) for task, _ in table.columns})
    figure = new_figure(4.6 * len(sizes), 4.4)
    for i, (axes, size) in enumerate(zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True)):
        _draw_metric(axes, records, f"celeba-{size}", "reconstruction_mse", f"C{i}", "fixed ratio")
        if size in paper_optima:
            axes.axvline(paper_optima[size], color="0.4", linestyle="--", label="optimum in the paper")
        axes.set(xlabel="mask ratio in pretraining", title=f"{size} base channels")
        axes.legend(fontsize="small")
    figure.axes[0].set_ylabel("MSE of uncorrupted test images")
    figure.suptitle(
        "Figure 2B: reconstruction over the mask ratio\n(dotted: R2MAE over its range; bars: sd over seeds)"
    )
    return figure


def plot_probe(records: Sequence[Record], target: str) -> Any:
    """Draw the attribute probe over the mask ratio for one model size (figures 5 to 7).

    Three panels: mean accuracy beside the majority answer's, mean balanced accuracy, and the balanced accuracy of each
    attribute, those named that change most over the ratio.

    Args:
        records: what `evaluate_unet` returned for one model size.
        target: the figure's name.
    """
    task = next(record.task for record in records if "/" not in record.task)
    figure = new_figure(15, 4.6)
    left, middle, right = figure.subplots(1, 3)
    _draw_metric(left, records, task, "attribute_accuracy", "C0", "probe")
    majority = [r.value for r in records if r.task == task and r.metric == "majority_accuracy"]
    left.axhline(majority[0], color="0.4", linestyle="--", label="majority answer")
    left.set(ylabel="mean accuracy of the attributes")
    left.legend(fontsize="small")
    _draw_metric(middle, records, task, "balanced_accuracy", "C0", "probe")
    middle.axhline(0.5, color="0.4", linestyle="--", label="majority answer, or chance")
    middle.set(ylabel="mean balanced accuracy of the attributes")
    middle.legend(fontsize="small")
    _draw_attributes(right, records, task)
    for axes in (left, middle, right):
        axes.set_xlabel("mask ratio in pretraining")
    size, number = task.rsplit("-", 1)[1], target.removeprefix("fig")
    title = f"Figure {number}: attribute probe with {size} base channels"
    figure.suptitle(f"{title}\n(dotted: R2MAE over its range; bars: sd over seeds)")
    return figure


def _draw_metric(axes: Any, records: Sequence[Record], task: str, metric: str, color: str, label: str) -> None:
    """Draw a metric over the fixed ratios, and a dotted line over each range."""
    table = compare([record for record in records if record.metric == metric and record.task == task])
    points = []
    for name in table.schemes:
        cell = table.cells[name, task, metric]
        if (ratio := fixed_ratio(name)) is not None:
            points.append((ratio, cell.mean, cell.sd or 0.0))
        else:
            axes.plot(drawn_range(name), [cell.mean, cell.mean], color=color, linestyle=":", linewidth=1.5)
    if points:
        xs, ys, sds = zip(*sorted(points), strict=True)
        axes.errorbar(xs, ys, sds, color=color, marker="o", markersize=4, capsize=2, label=label)


def _draw_attributes(axes: Any, records: Sequence[Record], task: str) -> None:
    """Draw each attribute's balanced accuracy over the fixed ratios."""
    own = [r for r in records if r.task.startswith(f"{task}/") and r.metric == "balanced_accuracy"]
    curves: dict[str, list[tuple[float, float]]] = {}
    for (name, attribute, _), cell in (compare(own).cells if own else {}).items():
        if (ratio := fixed_ratio(name)) is not None:
            curves.setdefault(attribute.partition("/")[2], []).append((ratio, cell.mean))
    change = {name: max(y for _, y in points) - min(y for _, y in points) for name, points in curves.items()}
    ordered = sorted(change, key=change.__getitem__, reverse=True)
    named = [name for name in ordered[:N_LABELLED] if change[name] > 0]
    for name in ordered:  # so is the legend
        xs, ys = zip(*sorted(curves[name]), strict=True)
        if name in named:
            label = name.replace("_", " ")
            axes.plot(xs, ys, color=f"C{named.index(name)}", marker=".", zorder=3, label=label)
        else:
            axes.plot(xs, ys, color="0.85", linewidth=0.8)
    axes.set(ylabel="balanced accuracy of each attribute")
    if named:
        axes.legend(
            fontsize="small", title="largest change", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
        )
