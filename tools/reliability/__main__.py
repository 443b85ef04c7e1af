"""`nox -s reliability`: break every command on purpose, and write what was lost to docs/reliability.md.

Tens of minutes. `-- --only text --part kills` picks; `-- --trial WORDS` those whose name has the words. Only a run over
all packages and parts writes the page.
"""

import argparse
import math
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.reliability import damage, disks, kills, page, refusals, sources
from tools.reliability.bench import Bench
from tools.reliability.fuzzed import fuzz
from tools.reliability.job import Failed, Job, NotTried, Outcome
from tools.reliability.jobs import PACKAGES
from tools.reliability.shell import Shell
from tools.reliability.trials import Trial, attempt
from tools.reliability.undisturbed import leave_unfinished, prepare

Test = Callable[[Trial], None]
PARTS: Mapping[str, Callable[[Bench, Job], Iterator[tuple[str, Test]]]] = {
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


def repeated(trial: Trial) -> None:
    """The same command, undisturbed once more: what is not the same then cannot be tried."""
    process = trial.run(trial.job.command(), good=True)
    trial.expect_baseline(process)


Plan = tuple[Job, str, str, Test]


def control(trial: Trial) -> None:
    """The comparison must notice another result: that of the job with other options."""
    trial.run([*trial.job.command(), *trial.job.other.split()], good=True)
    if not trial.differences():
        raise Failed("other", "the comparison does not notice another result")


def prepare_jobs(bench: Bench, package: str, parts: list[str], outcomes: list[Outcome]) -> list[Job]:
    """Make the materials and the baselines of a package; return the jobs that work undisturbed."""
    write, listed = PACKAGES[package]
    bench.write_materials(package, write)
    ready: list[Job] = []
    for job in listed():
        outcome = Outcome(package, "undisturbed", job.name, "good", steps=(f"r2mae-{package} {job.words}",))
        try:
            prepare(bench, job)
            if "damage" in parts and job.damage and job.kills:
                leave_unfinished(bench, job)
        except NotTried as reason:
            outcome.verdict, outcome.message = "not tried", str(reason)
        except Failed as failed:
            outcome.verdict, outcome.message = failed.verdict, str(failed)
        else:
            ready.append(job)
        note(outcome)
        outcomes.append(outcome)
    return ready


def plans(bench: Bench, ready: Iterable[Job], options: argparse.Namespace) -> list[Plan]:
    """Return the trials that were asked for, and the controls that show that they can fail."""
    tried = [job for job in ready if not job.maker]
    found: list[Plan] = [
        (job, part, name, test)
        for job in tried
        for part in options.part
        if part in PARTS
        for name, test in PARTS[part](bench, job)
        if options.trial in f"{job.name}: {name}"
    ]
    found = [plan for part in options.part for plan in _drawn(bench, [p for p in found if p[1] == part], options.share)]
    found += [(job, "control", "the same result again", repeated) for job in tried]
    return found + [(job, "control", "another result is noticed", control) for job in tried if job.other]


def _drawn(bench: Bench, planned: list[Plan], share: float) -> list[Plan]:
    """Return a share of the trials of one kind, at least one, drawn by the seed."""
    return bench.random("share").sample(planned, math.ceil(len(planned) * share))


def make(bench: Bench, planned: list[Plan], jobs: int) -> list[Outcome]:
    """Make the trials, several at the same time."""
    outcomes: list[Outcome] = []
    pool = ThreadPoolExecutor(jobs)
    try:
        for outcome in pool.map(lambda plan: attempt(bench, *plan), planned):
            note(outcome)
            outcomes.append(outcome)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return outcomes


def note(outcome: Outcome) -> None:
    """Print what is not good, at once."""
    if outcome.verdict != "good":
        print(f"{outcome.package} {outcome.kind}: {outcome.name}: {outcome.verdict}: {outcome.message}", flush=True)


def main() -> int:
    """Run what was asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="nox -s reliability --")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--part", nargs="+", choices=[*PARTS, "fuzz"], default=[*PARTS, "fuzz"])
    parser.add_argument("--trial", default="", help="only those whose name has these words")
    parser.add_argument("--share", type=float, default=1.0, help="part of the trials that is made")
    parser.add_argument("--n", type=int, default=100, help="fuzzed commands of each package")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of interruption and of the fuzz")
    parser.add_argument("--keep", type=Path, help="folder for what failed trials leave")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    whole = not options.trial and set(options.part) == {*PARTS, "fuzz"}
    outcomes = list[Outcome]()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="r2mae-reliability-", ignore_cleanup_errors=True) as folder:
        for package in options.only:
            started, own = time.monotonic(), list[Outcome]()
            bench = Bench(Path(folder), Shell(), options.seed, options.keep)
            try:
                ready = prepare_jobs(bench, package, options.part, own)
                planned = plans(bench, ready, options)
                counts = ", ".join(f"{n} {part}" for part, n in Counter(plan[1] for plan in planned).items())
                print(f"{package}: {len(ready)} jobs, {len(planned)} trials: {counts}", flush=True)
                own += make(bench, planned, options.jobs)
            finally:
                bench.shell.close()
            if "fuzz" in options.part:
                own += fuzz(package, options.n, options.seed)
            if whole:
                page.keep(package, own, (time.monotonic() - started) / 60, options.share)
            outcomes += own
    minutes = (time.monotonic() - begun) / 60
    bad = page.failures(outcomes)
    print(page.table(outcomes), *map(page.described, bad), sep="\n\n")
    print(f"\n{len(outcomes)} trials, {len(bad)} failures, {minutes:.0f} minutes")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
