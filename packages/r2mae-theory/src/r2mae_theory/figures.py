"""The figures of the linear model: 1A to 1G, 3 and 4. `paper.CHOICES` lists the sizes that the paper does not give."""

from collections.abc import Sequence

import numpy as np

from r2mae_core import Record
from r2mae_theory import covariance as models
from r2mae_theory.experiment import Experiment, Panel, Series, Size
from r2mae_theory.masks import scheme_name
from r2mae_theory.published import BERT_ACCURACY, BERT_RATIOS
from r2mae_theory.rows import Row, number
from r2mae_theory.scenes import SPECTRA, Scene, aligned, compare, eigenvector, predict, random_unit, spectrum

ALIGNMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (5.0, 10.0, 20.0, 50.0)
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
_FINE = np.round(np.linspace(0.01, 0.97, 97), 4)
_P, _SIGMA = 400, 0.5
_RATIO, _RISK = "mask ratio r", "risk / null risk"


def _panel(
    title: str, scenes: Sequence[Scene], size: Size, ymax: float | None, what: str = "total"
) -> tuple[Panel, list[Row]]:
    gamma = scenes[0].covariance.p / scenes[0].n
    fine, coarse = ([r for r in ratios if abs(r - gamma) > 1e-6] for ratios in (_FINE.tolist(), size.ratios))
    kind, key, error = (0, "simulated", "sd") if what == "total" else (1, "magnitude", None)
    lines, dots, rows = [], [], []
    curves, expected = predict(scenes, fine), predict(scenes, coarse)
    for k, (scene, curve, point) in enumerate(zip(scenes, curves, expected, strict=True)):
        found = compare(scene, coarse, point, size.repeats, size.seed, size.n_jobs)
        spread = [number(r[error]) for r in found] if error else None
        lines.append(Series(scene.label, fine, curve[kind].tolist(), color=k))
        dots.append(Series("", coarse, [number(r[key]) for r in found], spread, dots=True, color=k))
        rows += [{"panel": title, **row} for row in found]
    label = _RISK if what == "total" else "mean square prediction / null risk"
    return Panel(title, _RATIO, label, [*lines, *dots], 1.0 if what == "total" else None, ymax), rows


def _together(name: str, parts: Sequence[tuple[Panel, list[Row]]], size: Size, remark: str = "") -> Experiment:
    rows = [row for _, found in parts for row in found]
    records = [record for panel, found in parts for row in found for record in _records(panel, row, size.seed)]
    return Experiment(name, records, rows, [panel for panel, _ in parts], _best(rows), remark)


def _records(panel: Panel, row: Row, seed: int) -> list[Record]:
    """Return what the panel shows at a point: the prediction, which is for n samples, and the mean of the repeats."""
    what = "risk" if panel.ylabel == _RISK else "magnitude"
    theory, measured = ("theory", "simulated") if what == "risk" else ("theory magnitude", "magnitude")
    task, ratio = f"{panel.title}, {row['setting']}", scheme_name(number(row["ratio"]))
    return [
        Record(task, f"predicted_{what}", number(row[theory]), ratio, seed, int(number(row["n"]))),
        Record(task, f"simulated_{what}", number(row[measured]), ratio, seed, int(number(row["repeats"]))),
    ]


def _best(rows: Sequence[Row]) -> list[Row]:
    """Return one line per curve: the minima of theory and simulation on the simulated grid."""
    lines: list[Row] = []
    for key in dict.fromkeys((r["panel"], r["setting"]) for r in rows):
        curve = [r for r in rows if (r["panel"], r["setting"]) == key]
        theory = min(curve, key=lambda r: number(r["theory"]))
        measured = min(curve, key=lambda r: number(r["simulated"]))
        gaps = [abs(number(r["simulated"]) / number(r["theory"]) - 1) for r in curve]
        lines.append(
            {
                "panel": key[0],
                "setting": key[1],
                "best ratio (theory)": theory["ratio"],
                "risk/null": theory["theory"],
                "best ratio (simulated)": measured["ratio"],
                "simulated risk/null": measured["simulated"],
                "median gap %": 100 * float(np.median(gaps)),
            }
        )
    return lines


def fig1a(size: Size) -> Experiment:
    """Theorem 1, over- and underparametrised."""
    cov, beta = models.isotropic(_P), random_unit(_P, size.seed)
    parts = [
        _panel(f"1A: isotropic, γ = {_P / n:g}", [Scene(f"n = {n}", cov, beta, _SIGMA, n)], size, top)
        for n, top in ((200, 4.0), (1000, 12.0))
    ]
    return _together("fig1a", parts, size)


def _spiked(strength: float, alignment: float, label: str, seed: int, ones: bool = False) -> Scene:
    cov = models.spiked(_P, strength, np.ones(_P) if ones else None, seed)
    return Scene(label, cov, aligned(cov, alignment, seed + 1), _SIGMA, 200)


def fig1b(size: Size) -> Experiment:
    """Risk against the alignment a of β with the spike, λ = 20."""
    scenes = [_spiked(20, a, f"a = {a:g}", size.seed) for a in ALIGNMENTS]
    return _together("fig1b", [_panel("1B: spiked, λ = 20", scenes, size, 2.5)], size)


def fig1c(size: Size) -> Experiment:
    """Risk against the strength λ of the spike, a = 1."""
    scenes = [_spiked(s, 1.0, f"λ = {s:g}", size.seed) for s in STRENGTHS]
    return _together("fig1c", [_panel("1C: spiked, a = 1", scenes, size, 2.5)], size)


def fig1d(size: Size) -> Experiment:
    """Magnitude of the prediction against the alignment, λ = 20."""
    scenes = [_spiked(20, a, f"a = {a:g}", size.seed) for a in ALIGNMENTS]
    return _together("fig1d", [_panel("1D: prediction magnitude, λ = 20", scenes, size, 3.0, "magnitude")], size)


def fig3(size: Size) -> Experiment:
    """The spiked model with an all-ones direction: risk and magnitude for every λ and a."""
    parts = []
    for what, top in (("total", 2.5), ("magnitude", 3.0)):
        for strength in STRENGTHS:
            scenes = [_spiked(strength, a, f"a = {a:g}", size.seed, ones=True) for a in ALIGNMENTS]
            parts.append(_panel(f"3: λ = {strength:g}", scenes, size, top, what))
    return _together("fig3", parts, size)


def fig1e(size: Size) -> Experiment:
    """General spectra; β an eigenvector at a quantile of the spectrum."""
    parts = []
    for n in (100, 200):
        for name in SPECTRA:
            cov = spectrum(name, _P, size.seed)
            scenes = [Scene(f"quantile {q:g}", cov, eigenvector(cov, q), _SIGMA, n) for q in QUANTILES]
            parts.append(_panel(f"1E: {name}, n = {n}", scenes, size, 2.0))
    return _together("fig1e", parts, size)


def fig1f(size: Size) -> Experiment:
    """Published BERT accuracies per mask ratio under the transformation of C.2: same intercept, same late slope."""
    rows: list[Row] = []
    records, curves = [], []
    for task, accuracy in BERT_ACCURACY.items():
        error = dict(zip(BERT_RATIOS, (1 - np.array(accuracy) / 100).tolist(), strict=True))
        intercept = error[0.15] - 0.15 * (error[0.30] - error[0.15]) / 0.15
        slope = (error[0.80] - error[0.40]) / 0.40
        shifted = [(error[r] - intercept) / slope for r in BERT_RATIOS]
        curves.append(Series(task, BERT_RATIOS, shifted))
        for r, value in zip(BERT_RATIOS, shifted, strict=True):
            rows.append({"task": task, "ratio": r, "error": error[r], "transformed": value})
            records.append(Record(task.lower(), "transformed_error", value, scheme_name(r), size.seed, 1, "published"))
    panel = Panel("1F: BERT, error per mask ratio (C.2)", _RATIO, "error, shifted and scaled", curves, 0.0)
    return Experiment("fig1f", records, rows, [panel])


def _block(name: str, seeds: Sequence[int], size: Size) -> Experiment:
    parts = []
    for n, rank, eigenvalue in ((200, 4, 10.0), (100, 40, 50.0), (40, 40, 200.0)):
        scenes = []
        for seed in seeds:
            cov = models.block(_P, rank, eigenvalue, seed)
            beta = cov.multiply(random_unit(_P, seed + 1))
            scenes.append(Scene(f"sample {seed}", cov, beta, _SIGMA, n))
        title = f"{name[3:].upper()}: rank {rank}, eigenvalue {eigenvalue:g}, n = {n}"
        parts.append(_panel(title, scenes, size, 2.0))
    remark = "Without the ratio curves of the paper's vision models, which we do not have as numbers."
    return _together(name, parts, size, remark)


def fig1g(size: Size) -> Experiment:
    """The block model, β a Σ-weighted uniform vector."""
    return _block("fig1g", (0,), size)


def fig4(size: Size) -> Experiment:
    """Three more draws of the block model."""
    return _block("fig4", (1, 2, 3), size)
