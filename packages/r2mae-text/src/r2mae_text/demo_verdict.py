"""Whether pretraining shows: the demo's positive control, which a broken build does not pass."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from r2mae_core import Record

MARGIN = 2.0
"""How many standard deviations a difference has to exceed."""
WANTED = 2
"""On how many tasks pretraining has to show."""


@dataclass(frozen=True)
class Difference:
    """How far a row lies above another one."""

    gain: float
    """Difference of the means over seeds."""
    sd: float
    """Standard deviation of the difference of two single runs, √(sd₁² + sd₂²); NaN with one seed."""

    @property
    def clear(self) -> bool:
        """Whether it exceeds `MARGIN` standard deviations; never with one seed, or where a score is missing."""
        return self.gain > MARGIN * self.sd  # false for NaN

    def __str__(self) -> str:
        ratio = "one seed" if self.sd != self.sd else f"{self.gain / self.sd:+.1f} sd" if self.sd else "sd 0"
        return f"{self.gain:+.3f} ({ratio})"


@dataclass(frozen=True)
class Verdict:
    """What the control says."""

    passed: bool
    lines: tuple[str, ...]
    """One for each task, and the conclusion."""


def difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """Return how far the mean of values lies above that of others."""
    gain = statistics.fmean(values) - statistics.fmean(others)
    if min(len(values), len(others)) < 2:
        return Difference(gain, float("nan"))
    return Difference(gain, (statistics.variance(values) + statistics.variance(others)) ** 0.5)


def judge(records: Sequence[Record], schemes: Sequence[str], untrained: str, shuffled: str) -> Verdict:
    """Judge every task: each scheme must lie clearly above both rows that have learned nothing.

    "Clearly" is by more than two standard deviations of the difference of two runs. The shuffled weights must not lie
    clearly above no pretraining themselves.

    Args:
        records: one metric of all rows, of which more is better.
        schemes: names of the pretrained rows.
        untrained: name of the row without pretraining.
        shuffled: name of the row of shuffled weights.
    """
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        scores[record.task][record.scheme].append(record.value)
    shown, lines = 0, list[str]()
    for task, rows in sorted(scores.items()):
        control = difference(rows[shuffled], rows[untrained])
        gains = {
            (name, floor): difference(rows[name], rows[floor]) for name in schemes for floor in (untrained, shuffled)
        }
        failed = [f"{name} against {floor} {gain}" for (name, floor), gain in gains.items() if not gain.clear]
        if control.clear:
            failed.append(f"{shuffled} against {untrained} {control}: it should not be above")
        (name, floor), least = min(gains.items(), key=lambda item: item[1].gain)
        shown += not failed
        lines.append(
            f"{task}: FAILED: {'; '.join(failed)}" if failed else
            f"{task}: passed; least gain {name} against {floor} {least}; {shuffled} against {untrained} {control}"
        )  # fmt: skip
    passed = shown >= WANTED
    conclusion = f"Pretraining shows on {shown} of {len(scores)} tasks ({WANTED} are wanted): "
    why = (
        "passed"
        if passed
        else "FAILED: these models have not learned what pretraining teaches, or the seeds are too few"
    )
    return Verdict(passed, (*lines, conclusion + why))
