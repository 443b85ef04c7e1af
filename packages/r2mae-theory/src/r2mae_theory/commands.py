"""What the commands do: call the library, print a table, write a figure and JSON into a run folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2mae_theory import covariance as models
from r2mae_theory import figures
from r2mae_theory.advice import advise
from r2mae_theory.data import read_table
from r2mae_theory.errors import TheoryError
from r2mae_theory.experiment import FULL, QUICK, Experiment, Panel, Series, Size
from r2mae_theory.output import save_figure, save_json, text_table
from r2mae_theory.paper import CHOICES, EXPERIMENTS, reproduce
from r2mae_theory.plots import draw
from r2mae_theory.risk import risk_curve
from r2mae_theory.scenes import aligned, eigenvector, random_unit, spectrum
from r2mae_theory.simulate import simulate_risk

if TYPE_CHECKING:
    from collections.abc import Callable

    from r2mae_theory.experiment import Record
    from r2mae_theory.options import AdviseConfig, DemoConfig, ReproduceConfig, Setting, SimulateConfig
    from r2mae_theory.representations import Covariance

_DEMO_RATIOS = tuple(round(0.1 * k, 2) for k in range(1, 10))


def folder(command: str, out: str | None) -> Path:
    """The run folder; made only when something is written."""
    return Path(out) if out else Path("runs") / f"theory-{command}-{time.strftime('%Y%m%d-%H%M%S')}"


def say(text: str) -> None:
    """Print a line for the user."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _finish(outcome: Experiment, out: Path) -> None:
    say(text_table(outcome.summary if outcome.summary is not None else outcome.records))
    if outcome.remark:
        say(outcome.remark)
    if outcome.panels:
        save_figure(out / "figures", outcome.name, draw(outcome.panels))


def _config(config: Any, out: Path, **more: Any) -> None:
    # JSON is YAML too, so the file can be passed back with -c.
    save_json(out / "config.yaml", {**dataclasses.asdict(config), **more})


def demo(config: DemoConfig, _: None, out: Path) -> None:
    """Figures 1A to 1C in one."""
    size = Size(ratios=_DEMO_RATIOS, repeats=config.repeats, seed=config.seed)
    parts = [run(size) for run in (figures.fig1a, figures.fig1b, figures.fig1c)]
    records = [record for part in parts for record in part.records]
    panels = [panel for part in parts for panel in part.panels]
    summary = [line for part in parts for line in part.summary or []]
    _finish(Experiment("demo", records, panels, summary), out)
    _config(config, out)
    save_json(out / "results.json", {"records": records})
    say(f"figure: {out / 'figures' / 'demo.png'}")


def _model(config: Setting) -> tuple[Covariance, np.ndarray]:
    p, seed = config.p, config.seed
    if not 0 <= config.alignment <= 1 or not 0 <= config.quantile <= 1:
        raise TheoryError(f"alignment and quantile must lie in [0, 1], got {config.alignment} and {config.quantile}")
    if config.covariance == "isotropic":
        return models.isotropic(p), random_unit(p, seed + 1)
    if config.covariance == "spiked":
        spiked = models.spiked(p, config.strength, seed=seed)
        return spiked, aligned(spiked, config.alignment, seed + 1)
    if config.covariance == "block":
        block = models.block(p, config.rank, config.strength, seed)
        return block, block.multiply(random_unit(p, seed + 1))
    cov = spectrum(config.covariance, p, seed)
    return cov, eigenvector(cov, config.quantile)


def _masks(config: Setting) -> tuple[list[float], list[float | tuple[float, float]]]:
    if not 0 < config.low <= config.high < 1 or not config.step > 0 or config.width < 0:
        raise TheoryError("ratios need 0 < low <= high < 1, a positive step and a width that is not negative")
    count = int((config.high - config.low) / config.step + 1e-9) + 1
    middles = [round(config.low + k * config.step, 6) for k in range(count)]
    if config.width == 0:
        return middles, list(middles)
    half = config.width / 2
    kept = [r for r in middles if r - half >= config.low - 1e-9 and r + half <= config.high + 1e-9]
    if not kept:
        raise TheoryError(f"no range of width {config.width} fits between {config.low} and {config.high}")
    return kept, [(r - half, r + half) for r in kept]


def _curve(config: Setting, out: Path, repeats: int, jobs: int) -> None:
    cov, beta = _model(config)
    middles, masks = _masks(config)
    table = risk_curve(cov, beta, config.sigma, config.n, masks)
    records: list[Record] = []
    for j, middle in enumerate(middles):
        risk = table.pick(j)
        record: Record = {
            "ratio": middle,
            "risk": risk.total,
            "bias": risk.bias,
            "variance": risk.variance,
            "risk/null": risk.normalized,
            "effective n": risk.effective_n,
            "p/n_eff": risk.gamma_effective,
        }
        if repeats:
            got = simulate_risk(cov, beta, config.sigma, config.n, masks[j], repeats, config.seed + j, jobs)
            record |= {"simulated": got.mean, "sd": got.sd, "sem": got.sem, "simulated/null": got.normalized}
        records.append(record)
    y = table.normalized[:, 0].tolist()
    series = [Series("theory", middles, y, color=0)]
    if repeats:
        dots, errors = zip(*((r["simulated/null"], r["sd"]) for r in records), strict=True)
        error = [float(e) / float(table.null[0]) for e in errors]
        series.append(Series("simulation", middles, [float(d) for d in dots], error, dots=True, color=0))
    what = "mask ratio r" if config.width == 0 else f"middle of a range {config.width:g} wide"
    finite = [v for v in y if np.isfinite(v)]
    top = max(2.0, 1.3 * min(finite, default=1.0))
    title = f"{config.covariance}, p = {config.p}, n = {config.n}"
    panel = Panel(title, what, "risk / null risk", series, 1.0, top)
    notes = "\n".join(note for note in table.notes if note)
    _finish(Experiment("curve", records, [panel], remark=notes), out)
    _config(config, out)
    save_json(out / "results.json", {"records": records})
    best = int(np.argmin(y))
    say(f"least predicted risk at {what} = {middles[best]:g}: {y[best]:.4g} of null; written to {out}")


def risk(config: Setting, _: None, out: Path) -> None:
    """Predict a curve."""
    _curve(config, out, 0, 1)


def simulate(config: SimulateConfig, _: None, out: Path) -> None:
    """Measure a curve beside the prediction."""
    if config.repeats < 2 or config.jobs < 1:
        raise TheoryError(f"repeats must be at least 2 and jobs at least 1, got {config.repeats} and {config.jobs}")
    _curve(config, out, config.repeats, config.jobs)


def reproduce_command(config: ReproduceConfig, what: str, out: Path) -> None:
    """Run experiments one after the other; those already in the folder at the same size are not run again."""
    size = dataclasses.replace(QUICK if config.quick else FULL, n_jobs=config.jobs, seed=config.seed)
    if config.repeats is not None:
        if config.repeats < 2 or config.jobs < 1:
            raise TheoryError(f"repeats must be at least 2 and jobs at least 1, got {config.repeats} and {config.jobs}")
        size = dataclasses.replace(size, repeats=config.repeats, table_repeats=config.repeats)
    say(CHOICES)
    _config(config, out)
    everything: list[Record] = []
    for name in EXPERIMENTS if what == "all" else [what]:
        start = time.perf_counter()
        outcome = reproduce(name, size, out / "rows")
        say(f"\n== {name}")
        _finish(outcome, out)
        seconds = time.perf_counter() - start
        say(f"{name}: {seconds:.0f} s")
        everything += [{"experiment": name, **record} for record in outcome.records]
        save_json(out / "results.json", {"records": everything})
    say(f"\nwritten to {out}")


def advise_command(config: AdviseConfig, file: str, out: Path) -> None:
    """Advice for a file."""
    if not 0 < config.step <= 0.25:
        raise TheoryError(f"the step between ratios must lie in (0, 0.25], got {config.step}")
    ratios = [round(config.step * k, 6) for k in range(1, int((1 - 1e-9) / config.step) + 1)]
    table = read_table(file)
    found = advise(
        table,
        config.n_samples,
        ratios,
        "all" if config.targets is None else config.targets,
        shrinkage=config.shrinkage,
        n_bootstrap=config.bootstrap,
        validate=config.validate,
        seed=config.seed,
    )
    records: list[Record] = [
        {"ratio": float(r), "risk/null": float(v)} for r, v in zip(found.ratios, found.curve, strict=True)
    ]
    by_ratio = {r["ratio"]: r for r in records}
    series = [Series("theory, fixed ratio", found.ratios.tolist(), found.curve.tolist(), color=0)]
    panels = [
        Panel(
            "predicted risk", "mask ratio r", "risk / null risk", series, 1.0, max(2.0, 1.3 * float(found.curve.min()))
        )
    ]
    middles = [(low + high) / 2 for low, high in found.ranges]
    series.append(Series("theory, ranges (at their middle)", middles, found.range_curve.tolist(), dots=True, color=1))
    if found.validation is not None:
        v = found.validation
        for r, measured, predicted in zip(found.ratios, v.measured, v.predicted, strict=True):
            by_ratio[float(r)] |= {"held-out error": float(measured), "predicted error": float(predicted)}
        x = found.ratios.tolist()
        panels.append(
            Panel(
                f"error over variance, {v.n_targets} targets, n = {v.n_samples}",
                "mask ratio r",
                "mean squared error / variance",
                [
                    Series("predicted", x, v.predicted.tolist(), color=0),
                    Series("held-out rows", x, v.measured.tolist(), v.sem.tolist(), dots=True, color=1),
                ],
                1.0,
                max(2.0, 1.3 * float(v.measured.min())),
            )
        )
    counts = f"{len(table.X)} samples, {found.n_features} features, {len(found.targets)} targets"
    say(f"{counts}, planned n = {found.n_samples}")
    _finish(Experiment("advice", records, panels, remark="\n".join(found.notes)), out)
    interval = found.ratio_interval
    spread = f" (5 to 95 % over bootstrap: {interval[0]:g} to {interval[1]:g})" if interval else ""
    say(f"recommended ratio: {found.best_ratio:g}{spread}")
    say(f"within 1 % of the best: {found.near_best[0]:g} to {found.near_best[1]:g}")
    say(f"recommended range, at least 0.2 wide: {found.best_range[0]:g} to {found.best_range[1]:g}")
    low, middle, high = np.percentile(found.per_target, [5, 50, 95])
    say(f"best ratio of single targets: {middle:g} (5 to 95 %: {low:g} to {high:g})")
    if found.validation is not None:
        v = found.validation
        clear = "clear" if v.is_clear else "not a clear minimum"
        say(f"held-out rows: least error at {v.measured_ratio:g} ({clear}), predicted {v.predicted_ratio:g}")
    _config(config, out, file=str(file))
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "validation"}
    check = dataclasses.asdict(found.validation) if found.validation is not None else None
    save_json(out / "results.json", {"records": records, "advice": {**fields, "validation": check}})
    say(f"written to {out}")


COMMANDS: dict[str, Callable[[Any, Any, Path], None]] = {
    "demo": demo,
    "risk": risk,
    "simulate": simulate,
    "reproduce": reproduce_command,
    "advise": advise_command,
}
