"""Experiments on the bundled alignments, which `demo` and `reproduce` share, and their grid of models."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from r2mae_core import Record, cell_name, device_name, first_rank, recipes, run_identity, stamped
from r2mae_dna.data.samples import prepare_apes, prepare_mouse
from r2mae_dna.evaluate import evaluate_table
from r2mae_dna.options import Evaluate, Pretrain, Score
from r2mae_dna.pretrain import pretrain
from r2mae_dna.score import score_variants
from r2mae_dna.scorers import FREQUENCIES

TASK, RAT_TASK = "chr22", "rat"
METRICS: dict[str, tuple[str, str]] = {TASK: ("auroc", "auprc"), RAT_TASK: ("auroc", "pairwise_accuracy")}
Measure = Callable[[Path], list[Record]]
"""The work of a cell of a grid, in its folder."""


def small_recipe(data: Path, steps: int, **changes: Any) -> Pretrain:
    """Return `pretrain -c small` on the bundled alignment.

    Args:
        data: the windows to train on.
        steps: the curriculum head is frozen in the same share of them as in the recipe.
        changes: what else differs from the recipe; None counts as not given.
    """
    recipe = yaml.safe_load(Path(recipes("r2mae_dna", "pretrain")["small"]).read_text(encoding="utf-8"))
    freeze_steps = max(round(recipe["freeze_steps"] * steps / recipe["steps"]), 1)
    given = {name: value for name, value in changes.items() if value is not None}
    return Pretrain(data, **{**recipe, "steps": steps, "freeze_steps": freeze_steps, **given})


@dataclass(frozen=True)
class Bundled:
    """A bundled alignment, windows of it, and the variants that scores are evaluated on."""

    store: Path
    data: Path
    variants: Path
    window: int
    device: Any
    task: str = TASK

    @classmethod
    def prepare(cls, folder: Path, window: int, device: str) -> "Bundled":
        """Write human and three apes into a run folder, unless they are there; rare against common human variants."""
        return cls(*prepare_apes(folder, window), window, device)

    @classmethod
    def mouse(cls, folder: Path, window: int, device: str) -> "Bundled":
        """Write mouse and other mammals, unless they are there; the changes that a hidden species shows."""
        return cls(*prepare_mouse(folder, window), window, device, RAT_TASK)

    def scores(self, home: Path) -> Path:
        """Return the file of scores in a cell's folder."""
        return home / f"scored{self.variants.suffix}"

    def evaluation(self, table: Path, name: str | None = None, seed: int = 0) -> Evaluate:
        """Return how a file of scores is evaluated."""
        preset = "rare-common" if self.task == TASK else "traitgym"
        return Evaluate(table, preset=preset, scheme=name, seed=seed, bootstrap=0)

    def evaluate(self, table: Path, name: str, seed: int) -> list[Record]:
        """Evaluate a file of scores."""
        records, *_ = evaluate_table(self.evaluation(table, name, seed))
        return [replace(record, task=self.task) for record in records if record.metric in METRICS[self.task]]

    def score(self, model: str, home: Path, name: str, seed: int) -> list[Record]:
        """Score the variants whose whole window is aligned, and evaluate the scores."""
        if not first_rank():
            return []
        out = self.scores(home)
        options = Score(model, self.store, self.variants, out=out, window=self.window, min_defined=1.0, progress=False)
        score_variants(replace(options, device=self.device, overwrite=True), alone=True)  # of a cell that was cut off
        return self.evaluate(out, name, seed)

    def floor(self, home: Path) -> list[Record]:
        """Evaluate the frequencies of the species' letters, which need no network."""
        return self.score(FREQUENCIES, home, FREQUENCIES, 0)

    def pretrain(self, options: Pretrain, home: Path) -> list[Record]:
        """Pretrain into `home/pretrain` (a finished model is not trained again) and evaluate its scores."""
        run = pretrain(replace(options, out=home / "pretrain"))
        return self.score(str(run.path), home, *run_identity(run.path, "dna"))


def grid(
    schemes: Iterable[str],
    seeds: Iterable[int],
    recipe: Pretrain,
    cell: Callable[[Pretrain, Path], list[Record]],
    device: str,
) -> dict[str, Measure]:
    """Return folder → work of every scheme and seed of a recipe, as `walk_grid` takes them."""
    options = [replace(recipe, mask_ratio=name, seed=seed) for name in schemes for seed in seeds]
    return {cell_name(one.mask_ratio, one.seed): timed(partial(cell, one), device) for one in options}


def timed(measure: Measure, device: str) -> Measure:
    """Return the same work, whose records name the device and the time that it took."""

    def work(home: Path) -> list[Record]:
        start = time.perf_counter()
        records = measure(home)
        return stamped(records, device_name(device), time.perf_counter() - start)

    return work
