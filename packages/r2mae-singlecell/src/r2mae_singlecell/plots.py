"""Every figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

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


MOST_COLOURS = 20
"""Categories with a colour of their own; the others, the smallest, share grey."""
MOST_BATCHES = 30
"""Batches in the picture of their mixing."""
N_NEIGHBORS = 30


def plot_columns(embeddings: dict[str, np.ndarray], columns: Any, title: str) -> Any:
    """Draw two-dimensional embeddings, a row for each, coloured by a column of `obs` in each column."""
    names = list(columns) or [None]
    figure = new_figure(5.2 * len(names), 4.2 * len(embeddings))
    panels = figure.subplots(len(embeddings), len(names), squeeze=False)
    order = np.random.default_rng(0).permutation(len(columns))  # so that no category hides another
    size = float(np.clip(20_000 / max(len(columns), 1), 1, 12))
    for i, (embedding, points) in enumerate(embeddings.items()):
        for axes, name in zip(panels[i], names, strict=True):
            colours, legend = ("C0", {}) if name is None else _colours(columns[name])
            colours = colours if name is None else colours[order]
            drawn = axes.scatter(*points[order].T, s=size, c=colours, linewidths=0, rasterized=True)
            handles = [axes.scatter([], [], color=colour, s=30, label=label) for label, colour in legend.items()]
            if handles and i == 0:
                axes.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
            elif not handles and name is not None:
                figure.colorbar(drawn, ax=axes)
            where = f"{embedding}: {name}" if name is not None else embedding
            axes.set(title=where, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    figure.suptitle(title)
    return figure


def _colours(column: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the colour of each cell and the legend; of a column of many numbers, these, and no legend."""
    import matplotlib

    if pd.api.types.is_numeric_dtype(column) and column.nunique() > MOST_COLOURS:
        return column.to_numpy(dtype=float, na_value=np.nan), {}
    texts: Any = column.astype("string").fillna("missing").to_numpy(dtype=str)
    sizes: Any = pd.Series(texts).value_counts()
    shown = sorted(sizes.index[: MOST_COLOURS - 1] if len(sizes) > MOST_COLOURS else sizes.index)
    palette = matplotlib.colormaps["tab20" if len(shown) > 10 else "tab10"]
    legend: dict[str, Any] = {name: palette(i) for i, name in enumerate(shown)}
    grey = (0.8, 0.8, 0.8, 1.0)
    colours = np.array([legend.get(text, grey) for text in texts])
    if len(sizes) > len(shown):
        legend[f"{len(sizes) - len(shown):,} smaller ones"] = grey
    return colours, legend


def plot_markers(expression: Any, genes: pd.Index, types: pd.Series, markers: dict[str, list[str]]) -> Any:
    """Draw a dot for each cell type and marker: its size is the share of cells that express it, its colour the mean.

    Args:
        expression: (cells, genes) logarithms.
        genes: their names.
        types: the cell type of each cell.
        markers: cell type → positions of its genes, as text.
    """
    columns = [int(gene) for group in markers.values() for gene in group]
    rows = [types.astype("string").fillna("").to_numpy(dtype=str) == name for name in markers]
    some = expression[:, columns]
    mean = np.stack([np.asarray(some[row].mean(axis=0)).ravel() for row in rows])
    share = np.stack([np.asarray((some[row] > 0).mean(axis=0)).ravel() for row in rows])
    low, high = mean.min(axis=0), mean.max(axis=0)
    scaled = (mean - low) / np.where(high > low, high - low, 1.0)
    figure = new_figure(2.5 + 0.26 * len(columns), 1.8 + 0.32 * len(rows))
    axes = figure.subplots()
    x, y = np.meshgrid(np.arange(len(columns)), np.arange(len(rows)))
    drawn = axes.scatter(x.ravel(), y.ravel(), s=90 * share.ravel(), c=scaled.ravel(), cmap="Reds", edgecolors="0.6",
                         linewidths=0.4)  # fmt: skip
    n = len(columns) // max(len(markers), 1)
    for at in range(n, len(columns), n):
        axes.axvline(at - 0.5, color="0.85", linewidth=0.6)
    axes.set(xlim=(-0.7, len(columns) - 0.3), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xticks(np.arange(len(columns)), [str(genes[i]) for i in columns], rotation=90, fontsize=7)
    axes.set_yticks(np.arange(len(rows)), list(markers), fontsize=8)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="mean, from the lowest\nto the highest type")
    sizes = [axes.scatter([], [], s=90 * part, color="0.5", label=f"{part:.0%}") for part in (0.2, 0.6, 1.0)]
    axes.legend(handles=sizes, title="cells that express it", fontsize=7, title_fontsize=7, frameon=False, ncols=3,
                loc="lower left", bbox_to_anchor=(0.0, 1.0))  # fmt: skip
    axes.set_title("Markers of each cell type (Wilcoxon, against all others)", fontsize=9, pad=40)
    return figure


def batch_mixing(z: np.ndarray, codes: np.ndarray, n_batches: int, n_neighbors: int = N_NEIGHBORS) -> np.ndarray:
    """Return how often neighbours of cells of each batch are of each batch, over how often they would be by chance.

    Args:
        z: (cells, dimensions).
        codes: (cells,) the batch, from 0; -1: no batch, neither counted nor a neighbour.
        n_batches: number of them.
        n_neighbors: of each cell, by exact Euclidean distance, without itself.

    Returns:
        (batches, batches), rows the cells' and columns the neighbours'; 1 everywhere where batches mix perfectly.
    """
    from sklearn.neighbors import NearestNeighbors

    z, codes = z[codes >= 0], codes[codes >= 0]
    n = min(n_neighbors, len(z) - 1)
    near = NearestNeighbors(n_neighbors=n).fit(z).kneighbors(return_distance=False)
    counts = np.zeros((n_batches, n_batches))
    np.add.at(counts, (np.repeat(codes, n), codes[near].ravel()), 1)
    sizes = np.bincount(codes, minlength=n_batches)
    by_chance = (sizes[None] - np.eye(n_batches)) / (len(z) - 1)
    observed = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return observed / np.where(by_chance > 0, by_chance, 1.0)


def plot_mixing(embeddings: dict[str, np.ndarray], batches: pd.Series) -> Any:
    """Draw `batch_mixing` of each embedding, white where batches mix as by chance; the largest batches alone."""
    texts: Any = batches.astype("string")
    sizes = texts.value_counts()
    names = sorted(sizes.index[:MOST_BATCHES])
    kinds: Any = names
    codes = pd.Categorical(texts, categories=kinds).codes
    figure = new_figure(4.6 * len(embeddings) + 0.8, 4.6)
    panels = figure.subplots(1, len(embeddings), squeeze=False)[0]
    drawn = None
    for axes, (name, z) in zip(panels, embeddings.items(), strict=True):
        ratio = batch_mixing(z, codes, len(names))
        drawn = axes.imshow(np.log2(np.maximum(ratio, 2.0**-4)), cmap="RdBu_r", vmin=-4, vmax=4)
        axes.set(title=name, xlabel="batch of the neighbours")
        axes.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(np.arange(len(names)), names, fontsize=7)
    panels[0].set_ylabel("batch of the cells")
    figure.colorbar(drawn, ax=list(panels), label="log2 of neighbours seen / by chance", shrink=0.8)
    left_out = f" ({len(names)} largest of {len(sizes):,})" if len(sizes) > len(names) else ""
    figure.suptitle(f"Mixing of batches among {N_NEIGHBORS} neighbours{left_out}: white is perfect, red apart")
    return figure
