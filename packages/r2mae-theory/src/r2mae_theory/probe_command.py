"""`advise --target representation`: which ratio suits a linear probe, as text, a figure and a run folder."""

from dataclasses import asdict

import numpy as np

from r2mae_core import Record, RunFolder, fingerprint, open_run, resolved, say, stamped
from r2mae_theory.experiment import Panel, Series, ratio_grid
from r2mae_theory.files import read_table
from r2mae_theory.masks import scheme_name
from r2mae_theory.options import Advise
from r2mae_theory.plots import save_figure
from r2mae_theory.probe_advice import ProbeAdvice, advise_probe
from r2mae_theory.rows import Row, text_table, write_rows


def advise_for_probe(config: Advise) -> RunFolder:
    """Print the probe's error over the ratio, draw it, and return the run folder."""
    table = read_table(config.data)
    found = advise_probe(
        table,
        ratios=ratio_grid(config.step),
        labels=config.labels,
        n_dimensions=config.n_dimensions,
        n_labels=config.n_labels,
        reading=config.reading,
        n_splits=config.n_splits,
        seed=config.seed,
    )
    with open_run("r2mae-theory", "advise", config.out, resolved(config), sources=fingerprint(config.data)) as run:
        rows: list[Row] = [
            {"ratio": float(r), "error/variance": float(e), "sd": float(s)}
            for r, e, s in zip(found.ratios, found.error, found.sd, strict=True)
        ]
        what = f"columns {', '.join(found.labels)}" if found.labels else "random directions of the features"
        say(
            f"{len(table.X)} samples, {found.n_features} features, a representation of {found.n_dimensions}; "
            f"the probe learns {what} from {found.n_labels} rows\n{text_table(rows)}"
        )
        for note in found.notes:
            say(note)
        low, high = np.percentile(found.split_ratios, [5, 95])
        say(f"best ratio for a linear probe: {found.best_ratio:g} (5 to 95 % over splits: {low:g} to {high:g})")
        say(f"not told apart from it: {', '.join(f'{ratio:g}' for ratio in found.as_good)}")
        write_rows(run.path / "curve.csv", rows)
        run.write_json("advice.json", asdict(found))
        figure = save_figure(run, "advice", [_panel(found)])
        run.write_results(stamped(_records(found, config, len(table.X)), "cpu"))
        say(f"Figure: {figure}\nDone: {run.path} (results.json, curve.csv, advice.json)")
        return run


def _records(found: ProbeAdvice, config: Advise, n_rows: int) -> list[Record]:
    """Return the mean error of each ratio, measured on the other half of the rows."""
    task, n = f"{config.data.stem}, probe", n_rows - n_rows // 2
    return [
        Record(task, "error", float(error), scheme_name(float(ratio)), config.seed, n)
        for ratio, error in zip(found.ratios, found.error, strict=True)
    ]


def _panel(found: ProbeAdvice) -> Panel:
    curve = Series("held-out rows", found.ratios.tolist(), found.error.tolist(), found.sd.tolist(), dots=True)
    title = f"linear probe on {found.n_dimensions} dimensions"
    return Panel(title, "mask ratio r of the pretraining", "squared error / variance", [curve])
