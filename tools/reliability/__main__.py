"""`nox -s reliability`: break every command on purpose, and write what was lost to docs/reliability.md.

Tens of minutes. `-- --only text --part kills` picks; `-- --trial WORDS` those whose name has the words. A run that was
picked from is only printed.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tools.reliability import damage, disks, kills, refusals, sources
from tools.reliability.jobs import PACKAGES
from tools.reliability.shell import Shell
from tools.reliability.trials import Bench, Failed, Job, NotTried, Outcome, Trial, attempt

Trials = Callable[[Bench, Job], Iterator[tuple[str, partial[None]]]]
PARTS: dict[str, Trials] = {
    "kills": kills.trials,
    "moves": kills.moved,
    "start-up": kills.startup,
    "sources": sources.trials,
    "disks": disks.trials,
    "damage": damage.trials,
    "writers": refusals.two_writers,
    "inputs": refusals.over_inputs,
    "starts": refusals.failed_starts,
}


def control(trial: Trial) -> None:
    """The comparison must notice another result: a job with other options."""
    trial.run([*trial.job.command(), *trial.job.other.split()], good=True)
    if not trial.differences():
        raise Failed("other", "the comparison does not notice another result")


def run_package(bench: Bench, package: str, options: argparse.Namespace) -> list[Outcome]:
    """Make the materials and the baselines of a package, then its trials."""
    write, listed = PACKAGES[package]
    bench.write_materials(package, write)
    outcomes: list[Outcome] = []
    ready: list[Job] = []
    for job in listed():
        try:
            bench.prepare(job)
        except NotTried as reason:
            outcomes.append(Outcome(package, "undisturbed", job.name, "not tried", str(reason)))
            continue
        except Failed as failed:
            outcomes.append(Outcome(package, "undisturbed", job.name, failed.verdict, str(failed), (job.words,)))
            print(package, job.name, failed)
            continue
        alone = bench.baseline(job)
        print(f"{package} {job.name}: {alone.seconds:.1f} s undisturbed, {alone.n_changes} changes", flush=True)
        ready.append(job)
    planned = [
        (job, part, name, test)
        for job in ready
        if not job.maker
        for part in options.part
        for name, test in PARTS[part](bench, job)
        if options.trial in f"{job.name}: {name}"
    ]
    draw = bench.random(package)
    planned = [plan for plan in planned if draw.random() < options.share]
    planned += [(job, "control", "another result", control) for job in ready if job.other]
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda plan: attempt(bench, plan[0], plan[1], plan[2], plan[3]), planned):
            outcomes.append(outcome)
            if outcome.verdict != "good":
                print(f"{package} {outcome.kind}: {outcome.name}: {outcome.verdict}: {outcome.message}", flush=True)
    return outcomes


def main() -> int:
    """Run what was asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="nox -s reliability --")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trial", default="", help="only those whose name has these words")
    parser.add_argument("--share", type=float, default=1.0, help="part of the trials that is made")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of interruption and of the damage")
    parser.add_argument("--keep", type=Path, help="folder for what failed trials leave")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    started, outcomes, shell = time.monotonic(), [], Shell()
    with tempfile.TemporaryDirectory(prefix="r2mae-reliability-") as folder:
        bench = Bench(Path(folder), shell, options.seed, options.keep)
        try:
            for package in options.only:
                outcomes += run_package(bench, package, options)
        finally:
            shell.close()
    bad = [outcome for outcome in outcomes if outcome.verdict not in ("good", "not tried")]
    for outcome in bad:
        print(
            f"\n{outcome.package}, {outcome.kind}, {outcome.name}\n  {outcome.verdict}: {outcome.message}",
            *outcome.steps,
            sep="\n  ",
        )
    print(f"\n{len(outcomes)} trials, {len(bad)} failures, {time.monotonic() - started:.0f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
