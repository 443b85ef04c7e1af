"""What a job does when it is left alone, and what it leaves when it is killed in its middle."""

import shutil
import signal
import time

from tools.reliability.bench import Bench
from tools.reliability.job import Baseline, Job, NotTried
from tools.reliability.outputs import result, snapshot
from tools.reliability.trials import Trial


def prepare(bench: Bench, job: Job) -> None:
    """Run a job undisturbed: its baseline, and material for later jobs.

    Raises:
        Failed: it does not work even so.
        NotTried: another job, which makes what it reads, did not work.
    """
    if missing := [name for name in job.reads if not (bench.materials(job.package) / name).exists()]:
        raise NotTried(f"{missing[0]} was not made")
    trial = Trial(bench, job)
    process = trial.start(job.command())
    changes, last = 0, frozenset()
    while not process.ended.is_set():
        if (now := snapshot(trial.place)) != last:
            changes, last = changes + 1, now
        time.sleep(0.002)
    seconds = time.monotonic() - process.started
    trial.check(process, good=True)
    n_bytes = sum(size for _, size, _, _ in snapshot(trial.place))
    made = result(trial.out) if job.makes else {"stdout": process.stdout}
    bench.baselines[job.package, job.name] = Baseline(made, seconds, changes, n_bytes)
    if job.makes:
        shutil.move(trial.out, bench.materials(job.package) / job.makes)
    trial.remove()


def leave_unfinished(bench: Bench, job: Job) -> None:
    """Kill a job in its middle, and keep what it leaves."""
    trial = Trial(bench, job)
    process = trial.start(job.command())
    trial.wait_for_change(process, max(1, bench.baseline(job).n_changes // 2))
    process.send(signal.SIGKILL)
    process.wait()
    if trial.out.exists() and process.code:
        bench.unfinished(job).parent.mkdir(parents=True)
        shutil.move(trial.out, bench.unfinished(job))
    trial.remove()
