"""Every figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2mae_core import Record, new_figure


def plot_pearson(records: Sequence[Record], title: str) -> Any:
    """Draw the correlation of hidden genes over the fraction hidden, a line per method, bars of one deviation."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    records = [record for record in records if record.metric.startswith("pearson@")]
    schemes = list(dict.fromkeys(record.scheme for record in records))
    for i, scheme in enumerate(schemes):
        values: dict[float, list[float]] = {}
        for record in records:
            if record.scheme == scheme:
                values.setdefault(float(record.metric.removeprefix("pearson@")), []).append(record.value)
        ratios = sorted(values)
        means = [np.mean(values[ratio]) for ratio in ratios]
        spread = [np.std(values[ratio], ddof=1) if len(values[ratio]) > 1 else 0.0 for ratio in ratios]
        shift = (i - len(schemes) / 2) * 0.003  # so that the bars do not hide each other
        ours = scheme.startswith("r2mae")
        axes.errorbar(
            np.array(ratios) + shift,
            means,
            spread,
            label=scheme,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=2.2 if ours else 1.2,
            color="black" if ours else None,
            zorder=3 if ours else 2,
        )
    axes.set_xlabel("fraction of genes hidden")
    axes.set_ylabel("Pearson correlation over the hidden genes")
    axes.set_title(title)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.grid(alpha=0.3)
    return figure


def plot_umap(embeddings: dict[str, np.ndarray], labels: Sequence[str], title: str) -> Any:
    """Draw two-dimensional embeddings side by side, coloured by cell type."""
    import matplotlib

    figure = new_figure(5.0 * len(embeddings) + 1.6, 4.8)
    panels = figure.subplots(1, len(embeddings), squeeze=False)[0]
    names, codes = np.unique(labels, return_inverse=True)
    colours = matplotlib.colormaps["tab20"](np.linspace(0, 1, max(len(names), 2)))
    for axes, (name, points) in zip(panels, embeddings.items(), strict=True):
        for i, label in enumerate(names):
            axes.scatter(*points[codes == i].T, s=9, color=colours[i], label=label, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)
    figure.suptitle(title)
    return figure
