"""The picture of a training: loss by step, in training and on held-out data at fixed mask ratios."""

from typing import Any

from r2mae_core.lab.figures import new_figure
from r2mae_core.share.run_summary import RunSummary

FEW = 30
"""Up to so many logged steps, each has a mark."""


def plot_training(summary: RunSummary) -> Any:
    """Draw the training loss and the validation losses, one line per mask ratio; None: nothing was logged."""
    curves = summary.validation
    if not summary.loss and not curves:
        return None
    from matplotlib import colormaps

    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    if summary.loss:
        steps, values = zip(*summary.loss, strict=True)
        marker = "o" if len(steps) <= FEW else None  # one step alone would be no line
        axes.plot(steps, values, color="0.65", linewidth=1, marker=marker, markersize=3, label="training")
    colours = colormaps["viridis"].resampled(len(curves) + 1)
    for i, (ratio, series) in enumerate(curves.items()):
        steps, values = zip(*series, strict=True)
        axes.plot(steps, values, color=colours(i), marker="o", markersize=3, label=f"held out, {ratio:.0%} hidden")
    axes.set(xlabel="optimizer step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure
