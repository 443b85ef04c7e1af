"""Tables 5 and 9: R2MAE beside the best fixed ratio and the midpoint of its range, by the protocol of C.1."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2mae_core import Record, read_json, write_json
from r2mae_theory.errors import TheoryError
from r2mae_theory.experiment import Experiment, Panel, Series, Size
from r2mae_theory.masks import Fixed, Uniform, scheme_name
from r2mae_theory.risk import risk_table
from r2mae_theory.rows import Row, number
from r2mae_theory.scenes import eigenvector, spectrum
from r2mae_theory.simulate import simulate_risk


@dataclass(frozen=True)
class TableSpec:
    """A table's setting and the paper's printed rows: seed → (best ratio, least risk, midpoint, R2MAE) per model."""

    midpoint: float
    quantile: float
    printed: dict[str, dict[int, tuple[float, float, float, float]]]
    p: int = 400
    n: int = 100
    sigma: float = 0.5
    half_width: float = 0.15


TABLES = {
    "table5": TableSpec(
        midpoint=0.55,
        quantile=1.0,
        printed={
            "beta": {
                2: (0.55, 0.520, 0.520, 0.504),
                12: (0.53, 0.606, 0.612, 0.599),
                22: (0.58, 0.626, 0.631, 0.615),
                32: (0.51, 0.543, 0.563, 0.549),
                42: (0.53, 0.649, 0.658, 0.645),
            },
            "latent": {
                2: (0.55, 0.611, 0.611, 0.599),
                12: (0.65, 0.641, 0.673, 0.662),
                22: (0.36, 0.662, 0.667, 0.653),
                32: (0.59, 0.640, 0.659, 0.634),
                42: (0.38, 0.640, 0.643, 0.629),
            },
        },
    ),
    "table9": TableSpec(
        midpoint=0.45,
        quantile=0.9,
        printed={
            "beta": {
                2: (0.43, 0.859, 0.865, 0.855),
                12: (0.43, 0.863, 0.865, 0.859),
                22: (0.54, 0.862, 0.898, 0.890),
                32: (0.43, 0.817, 0.822, 0.814),
                42: (0.36, 0.817, 0.830, 0.819),
            },
            "latent": {
                2: (0.45, 0.826, 0.826, 0.823),
                12: (0.42, 0.832, 0.837, 0.830),
                22: (0.37, 0.848, 0.851, 0.842),
                32: (0.33, 0.852, 0.865, 0.859),
                42: (0.43, 0.814, 0.818, 0.806),
            },
        },
    ),
}

_COLUMNS = ("best", "min", "mid", "r2mae", "sem", "theory best", "theory min", "theory mid", "theory r2mae")
GRID = tuple(round(0.01 * k, 2) for k in range(20, 81))


def reproduce_table(name: str, size: Size, cache: Path | None) -> Experiment:
    """Simulate and predict every row; finished rows are kept in `cache`, a file each, and not run again."""
    spec = TABLES[name]
    rows: list[Row] = []
    for model, printed in spec.printed.items():
        for seed in size.table_seeds:
            file = None if cache is None else cache / f"{model}-{seed}.json"
            if file is not None and file.is_file():
                row = _kept(file)
            else:
                row = _row(spec, model, seed, size)
                if file is not None:
                    write_json(file, row)
            paper = dict(zip(("best", "min", "mid", "r2mae"), printed[seed], strict=True)) if seed in printed else {}
            rows.append({"model": model, "seed": seed, **row, **{f"paper {k}": v for k, v in paper.items()}})
    records = [record for row in rows for record in _records(name, spec, row, size.repeats)]
    return Experiment(name, records, rows, _panels(name, rows), _summary(rows), _finding(rows))


def _kept(file: Path) -> Row:
    """Return a row that an earlier call computed.

    Raises:
        TheoryError: the file does not hold one.
    """
    row = read_json(file)
    if tuple(row) != _COLUMNS or not all(isinstance(value, float) for value in row.values()):
        raise TheoryError(f"{file} is damaged, or not a row of a table; remove it, and it is computed again")
    return row


def _records(name: str, spec: TableSpec, row: Row, repeats: int) -> list[Record]:
    """Return a row as records. Its seed draws the covariance: each row is a task. The paper's values are simulated."""
    task, seed = f"{name} {row['model']} {row['seed']}", int(number(row["seed"]))
    schemes = {"min": "best fixed", "mid": scheme_name(spec.midpoint), "r2mae": "r2mae"}
    cells = [("best", "best_ratio", "best fixed"), *((key, "risk", scheme) for key, scheme in schemes.items())]
    found = []
    for key, what, scheme in cells:
        paper = number(row[f"paper {key}"]) if f"paper {key}" in row else None
        simulated = Record(task, f"simulated_{what}", number(row[key]), scheme, seed, repeats, paper=paper)
        predicted = Record(task, f"predicted_{what}", number(row[f"theory {key}"]), scheme, seed, spec.n)
        found += [simulated, predicted]
    return found


def _row(spec: TableSpec, model: str, seed: int, size: Size) -> Row:
    cov = spectrum(model, spec.p, seed)
    beta = eigenvector(cov, spec.quantile)
    ours = Uniform(spec.midpoint - spec.half_width, spec.midpoint + spec.half_width)
    masks = [*(Fixed(r) for r in GRID), ours]

    def measured(mask: Fixed | Uniform) -> tuple[float, float]:
        # One seed for all ratios, as in the paper's own check that a range without width equals the fixed ratio.
        got = simulate_risk(cov, beta, spec.sigma, spec.n, mask, size.repeats, seed, size.n_jobs)
        return got.normalized, got.sem / got.null

    means = [measured(mask)[0] for mask in masks[:-1]]
    mixed, error = measured(ours)
    theory = risk_table(cov, beta, spec.sigma, spec.n, masks).normalized[:, 0]
    middle, best, expected = GRID.index(spec.midpoint), int(np.argmin(means)), int(np.argmin(theory[:-1]))
    return {
        "best": GRID[best],
        "min": means[best],
        "mid": means[middle],
        "r2mae": mixed,
        "sem": error,
        "theory best": GRID[expected],
        "theory min": float(theory[expected]),
        "theory mid": float(theory[middle]),
        "theory r2mae": float(theory[-1]),
    }


def _summary(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k != "sem"} for row in rows]


def _finding(rows: list[Row]) -> str:
    def below(ours: str, other: str) -> int:
        return sum(number(r[ours]) < number(r[other]) for r in rows if r.get(ours) is not None)

    total = len(rows)
    printed = sum("paper r2mae" in r for r in rows)
    return "\n".join(
        f"{who}: R2MAE below the best fixed ratio in {below(prefix + 'r2mae', prefix + 'min')} of {count} rows, "
        f"below the midpoint of its range in {below(prefix + 'r2mae', prefix + 'mid')} of {count}"
        for who, prefix, count in (("simulated", "", total), ("theory", "theory ", total), ("paper", "paper ", printed))
    )


def _panels(name: str, rows: list[Row]) -> list[Panel]:
    panels = []
    for model in dict.fromkeys(r["model"] for r in rows):
        ours = [r for r in rows if r["model"] == model]
        series = []
        for k, (prefix, who) in enumerate((("", "simulated"), ("theory ", "theory"), ("paper ", "paper"))):
            known = {i: r for i, r in enumerate(ours) if prefix + "r2mae" in r}
            gap = [100 * (number(r[prefix + "r2mae"]) / number(r[prefix + "min"]) - 1) for r in known.values()]
            series.append(Series(who, list(known), gap, dots=True, color=k))
        panels.append(Panel(f"{name}: {model}", "row of the table", "R2MAE above best fixed [%]", series, 0.0))
    return panels
