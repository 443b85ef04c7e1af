"""The positive control of a demo: does pretraining show, against networks that must not have learnt anything?

A demo whose table looks the same when the training is broken proves nothing. So it measures two more kinds of network,
one that was not pretrained and one whose trained weights were permuted (`permute_weights`), and prints for each
downstream metric whether the pretrained ones are better than both by more than chance.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from r2mae_core.lab.comparison import Direction
from r2mae_core.lab.records import Record

NO_PRETRAINING = "no pretraining"
SHUFFLED_WEIGHTS = "shuffled weights"
"""Names of the control rows, the same in every package's tables."""

N_SD = 2.0
MIN_SEEDS = 3
"""The bar: more than two standard deviations, over at least three seeds of pretraining."""


@dataclass(frozen=True)
class Margin:
    """How far a pretrained scheme is above one control, in one column of the table."""

    task: str
    metric: str
    scheme: str
    control: str
    difference: float
    """Mean of the scheme minus mean of the control, with the sign turned where less is better; NaN if not measured."""
    sd: float
    """sqrt(sd² of the scheme + sd² of the control): that of the difference of one seed each; NaN below two seeds."""
    n_seeds: int
    """Of whichever has fewer."""

    @property
    def met(self) -> bool:
        """Whether the difference is above `N_SD` standard deviations, of `MIN_SEEDS` seeds or more."""
        return self.n_seeds >= MIN_SEEDS and self.difference > 0 and self.difference > N_SD * self.sd

    @property
    def n_sd(self) -> float:
        """The difference in standard deviations; NaN where there is no spread to divide by."""
        return self.difference / self.sd if self.sd > 0 else math.nan

    def text(self) -> str:
        """Return the margin in words, such as `r2mae − no pretraining = +0.041 ±0.006 (6.8 sd, n = 3)`."""
        names = f"{self.scheme} − {self.control}"
        if self.n_seeds == 0:
            return f"{names}: not measured"
        if not math.isfinite(self.difference):
            return f"{names}: NaN or infinite"
        if not math.isfinite(self.sd):
            return f"{names} = {self.difference:+.4g} (n = {self.n_seeds}: no standard deviation)"
        size = "" if math.isnan(self.n_sd) else f"{self.n_sd:.1f} sd, "
        return f"{names} = {self.difference:+.4g} ±{self.sd:.2g} ({size}n = {self.n_seeds})"


@dataclass(frozen=True)
class PositiveControl:
    """All margins of a demo, and whether enough columns meet the bar."""

    margins: tuple[Margin, ...]
    needed: int
    """How many columns (task and metric) must meet the bar: every scheme above every control."""
    others: tuple[Margin, ...] = ()
    """Of schemes that are held to the same bar for information, and decide nothing."""

    def columns(self) -> dict[tuple[str, str], bool]:
        """Return (task, metric) → whether every scheme is above every control there."""
        return _columns(self.margins)

    @property
    def met(self) -> bool:
        """Whether at least `needed` columns meet the bar."""
        return sum(self.columns().values()) >= self.needed

    def lines(self) -> list[str]:
        """Return the verdict for the terminal: one line per column with its smallest margin, and one for all."""
        columns, several = self.columns(), len({margin.task for margin in self.margins}) > 1
        lines = []
        for (task, metric), met in columns.items():
            here = [margin for margin in self.margins if (margin.task, margin.metric) == (task, metric)]
            failed = [margin for margin in here if not margin.met]
            worst = min(failed or here, key=_closeness)
            beaten = "" if met else f"; {len(failed)} of {len(here)} comparisons fail"
            name = f"{task} {metric}" if several else metric
            lines.append(f"  {name}: {'met' if met else 'NOT met'}{beaten}; the closest: {worst.text()}")
        lines += self._of_others()
        controls = " and ".join(dict.fromkeys(margin.control for margin in self.margins))
        bar = f"every scheme above {controls} by more than {N_SD:g} sd over {MIN_SEEDS} seeds or more"
        verdict = f"met on {sum(columns.values())} of {len(columns)}, needed on {self.needed}"
        if self.met:
            return [f"Positive control met ({verdict}): {bar}", *lines]
        doubt = "what was trained here cannot be told from networks that learnt nothing"
        return [f"Positive control NOT met ({verdict}): {doubt}. The bar: {bar}", *lines]

    def _of_others(self) -> list[str]:
        names = dict.fromkeys(margin.scheme for margin in self.others)
        met = {name: sum(_columns(m for m in self.others if m.scheme == name).values()) for name in names}
        passed = [name for name in names if met[name] >= self.needed]
        failed = [name for name in names if met[name] < self.needed]
        parts = [f"{word} by {', '.join(found)}" for word, found in (("met", passed), ("NOT met", failed)) if found]
        return [f"  of the other schemes, for information: {'; '.join(parts)}"] if parts else []


def positive_control(
    records: Iterable[Record],
    schemes: Sequence[str],
    metrics: Mapping[str, Direction],
    *,
    controls: Sequence[str] = (NO_PRETRAINING, SHUFFLED_WEIGHTS),
    others: Sequence[str] = (),
    needed: int = 1,
) -> PositiveControl:
    """Compare pretrained schemes with networks that have learnt nothing.

    Args:
        records: of schemes and controls, one for each seed of *pretraining* (several evaluations of one pretrained
            network are averaged before: their spread is not that of pretraining).
        schemes: names of the pretrained rows.
        metrics: the downstream metrics that count, and whether more or less is better.
        controls: names of the control rows.
        others: schemes that are compared in the same way and named in the verdict, but do not decide it.
        needed: on how many columns (task and metric) the bar must be met.

    Raises:
        ValueError: nothing was measured on any of the metrics, or no scheme or control is named; two records of a
            scheme, task and metric have one seed.
    """
    if not schemes or not controls:
        raise ValueError("a positive control compares at least one scheme with at least one control")
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    for record in records:
        if record.metric in metrics and record.scheme in {*schemes, *others, *controls}:
            seeds = values.setdefault((record.task, record.metric, record.scheme), {})
            if record.seed in seeds:
                raise ValueError(f"two records of {record.scheme}, {record.task} {record.metric}, seed {record.seed}")
            seeds[record.seed] = record.value
    columns = list(dict.fromkeys(key[:2] for key in values))
    if not columns:
        raise ValueError(f"no record of {', '.join(metrics)} for {', '.join([*schemes, *controls])}")

    def margins(names: Sequence[str]) -> tuple[Margin, ...]:
        found = []
        for (task, metric), scheme, control in product(columns, names, controls):
            ours, theirs = (list(values.get((task, metric, name), {}).values()) for name in (scheme, control))
            found.append(_margin(task, metric, scheme, control, ours, theirs, metrics[metric]))
        return tuple(found)

    return PositiveControl(margins(schemes), needed, margins(others))


def _columns(margins: Iterable[Margin]) -> dict[tuple[str, str], bool]:
    found: dict[tuple[str, str], bool] = {}
    for margin in margins:
        key = (margin.task, margin.metric)
        found[key] = found.get(key, True) and margin.met
    return found


def _margin(
    task: str, metric: str, scheme: str, control: str, ours: list[float], theirs: list[float], best: Direction
) -> Margin:
    n = min(len(ours), len(theirs))
    if n == 0:
        return Margin(task, metric, scheme, control, math.nan, math.nan, 0)
    difference = math.fsum(ours) / len(ours) - math.fsum(theirs) / len(theirs)
    sd = math.sqrt(_variance(ours) + _variance(theirs))
    return Margin(task, metric, scheme, control, difference if best == "max" else -difference, sd, n)


def _variance(values: list[float]) -> float:
    if len(values) < 2:
        return math.nan
    return statistics.variance(values) if all(map(math.isfinite, values)) else math.nan


def _closeness(margin: Margin) -> float:
    """Sort key: what cannot be judged first, then the smallest number of standard deviations."""
    if not math.isfinite(margin.difference) or math.isnan(margin.sd):
        return -math.inf
    return margin.n_sd if margin.sd > 0 else math.copysign(math.inf, margin.difference)
