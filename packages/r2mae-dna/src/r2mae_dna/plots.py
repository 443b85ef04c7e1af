"""The figures of the package."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2mae_core import Record, compare, new_figure, scheme_style

LETTER_COLOURS = {"A": "#2c8c3c", "C": "#2a5fb0", "G": "#e0972f", "T": "#c63d3d"}


def _draw_curves(roc: Any, pr: Any, labels: np.ndarray, damage: Mapping[str, np.ndarray]) -> None:
    from sklearn.metrics import precision_recall_curve, roc_curve

    for i, (name, values) in enumerate(damage.items()):
        name = name if len(name) <= 40 else f"{name[:39]}…"
        false, true, _ = roc_curve(labels, values)
        precision, recall, _ = precision_recall_curve(labels, values)
        roc.plot(false, true, color=f"C{i}", label=name)
        pr.plot(recall, precision, color=f"C{i}", label=name)
    roc.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    roc.set(xlabel="false-positive rate", ylabel="true-positive rate", title="ROC")
    pr.axhline(float(labels.mean()), color="0.7", linestyle=":")
    pr.set(xlabel="recall", ylabel="precision", ylim=(0, 1.02), title="precision and recall")


def plot_curves(labels: np.ndarray, damage: Mapping[str, np.ndarray]) -> Any:
    """Draw ROC and precision-recall curves of several scores on the same rows.

    Args:
        labels: (n,) bool.
        damage: name → (n,) scores that grow with the damage.
    """
    figure = new_figure(10, 4.4)
    roc, pr = figure.subplots(1, 2)
    _draw_curves(roc, pr, labels, damage)
    pr.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{int(labels.sum()):,} positive and {int((~labels).sum()):,} negative variants")
    return figure


def draw_logo(axes: Any, probabilities: np.ndarray, reference: str, first: int, mark: int | None = None) -> None:
    """Draw a sequence logo: letters of height probability times the position's information in bits.

    Args:
        axes: the axes to draw on.
        probabilities: (n, 4) of A, C, G, T.
        reference: n letters, written below.
        first: 1-based position of the first.
        mark: index of a position to shade.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    safe = np.clip(probabilities, 1e-9, 1.0)
    bits = 2.0 + (safe * np.log2(safe)).sum(1)
    shapes = {}
    for letter in "ACGT":
        path = TextPath((0, 0), letter, size=1)
        box = path.get_extents()
        shapes[letter] = path.transformed(
            Affine2D().translate(-box.x0, -box.y0).scale(0.9 / box.width, 1.0 / box.height)
        )
    for i, (row, height) in enumerate(zip(safe, bits, strict=True)):
        bottom = 0.0
        for j in np.argsort(row):
            tall = float(row[j] * height)
            if tall > 0.01:
                move = Affine2D().scale(1.0, tall).translate(i - 0.45, bottom)
                letter = "ACGT"[j]
                axes.add_patch(PathPatch(shapes[letter].transformed(move), color=LETTER_COLOURS[letter], linewidth=0))
            bottom += tall
    if mark is not None:
        axes.axvspan(mark - 0.5, mark + 0.5, color="0.88", zorder=0)
    axes.set(xlim=(-0.6, len(safe) - 0.4), ylim=(0, 2.05), ylabel="bits")
    axes.set_xticks(range(len(safe)), list(reference))
    for tick, letter in zip(axes.get_xticklabels(), reference.upper(), strict=True):
        tick.set_color(LETTER_COLOURS.get(letter, "0.5"))
    axes.set_xlabel(f"reference from position {first:,}")


def plot_region(llr: np.ndarray, reference: str, chromosome: str, first: int, tracks: Mapping[str, np.ndarray]) -> Any:
    """Draw a region: the score of every change, the worst and the mean of each site, and conservation.

    Args:
        llr: (n, 4) scores of A, C, G, T, NaN where there are none.
        reference: n letters; written below up to 150 of them.
        chromosome: its name.
        first: 1-based position of the first.
        tracks: name → (n,) values.
    """
    n = len(llr)
    own: np.ndarray = np.equal(np.array(list("ACGT"))[None], np.array(list(reference.upper()))[:, None])
    changes = np.where(own, np.nan, llr)
    bare = np.asarray(np.isnan(changes).all(1))
    filled = np.where(bare[:, None], 0.0, changes)
    worst, mean = np.nanmin(filled, 1), np.nanmean(filled, 1)
    worst[bare] = mean[bare] = np.nan
    figure = new_figure(min(max(n / 9, 7), 18), 3.6 + 1.1 * len(tracks))
    panels = figure.subplots(2 + len(tracks), 1, sharex=True, height_ratios=[1.2, 1, *([0.8] * len(tracks))])
    at = np.arange(first, first + n)
    limit = float(np.nanmax(np.abs(changes))) if not bare.all() else 1.0
    edges = (first - 0.5, first + n - 0.5, 3.5, -0.5)
    image = panels[0].imshow(
        changes.T, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, extent=edges, interpolation="nearest"
    )
    panels[0].set_facecolor("0.8")  # the reference base, and where nothing is scored
    panels[0].set_yticks(range(4), list("ACGT"))
    panels[0].set(ylabel="change to", title=f"{chromosome}:{first:,}-{first + n - 1:,}")
    figure.colorbar(image, ax=panels[0], label="log-likelihood ratio", pad=0.01)
    panels[1].bar(at, worst, width=1.0, color="#c63d3d", label="worst")
    panels[1].step(at, mean, where="mid", color="0.2", linewidth=0.8, label="mean")
    panels[1].legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[1].set_ylabel("score")
    for axes, (name, values) in zip(panels[2:], tracks.items(), strict=True):
        axes.bar(at, values, width=1.0, color="#2a5fb0")
        axes.set_ylabel(name[:16], fontsize="small")
    if n <= 150:
        panels[-1].set_xticks(at, list(reference), fontsize="small")
        for tick, letter in zip(panels[-1].get_xticklabels(), reference.upper(), strict=True):
            tick.set_color(LETTER_COLOURS.get(letter, "0.5"))
    else:
        panels[-1].ticklabel_format(axis="x", style="plain", useOffset=False)
    panels[-1].set_xlabel("position" if n > 150 else f"reference from position {first:,}")
    return figure


def plot_demo(
    records: Sequence[Record],
    curves: Mapping[str, Mapping[str, list[tuple[int, float]]]],
    panels: Mapping[str, tuple[str, str]],
    logos: Sequence[tuple[str, np.ndarray, str, int]],
    mark: int,
    mark_title: str,
) -> Any:
    """Draw training curves, metrics per row of the table, and logos of the models' predictions.

    Args:
        records: per scheme and seed, and those of the floors.
        curves: scheme → seed → [(step, training loss)].
        panels: title → (task, metric).
        logos: (title, probabilities (n, 4), reference letters, first position).
        mark: index of the position that is shaded in the logos.
        mark_title: what is there.
    """
    figure = new_figure(15, 4.4 + 1.9 * len(logos))
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.4, 1.9 * len(logos)])
    loss, *others = top.subplots(1, 1 + len(panels))
    colours = {name: scheme_style(name, i)["color"] for i, name in enumerate(curves)}  # the floors are grey
    for name, seeds in curves.items():
        for j, points in enumerate(seeds.values()):
            steps, values = [step for step, _ in points], [value for _, value in points]
            loss.plot(steps, values, color=colours[name], alpha=0.8, linewidth=1, label=name if j == 0 else None)
    loss.set(xlabel="step", ylabel="masked cross-entropy, training", yscale="log", title="pretraining")
    loss.legend(fontsize="small", frameon=False)
    for axes, (title, (task, metric)) in zip(others, panels.items(), strict=True):
        _draw_rows(axes, [r for r in records if (r.task, r.metric) == (task, metric)], colours)
        axes.set_title(title, fontsize="small")
        axes.set_xlabel(f"{metric.partition('@')[0].replace('_', ' ')}, mean and sd of seeds")
    bottom.suptitle(f"prediction at each base when it is masked (bits), above the reference; shaded: {mark_title}")
    frames = bottom.subplots(len(logos), 1, squeeze=False)[:, 0]
    for axes, (title, probabilities, reference, first) in zip(frames, logos, strict=True):
        draw_logo(axes, probabilities, reference, first, mark)
        axes.set_title(title, fontsize="small", loc="left")
    return figure


def _draw_rows(axes: Any, records: Sequence[Record], colours: Mapping[str, str]) -> None:
    """Draw the mean and the standard deviation of each row, the first on top."""
    cells = {key[0]: cell for key, cell in compare(records).cells.items()}
    for i, (name, cell) in enumerate(cells.items()):
        colour = colours.get(name, "0.4")
        axes.errorbar([cell.mean], [i], xerr=[cell.sd or 0.0], marker="o", capsize=3, color=colour)
    axes.set_yticks(range(len(cells)), list(cells), fontsize="small")
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.9")
