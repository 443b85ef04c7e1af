"""What a page draws: lines over steps and over mask ratios, as plain data."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from r2mae_core.lab.comparison import ComparisonTable
from r2mae_core.lab.figures import FIXED_RATIOS

MAX_POINTS = 400
"""Points of a line that are drawn; a longer one is thinned, and the caption says so."""

Metrics = Mapping[str, Sequence[tuple[int, float]]]
"""Metric → (step, value) in order of steps."""


@dataclass(frozen=True)
class Training:
    """The metrics of one training, and what the page calls it."""

    scheme: str
    seed: int | None
    metrics: Metrics
    run: str = ""
    """The run that it belongs to, where the page shows several."""
    pool: str = ""
    """Seeds are averaged within one pool alone: the trainings of two grids may differ in more than the seed."""
    kind: str = ""
    """Empty for a pretraining; else what it is ("fine-tuning"): its loss is another, and has charts of its own."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps, as far as they were logged: pretrainings count them from 0, others those that were done."""
        losses = [points for name, points in self.metrics.items() if name in _OF_EVERY_TRAINING]
        last = [points[-1][0] for points in losses or self.metrics.values() if points]
        return max(last) + (not self.kind) if last else None

    @property
    def name(self) -> str:
        """What it is besides its scheme."""
        seed = "seed not recorded" if self.seed is None else f"seed {self.seed}"
        return f"{seed}, {self.run}" if self.run else seed


_OF_EVERY_TRAINING = ("loss", "train_loss")
"""These stand at the last step, too; other metrics may stand at the steps that were done (older versions' speed)."""


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    scheme: str
    """Decides its colour, and the legend entry that shows and hides it."""
    name: str
    """What it is besides its scheme, such as "seed 0"; shown on hovering."""
    points: tuple[tuple[float, float], ...]
    spread: tuple[float | None, ...] = ()
    """Half the height of the error bar of each point, where there is one."""
    shade: float | None = None
    """Place between 0 and 1 on a scale of its own, for lines of one scheme that stand for ratios."""


@dataclass(frozen=True)
class Chart:
    """A chart, without how it is drawn."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    caption: str = ""
    dots: bool = False
    """Draw points without a line between them."""
    horizontal: tuple[Line, ...] = ()
    """Lines of two points: ranges of ratios, at the height of their scores."""
    secondary: bool = False
    """Show it only to readers who ask for more."""


def charts_over_time(trainings: Sequence[Training]) -> list[Chart]:
    """Return the charts over optimizer steps, for all metrics of trainings; each kind of training has its own.

    Validation losses at fixed ratios share a chart where there is one training, and have a chart for each ratio where
    there are several. Seeds of a scheme that logged the same steps are shown as their mean.
    """
    charts: list[Chart] = []
    for kind in sorted({training.kind for training in trainings}):
        found = _of_one_kind([training for training in trainings if training.kind == kind])
        charts += [replace(chart, title=f"{chart.title}, {kind}") for chart in found] if kind else found
    return charts


def _of_one_kind(trainings: Sequence[Training]) -> list[Chart]:
    charts = [_over_time(trainings, name, title, y, dots=dots) for name, (title, y, dots) in _KNOWN.items()]
    several = len(trainings) > 1
    for pattern, title, y in _PER_RATIO:
        ratios = _names(trainings, pattern)
        if not several:
            charts.append(_by_ratio(trainings, ratios, title, y))
        elif y == "validation loss":
            charts += [_over_time(trainings, name, f"{title} {ratio}", y) for name, ratio in ratios.items()]
    known = {*_KNOWN, *(name for pattern, *_ in _PER_RATIO for name in _names(trainings, pattern))}
    others = dict.fromkeys(name for training in trainings for name in training.metrics if name not in known)
    charts += [_over_time(trainings, name, _title(name), name, secondary=name.endswith(_SECONDARY)) for name in others]
    return [chart for chart in charts if chart.lines]


_SECONDARY = (
    "_per_second", "tflops", "mfu", "tokens", "unigram_entropy",
    "train_loss", "reconstruction_loss_train", "reconstruction_loss_validation",
)  # fmt: skip
"""Ends of the names of metrics of speed and amount, and scvi-tools' own names of the losses."""
_KNOWN: dict[str, tuple[str, str, bool]] = {
    "loss": ("Training loss", "loss", False),
    "mask_ratio": ("Mask ratio drawn", "mask ratio", True),
    "lr": ("Learning rate", "learning rate", False),
    "validation_loss": ("Validation loss", "validation loss", False),
}
_PER_RATIO = (
    (re.compile(r"val_loss/ratio_(\d[\d.]*)$"), "Validation loss at mask ratio", "validation loss"),
    (re.compile(r"loss/ratio_(\d[\d.]*_to_\d[\d.]*)$"), "Training loss by mask ratio", "training loss"),
)


def _names(trainings: Iterable[Training], pattern: re.Pattern[str]) -> dict[str, str]:
    """Return metric → the ratio in its name, in order of ratios."""
    names = {name for training in trainings for name in training.metrics}
    found = {name: match[1] for name in names if (match := pattern.match(name))}
    return dict(sorted(found.items(), key=lambda item: float(item[1].partition("_")[0])))


def _title(name: str) -> str:
    return name.replace("_", " ").replace("/", ": ").capitalize()


def _over_time(
    trainings: Iterable[Training], metric: str, title: str, y: str, *, dots: bool = False, secondary: bool = False
) -> Chart:
    logged = [training for training in trainings if training.metrics.get(metric)]
    lines, caption = _first_seeds(logged, metric) if dots else _means(logged, metric)
    return _thinned(Chart(title, "step", y, tuple(lines), caption, dots, secondary=secondary))


def _line(training: Training, metric: str) -> Line:
    return Line(training.scheme, training.name, tuple(map(_point, training.metrics[metric])))


def _first_seeds(trainings: Sequence[Training], metric: str) -> tuple[list[Line], str]:
    first: dict[tuple[str, str], Training] = {}
    for training in trainings:
        first.setdefault((training.scheme, training.pool), training)
    return [_line(one, metric) for one in first.values()], _FIRST if len(first) < len(trainings) else ""


def _means(trainings: Sequence[Training], metric: str) -> tuple[list[Line], str]:
    """Return the mean over the seeds of a scheme where they logged the same steps, else each seed, and what to say."""
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        groups.setdefault((training.scheme, training.pool), []).append(training)
    lines: list[Line] = []
    for (scheme, pool), same in groups.items():
        seeds = {training.seed for training in same} - {None}
        steps = {tuple(step for step, _ in training.metrics[metric]) for training in same}
        if len(same) == 1 or len(steps) > 1 or len(seeds) < len(same):
            lines += [_line(training, metric) for training in same]
            continue
        values = zip(*([value for _, value in training.metrics[metric]] for training in same), strict=True)
        mean = tuple((float(step), math.fsum(ys) / len(same)) for step, ys in zip(steps.pop(), values, strict=True))
        lines.append(Line(scheme, f"mean of {len(same)} seeds" + (f", {pool}" if pool else ""), mean))
    return lines, _MEANS if len(lines) < len(trainings) else ""


_FIRST, _MEANS = "Of each scheme the first seed.", "Means over seeds."


def _by_ratio(trainings: Sequence[Training], ratios: Mapping[str, str], title: str, y: str) -> Chart:
    lines = [
        Line(t.scheme, f"ratio {ratio.replace('_', ' ')}", tuple(map(_point, t.metrics[name])),
             shade=i / max(len(ratios) - 1, 1))
        for t in trainings
        for i, (name, ratio) in enumerate(ratios.items())
        if name in t.metrics
    ]  # fmt: skip
    return _thinned(Chart(title, "step", y, tuple(lines)))


def _point(point: tuple[int, float]) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _thinned(chart: Chart) -> Chart:
    """Return the chart with at most `MAX_POINTS` points a line, the last one among them, and say so."""
    if all(len(line.points) <= MAX_POINTS for line in chart.lines):
        return chart
    lines, largest = [], 1
    for line in chart.lines:
        every = -(-len(line.points) // MAX_POINTS)
        largest = max(largest, every)
        kept = line.points[::-1][::every][::-1]
        lines.append(replace(line, points=kept))
    said = f"Of long lines, one logged point of {largest} is drawn."
    return replace(chart, lines=tuple(lines), caption=f"{chart.caption} {said}".strip())


_BARS, _NO_BARS = "Bars: one standard deviation over seeds.", "One seed: no spread is known."
_AT_RATIO = re.compile(r"(.+)@(\d*\.?\d+)$")


def charts_over_ratios(table: ComparisonTable | None) -> list[Chart]:
    """Return a chart for each measurement that a table has at several mask ratios, such as loss@0.1 and loss@0.5."""
    if table is None:
        return []
    found: dict[tuple[str, str], dict[str, list[tuple[float, Any]]]] = {}
    for (scheme, task, metric), cell in table.cells.items():
        if (match := _AT_RATIO.match(metric)) and cell.mean == cell.mean:
            found.setdefault((task, match[1]), {}).setdefault(scheme, []).append((float(match[2]), cell))
    several = len({task for task, _ in found}) > 1
    charts = []
    for (task, metric), schemes in found.items():
        lines = []
        for scheme, cells in schemes.items():
            cells = sorted(cells, key=lambda item: item[0])
            points = tuple((ratio, cell.mean) for ratio, cell in cells)
            seeds = {cell.n_seeds for _, cell in cells}
            name = "n = " + " to ".join(map(str, dict.fromkeys((min(seeds), max(seeds)))))
            lines.append(Line(scheme, name, points, tuple(cell.sd for _, cell in cells)))
        if max(len(line.points) for line in lines) < 2:
            continue
        bars = any(sd is not None for line in lines for sd in line.spread)
        caption = _BARS if bars else _NO_BARS
        title = f"{task}: {metric} by mask ratio" if several else f"{_title(metric)} by mask ratio"
        charts.append(Chart(title, "mask ratio of the evaluation", metric, tuple(lines), caption))
    return charts


_FIXED = re.compile(r"(?:fixed|low|high) (\d*\.?\d+)$")


def charts_over_pretraining_ratios(table: ComparisonTable) -> list[Chart]:
    """Return a chart for each score of a table with three or more fixed ratios: the score by the ratio of pretraining.

    Other schemes are horizontal lines.
    """
    ratios = {name: float(match[1]) for name in table.schemes if (match := _FIXED.match(name))}
    if len(set(ratios.values())) < 3:
        return []
    several = len({task for task, _ in table.columns}) > 1
    charts = []
    for task, metric in table.columns:
        cells = {name: cell for name in table.schemes if (cell := table.cells.get((name, task, metric)))}
        cells = {name: cell for name, cell in cells.items() if cell.mean == cell.mean}
        fixed = sorted((ratio, name) for name, ratio in ratios.items() if name in cells)
        if _AT_RATIO.match(metric) or len(fixed) < 3:
            continue
        points = tuple((ratio, cells[name].mean) for ratio, name in fixed)
        line = Line(FIXED_RATIOS, f"{len(fixed)} ratios", points, tuple(cells[name].sd for _, name in fixed))
        others = [
            Line(name, f"n = {cell.n_seeds}", ((low, cell.mean), (high, cell.mean)), (cell.sd,))
            for name, cell in cells.items()
            if name not in ratios
            for low, high in [_range_of(name) or (fixed[0][0], fixed[-1][0])]
        ]
        title = f"{task}: {metric}" if several else _title(metric)
        said = "Schemes without a fixed ratio are horizontal lines: a range from its lowest to its highest ratio."
        bars = any(cell.sd is not None for cell in cells.values())
        caption = " ".join([*([said] if others else []), _BARS if bars else _NO_BARS])
        x = "mask ratio of the pretraining"
        charts.append(Chart(f"{title} by {x}", x, metric, (line,), caption, horizontal=tuple(others)))
    return charts


def _range_of(scheme: str) -> tuple[float, float] | None:
    match = re.match(r"Uniform\((\d*\.?\d+), (\d*\.?\d+)\)", scheme)
    return (float(match[1]), float(match[2])) if match else None


def chart_of_sweep(answer: Mapping[str, Any]) -> Chart:
    """Return the curve of a sweep's score over fixed ratios, and its ranges as lines, with two standard errors."""
    rows, metric = answer["curve"], str(answer["metric"])
    fixed = sorted((row for row in rows if row["low"] == row["high"]), key=lambda row: row["low"])
    lines: list[Line] = []
    if fixed:
        points = tuple((row["low"], row["mean"]) for row in fixed)
        lines.append(Line(FIXED_RATIOS, _trainings(fixed), points, tuple(2 * row["standard_error"] for row in fixed)))
    ranges = [
        Line(str(row["arm"]), _trainings([row]), ((row["low"], row["mean"]), (row["high"], row["mean"])),
             (2 * row["standard_error"],))
        for row in rows
        if row["low"] != row["high"]
    ]  # fmt: skip
    good = "higher" if answer["direction"] == "max" else "lower"
    caption = (
        f"Estimated {metric} after a full training ({good} is better); "
        "a range of ratios is a horizontal line. Bars: two standard errors."
    )
    return Chart(f"{_title(metric)} by mask ratio of the pretraining", "mask ratio of the pretraining", metric,
                 tuple(lines), caption, horizontal=tuple(ranges))  # fmt: skip


def _trainings(rows: Sequence[Mapping[str, Any]]) -> str:
    full, short = (sum(row[name] for row in rows) for name in ("n_full", "n_short"))
    return f"{full} full and {short} shorter trainings"
