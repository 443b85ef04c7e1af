"""What `sweep` would have recommended: its own search, replayed on trainings that were measured once.

The search asks for (arm, seed, length) and gets the measured score, so many searches cost nothing. As for the full
search, the score of a choice is that of a seed that the choice was made without.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2mae_core import Arm
from r2mae_core.sweep.arms import arms_of, paper_range, usual_ratio
from r2mae_core.sweep.curve import fit_curve
from r2mae_core.sweep.options import SweepOptions
from r2mae_core.sweep.search import SHARES, Budget, Worker, in_memory, points, search
from studies.advice.report import MODALITY

BUDGETS = (1 / 10, 1 / 3)
"""Of the cost of the full search: nine ratios with as many seeds."""
REPLAYS = 10
"""Searches for each seed that is left out; they differ in the order of the other seeds and of the arms."""
RATIOS = SweepOptions().ratios


@dataclass(frozen=True)
class Trainings:
    """Every training of a data set: arms × lengths × seeds."""

    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    scores: dict[tuple[Arm, float, int], float]

    def of(self, arm: Arm) -> np.ndarray:
        """Return an arm's scores after full trainings, (seeds,)."""
        return np.array([self.scores[arm, 1.0, seed] for seed in self.seeds])

    def searched(self) -> np.ndarray:
        """Return each seed's score at the ratio that is best on the other seeds: the full search, (seeds,)."""
        fixed = np.array([self.of(Arm(ratio, ratio)) for ratio in RATIOS]).T
        others = fixed.sum(0) - fixed
        return fixed[np.arange(len(fixed)), others.argmax(1)]

    def swept(self, budget: float) -> np.ndarray:
        """Return each seed's score at what `sweep` recommends from the other seeds, (seeds, replays)."""
        return np.array([[self._replay(left, i, budget) for i in range(REPLAYS)] for left in self.seeds])

    def _replay(self, left: int, number: int, budget: float) -> float:
        others = np.random.default_rng([left, number]).permutation([seed for seed in self.seeds if seed != left])
        runs = budget * len(RATIOS) * len(others)

        def measured(arm: Arm, seed: int, share: float) -> float:
            # A seed comes again once all have been used.
            return self.scores[arm, share, int(others[seed % len(others)])]

        study = in_memory([arm.name for arm in self.arms], number)
        search(study, self.arms, Worker(measured, Budget(runs), say=lambda line: None))
        curve = fit_curve([point for point, _ in points(study, self.arms)], self.arms)
        return self.scores[curve.arms[curve.best], 1.0, left]


def read_trainings(name: str, results: Path) -> Trainings:
    """Read the full trainings of `measure` and the shorter ones of `measure --share`, of complete seeds."""
    arms = tuple(arms_of(RATIOS, None, MODALITY[name]))
    by_name = {arm.name: arm for arm in arms}
    scores: dict[tuple[Arm, float, int], float] = {}
    for arm, seed, score in json.loads((results / f"{name}.json").read_text())["scores"]:
        if arm in by_name:
            scores[by_name[arm], 1.0, seed] = score
    for arm, seed, share, score, _ in json.loads((results / f"{name}.short.json").read_text())["scores"]:
        scores[by_name[arm], share, seed] = score
    known = {seed for _, _, seed in scores}
    whole = (seed for seed in sorted(known) if all((arm, share, seed) in scores for arm in arms for share in SHARES))
    return Trainings(name, arms, tuple(whole), scores)


def sweep_table(results: Path, titles: dict[str, str]) -> str:
    """Return the table of `docs/advice.md`: the score that each way of choosing reaches."""
    rows = [
        "| score in % | full search | sweep, a third of it | sweep, a tenth | the paper's range | usual ratio | "
        "random choice | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, title in titles.items():
        if not (results / f"{name}.short.json").exists():
            continue
        trainings = read_trainings(name, results)
        if len(trainings.seeds) < 3:
            continue
        full = trainings.searched()
        error = full.std(ddof=1) / np.sqrt(len(full))
        cells = [f"{100 * full.mean():.1f} ±{100 * error:.1f}"]
        paper, usual = (trainings.of(which(MODALITY[name])) for which in (paper_range, usual_ratio))
        for budget in reversed(BUDGETS):
            swept = trainings.swept(budget)
            mean = swept.mean()
            met = mean >= full.mean() - error and mean >= min(paper.mean(), usual.mean())
            spread = 100 * swept.mean(1).std(ddof=1) / np.sqrt(len(swept))
            cells.append(f"{100 * mean:.1f} ±{spread:.1f} {'✓' if met else '✗'}")
        fixed = np.array([trainings.of(Arm(ratio, ratio)) for ratio in RATIOS])
        cells += [f"{100 * each.mean():.1f}" for each in (paper, usual, fixed)]
        rows.append(f"| {title} | {' | '.join(cells)} | {len(full)} |")
    return "\n".join(rows)
