"""The figures of the MNIST experiment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from r2mae_core import NO_PRETRAINING, SHUFFLED_WEIGHTS, Record, compare, nested_masks, new_figure
from r2mae_vision.grid import drawn_range, fixed_ratio
from r2mae_vision.mnist.data import ImageData
from r2mae_vision.mnist.model import MLPAutoencoder

SHOWN_RATIO = 0.75
CONTROLS = (NO_PRETRAINING, SHUFFLED_WEIGHTS)


def plot_demo(
    records: Sequence[Record], model: MLPAutoencoder, data: ImageData, names: Sequence[str], schemes: Sequence[str]
) -> Any:
    """Draw the probe over the ratio, the error over the fraction hidden, and original, masked and filled-in images.

    Args:
        records: what `evaluate_members` returned.
        model: the stack.
        data: the image set, on the model's device.
        names: the scheme of each model of the stack.
        schemes: the schemes whose reconstructions are shown.
    """
    figure = new_figure(12, 9)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    left, right = top.subplots(1, 2)
    draw_curve(left, records, "probe_accuracy")
    left.set(ylabel="linear-probe accuracy", title=f"{data.name}: what the network is good for")
    left.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    draw_excess(right, records)
    right.set_title(f"{data.name}: error, whatever is hidden")

    n_shown = 10
    images = data.scale(data.test_images[:n_shown])
    generator = torch.Generator(images.device).manual_seed(0)
    mask = nested_masks(images.shape, [SHOWN_RATIO], generator=generator)
    model.eval()
    with torch.no_grad():
        outputs = model(images[None].masked_fill(mask, 0.0).expand(len(names), -1, -1))
    rows = {"original": images, f"{SHOWN_RATIO:.0%} hidden": torch.where(mask[0], float("nan"), images)}
    # The visible pixels are given to the model, so only what it filled in is its own.
    rows |= {name: torch.where(mask[0], outputs[names.index(name)], images) for name in schemes}
    bottom.suptitle(
        f"test images, their visible pixels, and what each scheme fills in at {SHOWN_RATIO:.0%} (first seed)"
    )
    grid = bottom.subplots(len(rows), n_shown, squeeze=False)
    for axes_row, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, picture in zip(axes_row, pictures.cpu().numpy(), strict=True):
            axes.set_facecolor("#cfd8e3")
            axes.imshow(picture.reshape(data.side, data.side), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(name, rotation=0, horizontalalignment="right", verticalalignment="center")
    return figure


MOST_EXCESS = 100.0
"""Percent at which the axis of `draw_excess` ends; what lies above is no longer near the best."""


def draw_excess(axes: Any, records: Sequence[Record]) -> None:
    """Draw each scheme's error on hidden pixels over the fraction hidden, in % above the best fixed ratio's there.

    A model of one ratio is best near its own; the question of the paper's tables 7 and 8 is how far from the best one
    model is at *every* ratio. Fixed ratios are thin lines, light for low ones; schemes that draw their ratio have a
    colour of their own. What learnt nothing is far above all and left out.
    """
    import matplotlib

    table = compare([record for record in records if record.metric.startswith("loss@")])
    hidden = sorted(float(metric.removeprefix("loss@")) for _, metric in table.columns)
    task, errors = table.columns[0][0], {}
    for name in table.schemes:
        errors[name] = np.array([table.cells[name, task, f"loss@{ratio:g}"].mean for ratio in hidden])
    fixed = sorted((ratio, name) for name in errors if (ratio := fixed_ratio(name)) is not None)
    best = np.min([errors[name] for _, name in fixed], axis=0)
    for ratio, name in fixed:
        color = matplotlib.colormaps["YlGnBu"](0.25 + 0.75 * ratio)
        axes.plot(hidden, 100 * (errors[name] / best - 1), color=color, linewidth=1, label=f"fixed {ratio:g}")
    others = [name for name in table.schemes if fixed_ratio(name) is None and name not in CONTROLS]
    for i, name in enumerate(others):
        axes.plot(hidden, 100 * (errors[name] / best - 1), label=name, **line_style(name, i))
    axes.axvspan(*drawn_range("r2mae"), color="black", alpha=0.06, linewidth=0, label="r2mae trains here")
    axes.set(xlabel="fraction of pixels hidden", ylabel="error above the best fixed ratio's, %", ylim=(-3, MOST_EXCESS))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def plot_fig2(records: Sequence[Record], metric: str, ylabel: str, title: str) -> Any:
    """Draw a metric over the mask ratio for every shape of the grid: one panel per first width (figures 2A, 2D).

    Args:
        records: tasks named "<data> <hidden1>-<hidden2>", schemes named as `scheme_name` does.
        metric: which metric; "probe_error" is 1 - probe_accuracy, "relative_rank" is effective_rank over the width.
        ylabel: the axis label.
        title: the figure's title.
    """
    source = {"probe_error": "probe_accuracy", "relative_rank": "effective_rank"}.get(metric, metric)
    table = compare([record for record in records if record.metric == source])
    shapes: dict[int, list[tuple[int, str]]] = {}
    for task in dict.fromkeys(task for task, _ in table.columns):
        hidden1, hidden2 = map(int, task.rsplit(" ", 1)[1].split("-"))
        shapes.setdefault(hidden1, []).append((hidden2, task))
    figure = new_figure(6.2 * len(shapes), 5)
    panels = figure.subplots(1, len(shapes), squeeze=False)[0]
    for axes, (hidden1, tasks) in zip(panels, sorted(shapes.items()), strict=True):
        for i, (hidden2, task) in enumerate(sorted(tasks)):
            points, scale = [], hidden2 if metric == "relative_rank" else 1
            for name in table.schemes:
                cell = table.cells.get((name, task, source))
                if cell is None:
                    continue
                value = 1 - cell.mean if metric == "probe_error" else cell.mean / scale
                ratio = fixed_ratio(name)
                if ratio is not None:
                    points.append((ratio, value, (cell.sd or 0.0) / scale))
                else:
                    axes.plot(drawn_range(name), [value, value], color=f"C{i}", linestyle=":", linewidth=1.5)
            xs, ys, sds = zip(*sorted(points), strict=True)
            axes.errorbar(xs, ys, sds, color=f"C{i}", marker="o", markersize=4, capsize=2, label=str(hidden2))
        axes.set(xlabel="mask ratio", ylabel=ylabel, title=f"first layer {hidden1} wide")
        axes.legend(title="second layer", fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{title}\n(dotted: R2MAE over the range it spans; bars: sd over seeds)")
    return figure


def line_style(name: str, i: int) -> dict[str, Any]:
    """Return how the i-th scheme that has no fixed ratio is drawn: R2MAE stands out, and so do the controls."""
    if name == "r2mae":
        return {"color": "black", "linewidth": 2.5}
    if name in CONTROLS:
        return {"color": "C3", "linestyle": ":" if name == NO_PRETRAINING else "-."}
    return {"color": ("C1", "C2", "C4", "C5", "C6")[i % 5], "linestyle": "--"}


def draw_curve(axes: Any, records: Sequence[Record], metric: str) -> None:
    """Draw a metric over the fixed ratios, and a line for each scheme that draws its ratio."""
    table = compare([record for record in records if record.metric == metric])
    cells = {key[0]: cell for key, cell in table.cells.items()}
    points = sorted((ratio, cell) for name, cell in cells.items() if (ratio := fixed_ratio(name)) is not None)
    axes.errorbar(
        [ratio for ratio, _ in points],
        [cell.mean for _, cell in points],
        [cell.sd or 0.0 for _, cell in points],
        color="C0",
        marker="o",
        markersize=4,
        capsize=2,
        label="fixed ratio",
    )
    others = [name for name in table.schemes if fixed_ratio(name) is None]
    for i, name in enumerate(others):
        cell = cells[name]
        style = line_style(name, i)
        axes.axhline(cell.mean, label=name, **style)
        if cell.sd is not None:
            axes.axhspan(cell.mean - cell.sd, cell.mean + cell.sd, color=style["color"], alpha=0.08, linewidth=0)
    axes.set_xlabel("mask ratio in pretraining")
