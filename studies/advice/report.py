"""Write the page from `results/NAME.json`: a figure per data set, and the two tables of `docs/advice.md`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import atomic_path, new_figure, scheme, write_text

TITLES = {
    "digits": "digits, MLP",
    "cifar10": "photographs (CIFAR-10), ViT",
    "pbmc": "blood cells, MLP",
    "apes": "alignment of apes, transformer",
    "words": "sentences, RoBERTa",
}
SCORES = {
    "digits": "probe accuracy",
    "cifar10": "probe accuracy",
    "pbmc": "balanced accuracy",
    "apes": "AUROC",
    "words": "accuracy",
}
MODALITY = {"digits": "vision", "cifar10": "vision", "pbmc": "singlecell", "apes": "dna", "words": "text"}
BEGIN_SWEEP = "<!-- what sweep reaches, written by the same -->"
BEGIN_EPOCHS = "<!-- what the epochs change, written by the same -->"
BEGIN_PROBE = "<!-- what the representation changes, written by the same -->"
BEGIN, END = "<!-- written by `python -m studies.advice report` -->", "<!-- end of what is written -->"


@dataclass(frozen=True)
class Measured:
    """One data set: what was predicted, and the scores of complete seeds."""

    name: str
    found: dict[str, Any]
    samplers: tuple[str, ...]
    scores: np.ndarray
    """(seeds, samplers)."""

    @property
    def fixed(self) -> list[int]:
        """Indices of the samplers that are fixed ratios, in ascending order."""
        return sorted((i for i, s in enumerate(self.samplers) if "-" not in s), key=lambda i: float(self.samplers[i]))

    @property
    def ratios(self) -> np.ndarray:
        """The fixed ratios."""
        return np.array([float(self.samplers[i]) for i in self.fixed])

    @property
    def predicted(self) -> np.ndarray:
        """Predicted risk over null at the fixed ratios."""
        return np.interp(self.ratios, self.found["ratios"], self.found["curve"])

    @property
    def advised(self) -> int:
        """Index of the advised ratio among the samplers."""
        return self.samplers.index(f"{self.found['best_ratio']:g}")

    @property
    def advised_range(self) -> int:
        """Index of the advised range among the samplers."""
        low, high = self.found["best_range"]
        return self.samplers.index(f"{low:g}-{high:g}")

    @property
    def usual(self) -> int:
        """Index of the modality's usual fixed ratio (the paper's baseline) among the samplers."""
        return self.samplers.index(f"{scheme('fixed', MODALITY[self.name]).ratio:g}")

    @property
    def r2mae(self) -> int:
        """Index of the paper's range for the modality among the samplers."""
        own = scheme("r2mae", MODALITY[self.name])
        return self.samplers.index(f"{own.low:g}-{own.high:g}")

    @property
    def searched(self) -> np.ndarray:
        """Each seed's score at the fixed ratio that is best on the *other* seeds: what a search gives, (seeds,)."""
        fixed = self.scores[:, self.fixed]
        others = fixed.sum(0) - fixed
        return fixed[np.arange(len(fixed)), others.argmax(1)]

    @property
    def best(self) -> int:
        """Index in `fixed` of the ratio with the highest mean."""
        return int(self.scores[:, self.fixed].mean(0).argmax())

    @property
    def as_good(self) -> list[str]:
        """Fixed ratios whose paired difference from the best is within two standard errors."""
        fixed = self.scores[:, self.fixed]
        lag = fixed[:, [self.best]] - fixed
        error = lag.std(0, ddof=1) / np.sqrt(len(lag))
        return [f"{r:g}" for r, mean, se in zip(self.ratios, lag.mean(0), error, strict=True) if mean <= 2 * se]


def read(file: Path) -> Measured:
    """Read what `measure` wrote; an incomplete seed is left out."""
    found = json.loads(file.read_text())
    samplers = tuple(dict.fromkeys(name for name, _, _ in found["scores"]))
    seeds = sorted({seed for _, seed, _ in found["scores"]})
    table = {(name, seed): score for name, seed, score in found["scores"]}
    whole = [[table[name, seed] for name in samplers] for seed in seeds if all((s, seed) in table for s in samplers)]
    return Measured(file.stem, found, samplers, np.array(whole))


def reservations(m: Measured) -> str:
    """Return what `advise` notes against its own answer."""
    ends = (m.found["ratios"][0], m.found["ratios"][-1])
    notes = {
        "no more samples than features": m.found["n"] <= m.found["p"],
        "risk above null everywhere": min(m.found["curve"]) >= 1,
        "best at the end of the grid": m.found["best_ratio"] in ends,
    }
    return "; ".join(note for note, holds in notes.items() if holds) or "none"


def spearman(m: Measured) -> float:
    """Rank correlation of predicted risk and measured error over the fixed ratios: 1 is the same order."""
    from scipy.stats import spearmanr

    return float(spearmanr(m.predicted, -m.scores[:, m.fixed].mean(0)).statistic)


def plain(values: np.ndarray, factor: float = 100) -> str:
    """Return mean ±standard deviation, in percent."""
    return f"{factor * values.mean():.1f} ±{factor * values.std(ddof=1):.1f}"


def curves_table(sets: list[Measured]) -> str:
    """Return the table of the predicted and the measured optimum."""
    rows = [
        "| data, model | samples × features | advised ratio (5 to 95 %) | its own reservations | best measured | "
        "not told apart from it | rank correlation | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m in sets:
        low, high = np.percentile(m.found["bootstrap"], [5, 95])
        rows.append(
            f"| {TITLES[m.name]} | {m.found['n']:,} × {m.found['p']} | {m.found['best_ratio']:g} ({low:g} to {high:g}) "
            f"| {reservations(m)} | {m.ratios[m.best]:g} | {', '.join(m.as_good)} | {spearman(m):.2f} "
            f"| {len(m.scores)} |"
        )
    return "\n".join(rows)


def choices_table(sets: list[Measured]) -> str:
    """Return the table of scores that each way of choosing a ratio reaches."""
    rows = [
        "| score in % | best of a search | advised ratio | usual ratio | advised − usual | advised range | "
        "the paper's range | U(0, 1) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m in sets:
        column = m.scores.T
        cells = [
            plain(m.searched),
            f"{plain(column[m.advised])} ({m.samplers[m.advised]})",
            f"{plain(column[m.usual])} ({m.samplers[m.usual]})",
            plain(column[m.advised] - column[m.usual]).replace("-", "−") if m.advised != m.usual else "the same",
            f"{plain(column[m.advised_range])} ({m.samplers[m.advised_range].replace('-', '–')})",
            f"{plain(column[m.r2mae])} ({m.samplers[m.r2mae].replace('-', '–')})",
            plain(column[m.samplers.index("0-1")]),
        ]
        rows.append(f"| {TITLES[m.name]}: {SCORES[m.name]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def epochs_table(sets: list[Measured], results: Path) -> str:
    """Return the table of predictions for one epoch, for those that the networks were trained for, and without end."""
    from scipy.stats import spearmanr

    found = json.loads((results / "epochs.json").read_text())
    rows = [
        "| data, model | epochs of the network | best ratio predicted for 1, for these, without end | best measured "
        "| rank correlation for 1 epoch, for these, without end |",
        "|---|---|---|---|---|",
    ]
    for m in sets:
        if m.name not in found:
            continue
        curves, grid = found[m.name]["curves"], np.array(m.found["ratios"])
        error = -m.scores[:, m.fixed].mean(0)
        ratios, ranks = [], []
        for key in ("1", "trained", "inf"):
            curve = np.array(curves[key])
            ratios.append(f"{grid[np.argmin(curve)]:g}")
            ranks.append(f"{spearmanr(np.interp(m.ratios, grid, curve), error).statistic:.2f}")
        rows.append(
            f"| {TITLES[m.name]} | {found[m.name]['epochs']} | {', '.join(ratios)} | {m.ratios[m.best]:g} "
            f"| {', '.join(ranks)} |"
        )
    return "\n".join(rows)


def probe_table(sets: list[Measured], results: Path) -> str:
    """Return the table of the best ratio for a probe of the linear model's own representation, by both readings."""
    from scipy.stats import spearmanr

    found = json.loads((results / "probe.json").read_text())
    epochs = json.loads((results / "epochs.json").read_text())
    rows = [
        "| data, model | width of features | best ratio by the risk (1 epoch, the network's) | by the probe, "
        "coefficients (not told apart) | by the probe, predictions | best measured | rank correlation of each |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in sets:
        if m.name not in found:
            continue
        ours, grid = found[m.name], np.array(m.found["ratios"])
        measured = -m.scores[:, m.fixed].mean(0)
        curves = {key: (grid, epochs[m.name]["curves"][key]) for key in ("1", "trained")}
        curves |= {key: (np.array(ours["ratios"]), ours["curves"][key]["error"]) for key in ours["curves"]}
        best = {key: f"{x[np.argmin(y)]:g}" for key, (x, y) in curves.items()}
        ranks = [spearmanr(np.interp(m.ratios, x, y), measured).statistic for x, y in curves.values()]
        close = ", ".join(f"{ratio:g}" for ratio in ours["curves"]["coefficients"]["as_good"])
        mark = "" if ours["labelled"] else " (random directions)"
        rows.append(
            f"| {TITLES[m.name]}{mark} | {ours['k']} of {ours['p']} | {best['1']}, {best['trained']} "
            f"| {best['coefficients']} ({close}) | {best['predictions']} | {m.ratios[m.best]:g} "
            f"| {', '.join(f'{rank:.2f}' for rank in ranks)} |"
        )
    return "\n".join(rows)


def draw(m: Measured) -> Any:
    """Return the figure: the predicted curve above, the measured one below, over the same ratios."""
    figure = new_figure(6.4, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(m.found["ratios"], m.found["curve"], color="C0")
    top.set_yscale("log")
    top.axhline(1, color="0.6", lw=0.8, ls="--")
    top.set_ylabel("predicted risk / null")
    top.set_title(f"{TITLES[m.name]}: what advise predicts, and what was measured", fontsize=10)
    values = m.scores[:, m.fixed]
    bottom.errorbar(
        m.ratios, values.mean(0), values.std(0, ddof=1), fmt="o-", color="C1", capsize=2, label="fixed ratio"
    )
    ranges = {m.r2mae: ("C2", "the paper's range"), m.advised_range: ("C0", "advised range")}
    for i, (color, label) in ranges.items():
        low, high = map(float, m.samplers[i].split("-"))
        mean, spread = m.scores[:, i].mean(), m.scores[:, i].std(ddof=1)
        bottom.hlines(mean, low, high, color=color, lw=2, label=label)
        bottom.fill_between([low, high], mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    for axes in (top, bottom):
        axes.axvline(m.found["best_ratio"], color="C0", lw=0.8, ls=":")
    bottom.set_xlabel("mask ratio (dotted: the advised one)")
    bottom.set_ylabel(f"{SCORES[m.name]}, {len(m.scores)} seeds")
    bottom.set_xlim(0, 1)
    bottom.legend(fontsize=8, frameon=False)
    return figure


def written(sets: list[Measured]) -> str:
    """Return the part of the page that the command writes."""
    return f"{BEGIN}\n\n{curves_table(sets)}\n\n{choices_table(sets)}\n\n{END}"


def write_report(results: Path, docs: Path) -> None:
    """Draw `docs/images/advice/NAME.png`, and update the tables in `docs/advice.md`."""
    sets = [read(file) for name in TITLES if (file := results / f"{name}.json").exists()]
    sets = [m for m in sets if len(m.scores) > 1]
    for m in sets:
        with atomic_path(docs / "images" / "advice" / f"{m.name}.png") as temporary:
            draw(m).savefig(temporary, dpi=110, format="png")
    epochs = epochs_table(sets, results) if (results / "epochs.json").exists() else ""
    from studies.advice.sweeps import sweep_table  # it reads this module

    page, parts = docs / "advice.md", {BEGIN: written(sets)}
    parts[BEGIN_SWEEP] = f"{BEGIN_SWEEP}\n\n{sweep_table(results, TITLES)}\n\n{END}"
    parts[BEGIN_EPOCHS] = f"{BEGIN_EPOCHS}\n\n{epochs}\n\n{END}"
    if (results / "probe.json").exists():
        parts[BEGIN_PROBE] = f"{BEGIN_PROBE}\n\n{probe_table(sets, results)}\n\n{END}"
    for begin, text in parts.items():
        print(text)
        if page.exists():
            old = page.read_text(encoding="utf-8")
            pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
            write_text(page, pattern.sub(lambda _, text=text: text, old))
