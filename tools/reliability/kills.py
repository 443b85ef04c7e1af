"""Interruptions: the same command afterwards must end as if nothing had happened."""

import random
import shutil
import signal
from collections.abc import Iterator
from functools import partial

from tools.reliability.bench import Bench
from tools.reliability.job import Failed, Job, NotTried
from tools.reliability.trials import Trial

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_TIMES = (1, 2, 2, 5)
"""How often a command is interrupted before it may end, in turn: twice is where half a gradient was lost."""


def trials(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the interruptions of a job: signal, how often, and at moments that the seed decides."""
    for i in range(job.kills):
        number, times = SIGNALS[i // 2 % 3 if i % 2 else 0], _TIMES[i % len(_TIMES)]
        name = f"{number.name} × {times} #{i}"
        yield name, partial(_killed, bench=bench, number=number, times=times, name=name)


def moved(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the moves of a job's output between interruption and resumption."""
    for way in ("renamed", "moved", "copied") if job.kills else ():
        yield way, partial(_moved, bench=bench, way=way)


def startup(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the signals to a process that has just been started, and to one with workers."""
    if not job.kills:
        return
    moments = bench.random(f"{job.package} {job.name} start")
    for number in (signal.SIGTERM, signal.SIGINT) if not job.cold else ():
        seconds = round(moments.uniform(0.1, 3), 1)
        yield f"{number.name} {seconds} s after the start", partial(_at_start, number=number, seconds=seconds)


def _killed(trial: Trial, bench: Bench, number: signal.Signals, times: int, name: str) -> None:
    moments, done = bench.random(f"{trial.job.package} {trial.job.name} {name}"), 0
    for i in range(times):
        try:
            interrupt_once(trial, bench, number, moments, first=i == 0)
            done += 1
        except NotTried:
            break
    if not done:
        raise NotTried("it ended before the signal came")
    trial.finish()


def interrupt_once(trial: Trial, bench: Bench, number: signal.Signals, moments: random.Random, *, first: bool) -> None:
    """Interrupt once: after a change of the output that the seed chooses, and a little later.

    A resumed run is interrupted soon after its first changes: there a wrong state has not yet been overwritten.
    """
    n = bench.baseline(trial.job).n_changes
    process = trial.start(trial.job.command())
    change = moments.randint(0, max(1, n - 2)) if first else moments.randint(1, 3)
    seconds = moments.choice((0.0, 0.0, 0.01, 0.05)) if change else moments.uniform(0, 0.5)
    trial.note(f"until its output has changed {change} times, and {seconds:.2f} s")
    trial.wait_for_change(process, change, seconds)
    trial.interrupt(process, number)


def _moved(trial: Trial, bench: Bench, way: str) -> None:
    moments = bench.random(f"{trial.job.package} {trial.job.name} {way}")
    interrupt_once(trial, bench, signal.SIGKILL, moments, first=True)
    if not trial.out.exists():
        raise NotTried("it had made nothing yet")
    other = trial.folder / "elsewhere" / f"another-{trial.job.makes}"
    other.parent.mkdir()
    if way == "copied":
        trial.note(f"cp -r {trial.job.out} elsewhere/{other.name}; rm -r {trial.job.out}")
        shutil.copytree(trial.out, other, copy_function=shutil.copyfile) if trial.out.is_dir() else shutil.copyfile(
            trial.out, other
        )
        shutil.rmtree(trial.out) if trial.out.is_dir() else trial.out.unlink()
    elif way == "moved":  # with all that it reads
        trial.note("mv the whole folder")
        trial.folder.rename(trial.folder.with_name(f"{trial.folder.name}-moved"))
        trial.folder = trial.folder.with_name(f"{trial.folder.name}-moved")
        trial.finish()
        return
    else:
        trial.note(f"mv {trial.job.out} elsewhere/{other.name}")
        trial.out.rename(other)
    trial.finish(str(other.relative_to(trial.folder)))


def _at_start(trial: Trial, number: signal.Signals, seconds: float) -> None:
    process = trial.start(trial.job.command(), cold=True)
    process.wait(seconds)
    trial.interrupt(process, number)
    if process.code not in (1, -number):
        raise Failed("other", f"exit code {process.code} after {number.name}")
    trial.finish()
