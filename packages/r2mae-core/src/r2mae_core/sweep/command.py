"""The way that every `sweep` goes: from options to an answer that a user can act on."""

import json
import math
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2mae_core.lab.comparison import Direction
from r2mae_core.lab.errors import LostTrainingError, UserError
from r2mae_core.lab.grid import claimed, telling_how_to_go_on
from r2mae_core.lab.records import Record
from r2mae_core.lab.run_folder import RunFolder, open_run, page_line, resolved
from r2mae_core.lab.terminal import say
from r2mae_core.ratio.config import scheme_name
from r2mae_core.ratio.protocol import RatioSampler
from r2mae_core.sweep.arms import Arm, arms_of, paper_range, usual_ratio
from r2mae_core.sweep.curve import Curve, Point, fit_curve
from r2mae_core.sweep.figure import draw_curve
from r2mae_core.sweep.options import SweepOptions
from r2mae_core.sweep.search import SHARES, Budget, Worker, lost, open_study, points, search, spent

DEFAULT_RUNS = 12.0
FREE = ("budget_runs", "budget_minutes", "storage")

Measure = Callable[[RatioSampler, int, float, Path], Sequence[Record]]
"""(scheme, seed, share, folder) → records of the evaluation. Pretrains with this share of the full length under the
folder, and evaluates there; called again for the same folder after an interruption, where it goes on."""


def run_sweep(
    program: str,
    modality: str,
    config: SweepOptions,
    measure: Measure,
    *,
    metrics: Mapping[str, Direction],
    pretrain_command: Callable[[str], str],
    facts: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
) -> RunFolder:
    """Find which ratio or range suits the user's data and task, and return the run folder with the answer.

    The folder has `sweep.json` (the answer), `results.json` (every measurement of full length) and
    `figures/sweep.png`. Going on in a finished folder with a larger budget adds to it.

    Args:
        program: the console script.
        modality: where the usual ratio and R2MAE's range are looked up.
        config: the options.
        measure: trains and evaluates.
        metrics: what the evaluation measures, and whether large or small values are good; the default first.
        pretrain_command: what to call with an option such as "--mask_ratio 0.4".
        facts: what else the trainings depend on; see `RunFolder`.
        sources: `fingerprint` of the user's files.

    Raises:
        UserError: there is no such metric, the budget is too small for anything, the storage holds another sweep, or
            what the training refuses.
    """
    metric = config.metric or next(iter(metrics))
    if metric not in metrics:
        raise UserError(f"--metric {metric} is not measured here; there is {', '.join(metrics)}")
    arms = arms_of(config.ratios, config.ranges, modality)
    runs = config.budget_runs if config.budget_runs or config.budget_minutes else DEFAULT_RUNS
    if runs is not None and runs < len(arms) * SHARES[0]:
        raise UserError(
            f"--budget_runs {runs:g} is too small to try {len(arms)} ratios and ranges once, which takes "
            f"{len(arms) * SHARES[0]:g}; raise it, or name fewer --ratios"
        )
    settings = {**resolved(config), "metric": metric}
    free = (*FREE, *(["data"] if facts or sources else []))  # then it is known by its content
    with open_run(program, "sweep", config.out, settings, facts=facts, sources=sources, free=free, shared=True) as run:

        def measured(arm: Arm, seed: int, share: float) -> float:
            folder = _home(run, arm, seed) / f"{share:g}"
            with telling_how_to_go_on(run):
                records = measure(arm.sampler(seed), seed, share, folder)
            study.set_user_attr("evaluated", _evaluated(records, metric))
            for checkpoints in folder.glob("**/checkpoints"):  # each is three times the model
                shutil.rmtree(checkpoints, ignore_errors=True)
            return _score(records, metric, metrics[metric])

        worker = Worker(
            measured, Budget(runs, config.budget_minutes), f"{socket.gethostname()}:{run.path.resolve()}",
            lambda arm, seed: claimed(_home(run, arm, seed), wait=False), say,
        )  # fmt: skip
        kept = {key: value for key, value in settings.items() if key not in (*free, "device")}
        study = open_study(
            config.storage or run.path / "trials.log", f"{program} sweep", config.seed,
            json.dumps([kept, dict(facts or {}), dict(sources or {})], default=str, sort_keys=True),
            [arm.name for arm in arms],
        )  # fmt: skip
        say(f"Comparing {', '.join(arm.name for arm in arms)} by {metric}, at most {_budget_text(runs, config)}")
        search(study, arms, worker, config.seed)
        with run.summing_up():
            found = points(study, arms)
            if not found:
                raise UserError("nothing was measured within the budget; raise --budget_minutes or --budget_runs")
            without = lost(study)
            curve = fit_curve([point for point, _ in found], [arm for arm in arms if arm.name not in without])
            answer = answer_of(curve, found, modality, metric, metrics[metric], spent(study), pretrain_command)
            answer |= {"lost": without, "seconds": round(spent(study, "seconds"), 1)}
            run.write_results(list(_records(found, metric, metrics[metric], modality, study.user_attrs["evaluated"])))
            run.write_json("sweep.json", answer)
            run.save_figure("sweep.png", draw_curve(curve, found, metric, metrics[metric], modality))
    for line in lines_of(answer):
        say(line)
    say(f"Done: {run.path} (sweep.json, results.json, figures/sweep.png)")
    say(page_line(program, run.path))
    return run


def _home(run: RunFolder, arm: Arm, seed: int) -> Path:
    return run.path / "trials" / f"{arm.name}-seed{seed}"


def _budget_text(runs: float | None, config: SweepOptions) -> str:
    parts = [f"{runs:g} trainings of full length"] if runs is not None else []
    return " and ".join([*parts, *([f"{config.budget_minutes:g} minutes"] if config.budget_minutes else [])])


def _score(records: Sequence[Record], metric: str, direction: Direction) -> float:
    """Return the mean over tasks, signed so that higher is better."""
    values = [record.value for record in records if record.metric == metric]
    if not values:
        raise UserError(f"the evaluation gave no {metric}; there is {', '.join(sorted({r.metric for r in records}))}")
    value = sum(values) / len(values)
    if not math.isfinite(value):
        raise LostTrainingError(f"its {metric} is {value}")
    return value if direction == "max" else -value


def _evaluated(records: Sequence[Record], metric: str) -> dict[str, Any]:
    """Return what the scores of a sweep are of: the same in every training."""
    own = [record for record in records if record.metric == metric]
    tasks, splits = (dict.fromkeys(values) for values in ((r.task for r in own), (r.split for r in own)))
    return {"task": ", ".join(tasks), "n": sum(record.n for record in own), "split": ", ".join(splits)}


def _records(
    found: Sequence[tuple[Point, int]], metric: str, direction: Direction, modality: str, of: Mapping[str, Any]
) -> Iterator[Record]:
    sign = 1 if direction == "max" else -1
    for point, seed in found:
        if point.share == SHARES[-1]:
            scheme = scheme_name(point.arm.sampler(seed), modality)
            yield Record(of["task"], metric, sign * point.score, scheme, seed, of["n"], of["split"])


def answer_of(
    curve: Curve,
    found: Sequence[tuple[Point, int]],
    modality: str,
    metric: str,
    direction: Direction,
    cost: float,
    pretrain_command: Callable[[str], str],
) -> dict[str, Any]:
    """Return what the measurements say, as plain data. Differences are in the metric's own units."""
    sign = 1 if direction == "max" else -1
    best = curve.arms[curve.best]

    def compared(arm: Arm) -> dict[str, Any]:
        if arm not in curve.arms:
            return {"arm": arm.name, "behind": None, "standard_error": None}
        lag, error = curve.behind(curve.arms.index(arm))
        return {"arm": arm.name, "behind": lag, "standard_error": error}

    return {
        "metric": metric,
        "direction": direction,
        "recommended": best.name,
        "as_good": [curve.arms[i].name for i in curve.as_good()],
        "paper_range": compared(paper_range(modality)),
        "usual_ratio": compared(usual_ratio(modality)),
        "curve": [
            {
                "arm": arm.name,
                "low": arm.low,
                "high": arm.high,
                "mean": sign * float(curve.mean[i]),
                "standard_error": float(curve.cov[i, i]) ** 0.5,
                "n_full": sum(point.arm == arm and point.share == SHARES[-1] for point, _ in found),
                "n_short": sum(point.arm == arm and point.share < SHARES[-1] for point, _ in found),
            }
            for i, arm in enumerate(curve.arms)
        ],
        "trainings": len(found),
        "runs_spent": round(cost, 6),
        "pretrain": pretrain_command(best.as_option()),
    }


def lines_of(answer: Mapping[str, Any]) -> list[str]:
    """Return the answer for a person."""
    curve = {row["arm"]: row for row in answer["curve"]}
    best = curve[answer["recommended"]]
    n_full = sum(row["n_full"] for row in answer["curve"])
    others = [name for name in answer["as_good"] if name != best["arm"]]
    lines = [
        f"Recommended: {best['arm']} ({answer['metric']} {best['mean']:.4f} ± {best['standard_error']:.4f} after a "
        f"full training, estimated from {answer['trainings']} trainings, {n_full} of them of full length, that cost "
        f"{answer['runs_spent']:.1f} full ones and {answer['seconds'] / 60:.1f} minutes)"
    ]
    if others:
        lines.append(f"Not told apart from it: {', '.join(others)}")
    for key, what in (("paper_range", "R2MAE's range"), ("usual_ratio", "The usual ratio")):
        row = answer[key]
        if row["behind"] is not None:  # else a training of it was lost
            behind = f"{row['behind']:.4f} ± {row['standard_error']:.4f} behind"
            lines.append(f"{what} {row['arm']} is {'the recommended one' if row['arm'] == best['arm'] else behind}")
    lines += [f"Left out: {name}, of which a training was lost: {why}" for name, why in answer["lost"].items()]
    lines.append(f"Next: {answer['pretrain']}")
    return lines
