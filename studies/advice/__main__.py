"""`python -m studies.advice measure NAME` and `report`."""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from r2mae_core import Fixed, RatioSampler, Uniform, scheme, write_text
from r2mae_core.sweep.arms import arms_of
from studies.advice import models, tables
from studies.advice.report import MODALITY, write_report

RESULTS = Path(__file__).with_name("results")

RATIOS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
"""Fixed ratios measured on every set, beside the advised ones and the usual ones of the modality."""


EPOCHS = {"digits": 40, "cifar10": 5, "pbmc": 60, "apes": 1, "words": 1}
"""How often each network of the study sees a sample; the apes' windows 1.3 times, the sentences less than once."""


def samplers(name: str, best_ratio: float, best_range: tuple[float, float]) -> dict[str, RatioSampler]:
    """Return what is compared on a data set: fixed ratios, the advised range, the modality's own R2MAE and U(0, 1)."""
    found: dict[str, RatioSampler] = {f"{r:g}": Fixed(r) for r in sorted({*RATIOS, round(best_ratio, 2)})}
    ranges = [best_range, scheme("r2mae", MODALITY[name]), Uniform(0.0, 1.0)]
    for each in ranges:
        low, high = each if isinstance(each, tuple) else (each.low, each.high)
        found[f"{low:g}-{high:g}"] = Uniform(low, high)
    return found


def measure(name: str, n_seeds: int, work: Path) -> None:
    """Ask `advise`, train and evaluate every sampler, and write `results/NAME.json` after each model.

    Seeds that are complete in the file are kept and not measured again.
    """
    from r2mae_theory import advise

    table = getattr(tables, name)
    X = table(work)
    advice = advise(X)
    print(f"{name}: {X.shape[0]:,} × {X.shape[1]}, advised {advice.best_ratio:g}, range {advice.best_range}")
    start = time.perf_counter()
    chosen = samplers(name, advice.best_ratio, advice.best_range)
    scores = whole_seeds(RESULTS / f"{name}.json", set(chosen))
    missing = sorted(set(range(n_seeds)) - {seed for _, seed, _ in scores})
    for cell in getattr(models, name)(chosen, missing, work):
        scores.append(cell)
        print(f"  {cell[0]}, seed {cell[1]}: {cell[2]:.4f} ({time.perf_counter() - start:.0f} s)", flush=True)
        found = {
            "table": " ".join(table.__doc__.split()),
            "model": " ".join(getattr(models, name).__doc__.split()),
            "n": len(X),
            "p": len(advice.per_target),
            "ratios": np.round(advice.ratios, 4).tolist(),
            "curve": np.round(advice.curve, 5).tolist(),
            "best_ratio": round(advice.best_ratio, 4),
            "bootstrap": np.round(advice.bootstrap_ratios, 4).tolist(),
            "best_range": [round(end, 4) for end in advice.best_range],
            "scores": [[sampler, seed, round(score, 5)] for sampler, seed, score in scores],
        }
        write_text(RESULTS / f"{name}.json", json.dumps(found) + "\n")


def measure_short(name: str, share: float, n_seeds: int, work: Path) -> None:
    """Train and evaluate what `sweep` tries for a share of the full length; writes `results/NAME.short.json`.

    What the file has of other shares is kept; so are complete seeds of this one.
    """
    file, arms = RESULTS / f"{name}.short.json", arms_of(RATIOS, None, MODALITY[name])
    rows = json.loads(file.read_text())["scores"] if file.exists() else []
    chosen = {arm.name: arm.sampler(0) for arm in arms}
    here = {(arm, seed) for arm, seed, other, *_ in rows if other == share}
    missing = [seed for seed in range(n_seeds) if not all((arm, seed) in here for arm in chosen)]
    rows = [row for row in rows if row[2] != share or row[1] not in missing]
    start = time.perf_counter()
    for arm, seed, score in getattr(models, name)(chosen, missing, work, share):
        now = time.perf_counter()
        rows.append([arm, seed, share, round(score, 5), round(now - start, 2)])
        start = now
        print(f"  {rows[-1]}", flush=True)
        write_text(file, json.dumps({"scores": rows}) + "\n")


def measure_epochs(name: str, work: Path) -> None:
    """Predict the curve again for the epochs that the network was trained for, and without end.

    Writes `results/epochs.json`, which keeps the other sets' curves.
    """
    from r2mae_theory import advise

    X, often = getattr(tables, name)(work), EPOCHS[name]
    curves = {
        key: advise(X, n_bootstrap=0, epochs=epochs).curve
        for key, epochs in {"1": 1, "trained": often, "inf": math.inf}.items()
    }
    file = RESULTS / "epochs.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found[name] = {"epochs": often, "curves": {key: np.round(curve, 5).tolist() for key, curve in curves.items()}}
    write_text(file, json.dumps(found) + "\n")
    print(name, {key: float(np.argmin(curve)) for key, curve in curves.items()})


def measure_probe(name: str, work: Path, n_splits: int) -> None:
    """Probe the linear model's own representation on held-out rows, at the ratios at which the networks were measured.

    Writes `results/probe.json`, which keeps the other sets' curves.
    """
    from r2mae_theory import advise_probe
    from r2mae_theory.probe_risk import READINGS

    X, Y = getattr(tables, name)(work), tables.labels(name, work)
    file = RESULTS / "probe.json"
    curves = {}
    for reading in READINGS:
        made = advise_probe(X, Y, RATIOS, reading=reading, n_splits=n_splits)
        curves[reading] = {"error": np.round(made.error, 5).tolist(), "sd": np.round(made.sd, 5).tolist()}
        curves[reading]["as_good"] = np.round(made.as_good, 4).tolist()
        found = json.loads(file.read_text()) if file.exists() else {}
        found[name] = {"ratios": made.ratios.tolist(), "k": made.n_dimensions, "p": made.n_features} | {
            "splits": n_splits, "labelled": Y is not None, "curves": curves,
        }  # fmt: skip
        write_text(file, json.dumps(found) + "\n")
        print(name, reading, made.best_ratio, made.error.round(3), flush=True)


def whole_seeds(file: Path, names: set[str]) -> list[models.Cell]:
    """Return the cells of a results file whose seed has every one of these samplers."""
    cells = [tuple(cell) for cell in json.loads(file.read_text())["scores"]] if file.exists() else []
    seeds = {seed for _, seed, _ in cells}
    whole = {seed for seed in seeds if {name for name, other, _ in cells if other == seed} >= names}
    return [cell for cell in cells if cell[0] in names and cell[1] in whole]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.advice", description="Does the theory help practice?")
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("measure", help="train and evaluate every ratio on a data set")
    one.add_argument("name", choices=MODALITY)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--share", type=float, default=1.0, help="of the full length: 0.2 is what sweep begins with")
    one.add_argument("--work", type=Path, default=Path("runs/advice"), help="folder of the runs")
    one.add_argument("--cifar10", type=Path, help="folder of CIFAR-10's binary files, for cifar10")
    again = verbs.add_parser("epochs", help="predict the curves for several epochs")
    again.add_argument("names", nargs="+", choices=MODALITY)
    again.add_argument("--work", type=Path, default=Path("runs/advice"), help="folder of the data")
    probe = verbs.add_parser("probe", help="probe the linear model's own representation")
    probe.add_argument("names", nargs="+", choices=MODALITY)
    probe.add_argument("--splits", type=int, default=10, help="random halves of the rows")
    probe.add_argument("--work", type=Path, default=Path("runs/advice"), help="folder of the data")
    report = verbs.add_parser("report", help="write the page's tables and figures")
    report.add_argument("--docs", type=Path, default=Path("docs"))
    given = parser.parse_args()
    if given.verb == "measure":
        (given.work / given.name).mkdir(parents=True, exist_ok=True)
        if given.name == "cifar10":
            if given.cifar10 is None:
                parser.error("cifar10 needs --cifar10 DIR")
            tables.cut_cifar10(given.cifar10, given.work / "cifar10" / "data")
        if given.share < 1:
            measure_short(given.name, given.share, given.seeds, given.work / given.name)
        else:
            measure(given.name, given.seeds, given.work / given.name)
    elif given.verb == "epochs":
        for name in given.names:
            measure_epochs(name, given.work / name)
    elif given.verb == "probe":
        for name in given.names:
            measure_probe(name, given.work / name, given.splits)
    else:
        write_report(RESULTS, given.docs)


if __name__ == "__main__":
    main()
