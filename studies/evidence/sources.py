"""What was measured: the results of `studies/advice`, and run folders' `results.json` that `add` kept."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from r2mae_core import Fixed, RunFolder, Uniform, UserError, read_records, scheme, write_text
from studies.evidence.difference import Difference, best_ratio, difference, searched

ADVICE = Path(__file__).parents[1] / "advice" / "results"
RESULTS = Path(__file__).with_name("results")

COLUMNS = ["task", "metric", "scheme", "seed", "value", "n"]
NOT_BETTER_OR_WORSE = {"effective_rank"}
"""Metrics that say what a network is like, not how good it is."""


@dataclass(frozen=True)
class Source:
    """A file of results."""

    file: Path
    title: str
    modality: str
    metric: str | None = None
    """Of a file of `studies/advice`, which has one score per model and does not name it."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(task, metric) that another file has with more seeds of the same trainings."""
    own: str = "r2mae"
    """The scheme that stands for R2MAE, where the file has several ranges."""
    usual: float | None = None
    """The ratio that stands for the modality's usual one, where the file lacks that."""


SOURCES = (
    Source(ADVICE / "digits.json", "digits, MLP", "vision", "probe accuracy"),
    Source(ADVICE / "cifar10.json", "CIFAR-10 (5,000 images), ViT", "vision", "probe accuracy"),
    Source(ADVICE / "pbmc.json", "blood cells, MLP", "singlecell", "balanced accuracy of cell types"),
    Source(ADVICE / "apes.json", "human and apes, transformer", "dna", "AUROC, rare against common"),
    Source(ADVICE / "words.json", "film sentences, RoBERTa", "text", "accuracy"),
    Source(RESULTS / "digits.json", "digits, MLP", "vision", left_out=(("digits", "probe_accuracy"),)),
    # The paper's grid has neither 0.75 nor R2MAE's default range: the nearest of its ranges, and that range's middle.
    Source(RESULTS / "mnist.json", "MNIST, MLP", "vision", own="Uniform(0.5, 0.9)", usual=0.7),
    Source(RESULTS / "cifar10.json", "CIFAR-10 (50,000 images), ViT", "vision"),
    Source(RESULTS / "pbmc.json", "blood cells, MLP", "singlecell", left_out=(("pbmc", "balanced_accuracy"),)),
    Source(RESULTS / "pbmc_wide.json", "blood cells, MLP of the paper's widths", "singlecell"),
    Source(
        RESULTS / "dna.json", "mouse and mammals, transformer", "dna", left_out=(("chr22", "auroc"), ("chr22", "auprc"))
    ),
    Source(RESULTS / "text.json", "text demo, RoFormer", "text"),
)
"""A file that is not there yet is passed over."""


@dataclass(frozen=True)
class Comparison:
    """R2MAE and fixed ratios on one data set and metric; seed → value."""

    title: str
    metric: str
    less_is_better: bool
    default_ratio: float
    r2mae: dict[int, float]
    fixed: dict[float, dict[int, float]]

    @property
    def filling_in(self) -> bool:
        """Whether the metric is the pretraining's own task, filling in what is hidden, and not a use of the network."""
        return "@" in self.metric

    @property
    def best(self) -> float:
        """The fixed ratio with the best mean."""
        return best_ratio(self.fixed, less_is_better=self.less_is_better)

    def from_default(self) -> Difference:
        """R2MAE against the modality's usual fixed ratio."""
        return self._from(self.fixed[self.default_ratio].values())

    def from_best(self) -> Difference:
        """R2MAE against the fixed ratio that came out best, picked afterwards: R2MAE is at a disadvantage."""
        return self._from(self.fixed[self.best].values())

    def from_searched(self) -> Difference | None:
        """R2MAE against the fixed ratio that a search on the other seeds would pick; None with one seed."""
        found = searched(self.fixed, less_is_better=self.less_is_better)
        return self._from(found) if found else None

    def _from(self, theirs: Iterable[float]) -> Difference:
        return difference(self.r2mae.values(), theirs, less_is_better=self.less_is_better)


def add(name: str, run: Path, results: Path = RESULTS, sources: Iterable[Source] = SOURCES) -> Path:
    """Keep what the page needs of a run folder's results: R2MAE's and the fixed ratios', and how they were made.

    Raises:
        UserError: the folder has no results, or R2MAE is not among them.
    """
    own = next((source.own for source in sources if source.file.stem == name), "r2mae")
    kept = [r for r in read_records(run) if _word(r.scheme, own) and r.metric not in NOT_BETTER_OR_WORSE]
    if not any(record.scheme == own for record in kept):
        raise UserError(f"{run} has no results of {own}")
    folder = RunFolder.open(run)
    rows = [[r.task, r.metric, r.scheme, r.seed, float(f"{r.value:.6g}"), r.n] for r in kept]
    packages = json.loads((run / "versions.json").read_text())["packages"]
    made = {key: folder.config[key] for key in ("epochs", "steps", "n_hidden", "n_latent", "batch_size", "lr")
            if key in folder.config}  # fmt: skip
    about = {"options": made, "torch": packages.get("torch"), "device": kept[0].device, "columns": COLUMNS}
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_text(results / f"{name}.json", f'{json.dumps(about)[:-1]}, "rows": [\n{lines}\n]}}\n')
    return results / f"{name}.json"


def _word(name: str, own: str) -> str | float | None:
    """Return a fixed ratio, or "r2mae" for the scheme that stands for it, or None for any other row."""
    kind, _, number = name.partition(" ")
    return float(number) if kind in ("fixed", "low", "high") and number else "r2mae" if name == own else None


def comparisons(sources: Iterable[Source] = SOURCES) -> list[Comparison]:
    """Return every comparison that can be made: R2MAE and at least the usual ratio were measured."""
    return [found for source in sources if source.file.exists() for found in _of(source)]


def _of(source: Source) -> Iterator[Comparison]:
    usual, own = scheme("fixed", source.modality), scheme("r2mae", source.modality)
    assert isinstance(usual, Fixed)
    assert isinstance(own, Uniform)
    default = usual.ratio if source.usual is None else source.usual
    rows = _advice(source, f"{own.low:g}-{own.high:g}") if source.metric else _records(source)
    table: dict[tuple[str, str], dict[str | float, dict[int, float]]] = {}
    for task, metric, word, seed, value in rows:
        table.setdefault((task, metric), {}).setdefault(word, {})[seed] = value
    tasks = {task for task, _ in table}
    for (task, metric), found in table.items():
        if (task, metric) in source.left_out or metric in NOT_BETTER_OR_WORSE or not {"r2mae", default} <= set(found):
            continue
        fixed = {ratio: values for ratio, values in found.items() if isinstance(ratio, float)}
        name = metric.replace("_", " ") if len(tasks) == 1 or source.metric else f"{task} {metric}".replace("_", " ")
        yield Comparison(source.title, name, metric.startswith("loss@"), default, found["r2mae"], fixed)


def _advice(source: Source, own_range: str) -> Iterator[tuple[str, str, str | float, int, float]]:
    for name, seed, value in json.loads(source.file.read_text())["scores"]:
        if name == own_range:
            yield source.title, str(source.metric), "r2mae", seed, value
        elif "-" not in name:
            yield source.title, str(source.metric), float(name), seed, value


def _records(source: Source) -> Iterator[tuple[str, str, str | float, int, float]]:
    for task, metric, name, seed, value, _ in json.loads(source.file.read_text())["rows"]:
        word = _word(name, source.own)
        if word is not None:
            yield task, metric, word, seed, value
