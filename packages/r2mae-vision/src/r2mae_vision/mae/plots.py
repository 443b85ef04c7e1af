"""The figures of reconstruction and of table 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from r2mae_core import Record, compare, new_figure


def plot_reconstructions(
    images: Tensor,
    ratios: Sequence[float],
    filled: Sequence[tuple[Tensor, Tensor]],
    colours: Tensor | None = None,
    note: str = "",
) -> Any:
    """Draw a row per image: the original; at each ratio what is visible and what the model makes of it; features.

    Args:
        images: (B, C, H, W) uint8.
        ratios: the fractions hidden.
        filled: per ratio, hidden pixels (B, H, W) and the model's pictures (B, C, H, W) of 0 … 1.
        colours: (B, 3, rows, columns): the patches' features as colours.
        note: a line below the picture.
    """
    columns: list[tuple[str, Tensor]] = [("original", images.float() / 255)]
    for ratio, (hidden, pictures) in zip(ratios, filled, strict=True):
        shown = torch.where(hidden[:, None], torch.full_like(pictures, 0.82), images.float() / 255)
        columns += [(f"{ratio:.0%} hidden", shown), ("filled in", pictures)]
    if colours is not None:
        columns.append(("features", colours))
    height, width = images.shape[2:]
    longer = max(height, width)
    figure = new_figure(1.5 * width / longer * len(columns), 1.5 * height / longer * len(images) + 0.3)
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for j, (title, pictures) in enumerate(columns):
        for i, picture in enumerate(pictures.cpu().numpy()):
            axes = grid[i, j]
            if len(picture) == 1:
                axes.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
            else:
                axes.imshow(picture.transpose(1, 2, 0))
            axes.set(xticks=[], yticks=[])
            if i == 0:
                axes.set_title(title, fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=8)
    return figure


def plot_schemes(records: Sequence[Record]) -> Any:
    """Draw a panel per metric: every seed's value and the mean, by scheme."""
    shown = [
        record for record in records if record.metric in ("top1", "linear_top1") or record.metric.startswith("knn")
    ]
    panels = list(dict.fromkeys((record.task, record.metric) for record in shown))
    schemes = list(dict.fromkeys(record.scheme for record in shown))
    figure = new_figure(3.4 * len(panels) + 0.8, 0.45 * len(schemes) + 1.4)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (task, metric) in zip(grid, panels, strict=True):
        for i, name in enumerate(schemes):
            values = [r.value for r in shown if (r.task, r.metric, r.scheme) == (task, metric, name)]
            axes.plot(values, [i] * len(values), "o", color=f"C{i}", alpha=0.5, markersize=5)
            axes.plot([sum(values) / len(values)], [i], "|", color=f"C{i}", markersize=18, markeredgewidth=2)
        axes.set(title=f"{task}: {metric}", xlabel="accuracy")
        axes.set_yticks(range(len(schemes)), schemes)
        axes.invert_yaxis()
    return figure


def plot_loss_curves(records: Sequence[Record]) -> Any:
    """Draw the loss at fixed ratios, a line per scheme, bars of one deviation over seeds.

    Args:
        records: those with metrics "loss@ratio" are drawn.
    """
    table = compare([record for record in records if record.metric.startswith("loss@")])
    figure = new_figure(6.2, 4.2)
    axes = figure.subplots()
    for i, name in enumerate(table.schemes):
        points = sorted(
            (float(metric.removeprefix("loss@")), cell.mean, cell.sd or 0.0)
            for (of, _, metric), cell in table.cells.items()
            if of == name
        )
        ratios, means, spread = zip(*points, strict=True)
        width = 2.2 if name.startswith(("r2mae", "Uniform")) else 1.2
        axes.errorbar(
            ratios, means, spread, color=f"C{i}", marker="o", markersize=4, capsize=2, linewidth=width, label=name
        )
    axes.set(xlabel="fraction hidden", ylabel="loss on hidden patches", title="the same masks for every scheme")
    axes.legend(fontsize="small", frameon=False)
    return figure
