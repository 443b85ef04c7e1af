"""`risk` and `simulate`: the risk curve of one setting of the linear model, predicted and measured."""

from collections.abc import Sequence

import numpy as np

from r2mae_core import Record, RunFolder, check_bounds, open_run, resolved, say, stamped
from r2mae_theory import covariance as models
from r2mae_theory import options
from r2mae_theory.arrays import Floats
from r2mae_theory.errors import TheoryError
from r2mae_theory.experiment import Panel, Series
from r2mae_theory.masks import Coupled, MaskDistribution, Uniform, scheme_name
from r2mae_theory.plots import save_figure
from r2mae_theory.representations import Covariance
from r2mae_theory.risk import RiskTable, risk_curve
from r2mae_theory.rows import Row, number, text_table, write_rows
from r2mae_theory.scenes import aligned, eigenvector, random_unit, spectrum
from r2mae_theory.simulate import check_size, simulate_risk


def risk(config: options.RiskCurve) -> RunFolder:
    """Predict a curve, print its table, draw it, and return the run folder."""
    return _curve("risk", config)


def simulate(config: options.Simulate) -> RunFolder:
    """Simulate a curve beside its prediction, print its table, draw it, and return the run folder."""
    check_bounds(config)
    rows = config.n * (1 + config.epochs) if config.epochs not in (1, "inf") else config.n
    check_size(rows, config.p, min(config.workers, config.repeats))
    return _curve("simulate", config, config.repeats, config.workers)


def _curve(command: str, config: options.RiskCurve, repeats: int = 0, workers: int = 1) -> RunFolder:
    check_bounds(config)
    middles, masks = _masks(config)
    cov, beta = _model(config)
    epochs = float(config.epochs)
    table = risk_curve(cov, beta, config.sigma, config.n, masks, epochs=epochs)
    with open_run("r2mae-theory", command, config.out, resolved(config)) as run:
        rows = [_predicted(table, j, middle) for j, middle in enumerate(middles)]
        names = [scheme_name(mask) for mask in masks]
        records = [
            Record(config.covariance, "predicted_risk", number(row["risk/null"]), name, config.seed, config.n)
            for row, name in zip(rows, names, strict=True)
        ]
        for j, (row, mask, name) in enumerate(zip(rows, masks, names, strict=True) if repeats else ()):
            got = simulate_risk(
                cov, beta, config.sigma, config.n, mask, repeats, config.seed + j, workers, epochs=epochs
            )
            row |= {"simulated": got.mean, "sd": got.sd, "sem": got.sem, "simulated/null": got.normalized}
            records.append(Record(config.covariance, "simulated_risk", got.normalized, name, config.seed, repeats))
        say(text_table(rows))
        for note in filter(None, table.notes):
            say(note)
        panel = _panel(config, rows, float(table.null[0]), repeats > 0)
        say(_least(panel.xlabel, middles, table.normalized[:, 0]))
        write_rows(run.path / "curve.csv", rows)
        figure = save_figure(run, "curve", [panel])
        run.write_results(stamped(records, "cpu"))
        say(f"Figure: {figure}\nDone: {run.path} (results.json, curve.csv)")
        return run


def _least(what: str, middles: list[float], risks: Floats) -> str:
    """Return where the curve is lowest, and whether that may be because the grid ends there."""
    best = int(np.argmin(risks))
    if not np.isfinite(risks[best]):
        return "the predicted risk is infinite at every ratio"
    found = f"least predicted risk at {what} = {middles[best]:g}: {risks[best]:.4g} of null"
    if len(middles) == 1 or 0 < best < len(middles) - 1:
        return found
    option = "--low" if best == 0 else "--high"
    return f"{found} (at the end of the grid: it may be lower beyond; see {option})"


def _model(config: options.RiskCurve) -> tuple[Covariance, np.ndarray]:
    p, seed = config.p, config.seed
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


def _masks(config: options.RiskCurve) -> tuple[list[float], Sequence[float | MaskDistribution]]:
    if not config.low <= config.high < 1:
        raise TheoryError(f"--low must not be above --high, and --high below 1, got {config.low} and {config.high}")
    count = int((config.high - config.low) / config.step + 1e-9) + 1
    middles = [round(config.low + k * config.step, 6) for k in range(count)]
    if config.width == 0:
        if config.protocol == "coupled":
            raise TheoryError("--protocol coupled is for ranges: without --width the two protocols are the same")
        return middles, list(middles)
    half = config.width / 2
    kept = [r for r in middles if r - half >= config.low - 1e-9 and r + half <= config.high + 1e-9]
    if not kept:
        raise TheoryError(f"no range of width {config.width} fits between {config.low} and {config.high}")
    protocol = Coupled if config.protocol == "coupled" else Uniform
    return kept, [protocol(r - half, r + half) for r in kept]


def _predicted(table: RiskTable, j: int, ratio: float) -> Row:
    risk = table.pick(j)
    return {
        "ratio": ratio,
        "risk": risk.total,
        "bias": risk.bias,
        "variance": risk.variance,
        "risk/null": risk.normalized,
        "effective n": risk.effective_n,
        "p/n_eff": risk.gamma_effective,
    }


def _panel(config: options.RiskCurve, rows: list[Row], null: float, measured: bool) -> Panel:
    def column(name: str) -> list[float]:
        return [number(row[name]) for row in rows]

    y = column("risk/null")
    series = [Series("theory", column("ratio"), y, color=0)]
    if measured:
        error = [sd / null for sd in column("sd")]
        series.append(Series("simulation", column("ratio"), column("simulated/null"), error, dots=True, color=0))
    what = "mask ratio r" if config.width == 0 else f"middle of a range {config.width:g} wide"
    top = max(2.0, 1.3 * min((v for v in y if np.isfinite(v)), default=1.0))
    title = f"{config.covariance}, p = {config.p}, n = {config.n}"
    title += "" if config.epochs == 1 else f", {config.epochs} epochs"
    return Panel(title, what, "risk / null risk", series, 1.0, top)
