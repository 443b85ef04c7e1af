"""`advise`: what the theory recommends for a file, as text, a figure and a run folder."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from r2mae_core import Record, RunFolder, check_bounds, fingerprint, open_run, refuse_options, resolved, say, stamped
from r2mae_theory.advice import Advice, advise
from r2mae_theory.errors import DataError
from r2mae_theory.experiment import Panel, Series, ratio_grid
from r2mae_theory.files import read_table
from r2mae_theory.masks import scheme_name
from r2mae_theory.options import Advise
from r2mae_theory.plots import save_figure
from r2mae_theory.rows import Row, text_table, write_rows
from r2mae_theory.validate import Validation

_OF_THE_OTHER = {
    "hidden": dict.fromkeys(("labels", "n_dimensions", "n_labels", "reading", "n_splits"), "--target representation"),
    "representation": dict.fromkeys(
        ("n_samples", "targets", "shrinkage", "bootstrap", "epochs", "validate"), "--target hidden"
    ),
}


def advise_command(config: Advise) -> RunFolder:
    """Print the predicted curve of a file and the recommendation, draw it, and return the run folder."""
    check_bounds(config)
    _check_place(config.data, config.out)
    refuse_options(config, _OF_THE_OTHER[config.target], f"--target {config.target}")
    if config.target == "representation":
        from r2mae_theory.probe_command import advise_for_probe

        return advise_for_probe(config)
    table = read_table(config.data)
    found = advise(
        table,
        config.n_samples,
        ratio_grid(config.step),
        "all" if config.targets is None else config.targets,
        shrinkage=config.shrinkage,
        n_bootstrap=config.bootstrap,
        validate=config.validate,
        seed=config.seed,
        epochs=float(config.epochs),
    )
    with open_run("r2mae-theory", "advise", config.out, resolved(config), sources=fingerprint(config.data)) as run:
        rows = _rows(found)
        counts = f"{len(table.X)} samples, {found.n_features} features, {len(found.targets)} targets"
        say(f"{counts}, planned n = {found.n_samples}{_often(found.epochs)}\n{text_table(rows)}")
        for note in found.notes:
            say(note)
        _recommend(found)
        write_rows(run.path / "curve.csv", rows)
        run.write_json("advice.json", asdict(found))
        figure = save_figure(run, "advice", _panels(found))
        run.write_results(stamped(_records(found, config.data.stem, config.seed), "cpu"))
        say(f"Figure: {figure}\nDone: {run.path} (results.json, curve.csv, advice.json)")
        return run


def _often(epochs: float) -> str:
    return "" if epochs == 1 else f", each seen {'very often' if np.isinf(epochs) else f'{epochs:g} times'}"


def _check_place(data: Path, out: Path | None) -> None:
    """Refuse a table inside the run folder, whose files are written again by each run."""
    if out is not None and any(out.resolve() in path.parents for path in (data.absolute(), data.resolve())):
        raise DataError(f"{data} lies in the run folder {out}, whose files this command writes; name another --out")


def _recommend(found: Advice) -> None:
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
        what = "held-out rows" if v.n_samples == found.n_samples else f"held-out rows, at n = {v.n_samples:,}"
        say(f"{what}: least error at {v.measured_ratio:g} ({clear}), predicted {v.predicted_ratio:g}")


def _rows(found: Advice) -> list[Row]:
    rows: list[Row] = [
        {"ratio": float(r), "risk/null": float(v)} for r, v in zip(found.ratios, found.curve, strict=True)
    ]
    if (v := found.validation) is not None:
        for row, measured, predicted in zip(rows, v.measured, v.predicted, strict=True):
            row |= {"held-out error": float(measured), "predicted error": float(predicted)}
    return rows


def _records(found: Advice, task: str, seed: int) -> list[Record]:
    """Return the predictions from all rows, and prediction and measurement for held-out rows.

    If these are for another n than the advice, their task says so.
    """
    fixed = [(scheme_name(float(r)), float(v)) for r, v in zip(found.ratios, found.curve, strict=True)]
    ranged = [(scheme_name(r), float(v)) for r, v in zip(found.ranges, found.range_curve, strict=True)]
    records = [Record(task, "predicted_risk", v, name, seed, found.n_samples) for name, v in [*fixed, *ranged]]
    if (v := found.validation) is not None:
        task = task if v.n_samples == found.n_samples else f"{task}, n = {v.n_samples}"
        for (name, _), measured, predicted in zip(fixed, v.measured, v.predicted, strict=True):
            records.append(Record(task, "error", float(measured), name, seed, v.n_held_out))
            records.append(Record(task, "predicted_error", float(predicted), name, seed, v.n_samples))
    return records


def _panels(found: Advice) -> list[Panel]:
    x = found.ratios.tolist()
    middles = [(low + high) / 2 for low, high in found.ranges]
    series = [
        Series("theory, fixed ratio", x, found.curve.tolist(), color=0),
        Series("theory, ranges (at their middle)", middles, found.range_curve.tolist(), dots=True, color=1),
    ]
    top = max(2.0, 1.3 * float(found.curve.min()))
    panel = Panel("predicted risk", "mask ratio r", "risk / null risk", series, 1.0, top)
    return [panel] if found.validation is None else [panel, _held_out(x, found.validation)]


def _held_out(x: list[float], v: Validation) -> Panel:
    title = f"error over variance, {v.n_targets} targets, n = {v.n_samples}"
    series = [
        Series("predicted", x, v.predicted.tolist(), color=0),
        Series("held-out rows", x, v.measured.tolist(), v.sem.tolist(), dots=True, color=1),
    ]
    top = max(2.0, 1.3 * float(v.measured.min()))
    return Panel(title, "mask ratio r", "mean squared error / variance", series, 1.0, top)
