"""Changed sources: what was made from something else must never be taken for what was asked for."""

import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tools.reliability.bench import Bench
from tools.reliability.job import Failed, Job, NotTried
from tools.reliability.kills import interrupt_once
from tools.reliability.outputs import result
from tools.reliability.trials import Trial


def trials(bench: Bench, job: Job) -> Iterator[tuple[str, partial[None]]]:
    """Return the changes of what a job reads: while it is interrupted, and after its end."""
    for name, change in job.changes.items():
        yield f"{name}, after the end", partial(_changed, bench=bench, name=name, change=change, at_end=True)
        if job.kills:
            yield f"{name}, while interrupted", partial(_changed, bench=bench, name=name, change=change, at_end=False)


def _changed(trial: Trial, bench: Bench, name: str, change: Callable[[Path], None], *, at_end: bool) -> None:
    job, before = trial.job, trial.inputs()
    if at_end:
        trial.put(bench.materials(job.package) / job.makes)
    else:
        interrupt_once(trial, bench, signal.SIGKILL, bench.random(f"{job.package} {job.name} {name}"), first=True)
        if not trial.out.exists():
            raise NotTried("it had made nothing yet")
    trial.note(f"change: {name}")
    change(trial.folder)
    if trial.inputs() == before:
        raise Failed("other", "the change changes nothing")
    process = trial.start(job.command())
    trial.check(process)
    if process.code:
        changed = [Path(name) for name in _changed_names(before, trial.inputs())]
        names = (*job.reads, *(path.name for path in changed), *(path.parent.name for path in changed))
        if not any(Path(name).name in process.stderr for name in (*names, "changed", "already")):
            raise Failed("other", f"the message does not say what changed: {process.stderr.strip()[:200]}")
        return
    found = result(trial.out)
    fresh = f"fresh/{job.makes}"
    (trial.folder / "fresh").mkdir()
    trial.run(job.command(fresh), good=True)
    if (new := result(trial.folder / fresh)) == bench.baseline(job).result:
        raise Failed("other", "the change does not change the result: it tests nothing")
    if found != new:
        raise Failed("silently wrong", "the result is not that of the sources as they are now")
    shutil.rmtree(trial.folder / "fresh")


def _changed_names(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
