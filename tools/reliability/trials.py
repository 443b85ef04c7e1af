"""A trial: one folder, the commands that are run in it, and what they must not do."""

import shlex
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tools.reliability.bench import Bench
from tools.reliability.job import MATERIALS, PLACE, Failed, Job, NotTried, Outcome
from tools.reliability.outputs import differences, hidden, raw, result, snapshot
from tools.reliability.shell import Process, patience


class Trial:
    """One folder with copies of what a job reads, and the commands that are run there."""

    def __init__(self, bench: Bench, job: Job) -> None:
        self.bench, self.job = bench, job
        self.folder = bench.folder(job.package)
        self.steps: list[str] = []
        self.processes: list[Process] = []
        self.place.mkdir()
        (self.folder / MATERIALS).symlink_to(bench.materials(job.package))
        for name in job.reads:
            source = bench.materials(job.package) / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, self.folder / name)

    @property
    def place(self) -> Path:
        """The folder of the output."""
        return self.folder / PLACE

    @property
    def out(self) -> Path:
        """The job's output."""
        return self.folder / self.job.out

    def note(self, step: str) -> None:
        """Write down what is done to the folder, for the report."""
        self.steps.append(f"# {step}")

    def start(self, words: list[str], *, cold: bool | None = None) -> Process:
        """Start a command."""
        self.steps.append(shlex.join([f"r2mae-{self.job.package}", *words]))
        name, cold = f"{len(self.processes)}", self.job.cold if cold is None else cold
        process = self.bench.shell.start(self.job.package, words, self.folder, name, cold=cold)
        self.processes.append(process)
        return process

    def check(self, process: Process, *, good: bool | None = None) -> None:
        """Wait for a command, and refuse what none may do, however it ends.

        Args:
            process: the command.
            good: whether it must succeed (True) or be refused (False).

        Raises:
            Failed: it hangs, dies, shows a traceback or a fault report, or does not end as it must.
        """
        if not process.wait():
            process.send(signal.SIGKILL)
            raise Failed("other", "hangs")
        error = process.stderr
        reports = list(self.folder.glob("**/r2mae-fault-*.txt"))
        if "Traceback (most recent call last)" in error or reports:
            shown = reports[0].read_text() if reports else error
            raise Failed("traceback", _raised(shown))
        if process.code is None or process.code < 0:
            raise Failed("traceback", f"dies of signal {-(process.code or 0)}")
        if process.code not in (0, 1, 2):
            raise Failed("other", f"exit code {process.code}: {_last_line(error)}")
        if good is True and process.code:
            raise Failed("lost", f"exit code {process.code}: {_last_line(error)}")
        if good is False and not process.code:
            raise Failed("silently wrong", "exit code 0")
        if process.code and not error.strip():
            raise Failed("other", f"exit code {process.code} without a message")
        if process.code == 1 and len(error.strip().splitlines()) > 6:
            raise Failed("other", f"a message of {len(error.strip().splitlines())} lines")
        if left := process.left_over():
            raise Failed("other", f"leaves {len(left)} processes")

    def run(self, words: list[str], *, good: bool | None = None) -> Process:
        """Run a command to its end, and `check` it."""
        process = self.start(words)
        self.check(process, good=good)
        return process

    def finish(self, out: str | None = None) -> None:
        """Give the command again after an interruption: it ends with the undisturbed result.

        Raises:
            Failed: it does not.
        """
        process = self.start(self.job.command(out))
        self.check(process)
        where = None if out is None else self.folder / out
        done = process.code and any(word in process.stderr for word in ("exists", "already", "--overwrite"))
        if process.code and not (done and not self.differences(out=where)):
            raise Failed("lost", f"exit code {process.code}: {_last_line(process.stderr)}")
        self.expect_baseline(out=where)

    def expect_baseline(self, process: Process | None = None, out: Path | None = None) -> None:
        """Refuse a result that is not the undisturbed one's, and what is left hidden.

        Raises:
            Failed: it differs.
        """
        if changed := self.differences(process, out):
            raise Failed("silently wrong", f"another result: {', '.join(changed[:4])}")
        if out is None and (left := hidden(self.place)):
            raise Failed("other", f"leaves {', '.join(left[:3])}")

    def put(self, source: Path) -> None:
        """Put what another run has left in the output's place."""
        self.note(f"{self.job.out} is there from a run before")
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, self.out)

    def differences(self, process: Process | None = None, out: Path | None = None) -> list[str]:
        """Return which files are not as in the undisturbed run."""
        found = result(out or self.out) if self.job.makes else {"stdout": process.stdout if process else ""}
        return differences(self.bench.baseline(self.job).result, found)

    def inputs(self) -> dict[str, str]:
        """Return digests of the bytes of all that the job reads."""
        return {key: value for name in self.job.reads for key, value in raw(self.folder / name).items()}

    def wait_for_change(self, process: Process, n: int, seconds: float = 0.0) -> bool:
        """Wait until the output's folder has changed so often, then a while longer; return whether it still runs."""
        last = snapshot(self.place)
        while n > 0 and not process.ended.is_set():
            if (now := snapshot(self.place)) != last:
                n, last = n - 1, now
            elif time.monotonic() - process.started > 120:
                return False
            time.sleep(0.001)
        return not process.ended.wait(seconds)

    def interrupt(self, process: Process, number: signal.Signals) -> None:
        """Send a signal, and refuse what an interrupted command may not do.

        Raises:
            NotTried: the command had ended before.
            Failed: it shows a traceback, goes on for more than 3 s, or leaves processes.
        """
        if process.ended.is_set():
            raise NotTried("it had ended before")
        self.note(f"{number.name} after {time.monotonic() - process.started:.2f} s")
        process.send(number)
        if not process.wait(patience()):
            if "Done" in process.stdout and process.wait():  # the interpreter was ending, which a signal does not hurry
                raise NotTried("it had ended before")
            process.send(signal.SIGKILL)
            process.wait()
            raise Failed("other", f"goes on for more than 3 s after {number.name}")
        if process.code == 0:
            raise NotTried("it ended before the signal came")
        if "Traceback (most recent call last)" in process.stderr:
            raise Failed("traceback", _raised(process.stderr))
        if left := process.left_over():
            raise Failed("other", f"{len(left)} processes go on for more than 3 s after {number.name}")

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def attempt(bench: Bench, job: Job, kind: str, name: str, test: Callable[[Trial], None]) -> Outcome:
    """Make one trial in a folder of its own."""
    trial = Trial(bench, job)
    outcome = Outcome(job.package, kind, f"{job.name}: {name}", "good")
    try:
        test(trial)
    except NotTried as reason:
        outcome = replace(outcome, verdict="not tried", message=str(reason))
    except Failed as failed:
        outcome = replace(outcome, verdict=failed.verdict, message=str(failed), steps=tuple(trial.steps))
    except Exception as error:  # a fault of the trial's own counts as a failure, and the others go on
        message = f"the trial itself: {type(error).__name__}: {error}"
        outcome = replace(outcome, verdict="other", message=message, steps=tuple(trial.steps))
    finally:
        for process in trial.processes:
            if not process.ended.is_set():
                process.send(signal.SIGKILL)
                process.wait(10)
        if outcome.steps and bench.keep:
            shutil.copytree(trial.folder, bench.keep / job.package / kind / outcome.name, dirs_exist_ok=True)
        trial.remove()
    return outcome


def _raised(text: str) -> str:
    """Return what was raised, and where, of the last traceback in a text."""
    lines = text[text.rindex("Traceback (most") :].splitlines() if "Traceback (most" in text else text.splitlines()
    end = next((i for i, line in enumerate(lines[1:], 1) if line and not line.startswith(" ")), len(lines) - 1)
    places = [line.strip() for line in lines[:end] if "/r2mae_" in line and line.lstrip().startswith("File ")]
    place = places[-1].rpartition("/r2mae_")[2] if places else ""
    return f"{lines[end]} (r2mae_{place})"[:400]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]
