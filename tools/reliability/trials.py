"""A trial: one folder, the commands that are run in it, and what they must not do."""

import random
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tools.reliability.outputs import differences, hidden, raw, result, snapshot
from tools.reliability.shell import Process, Shell

Verdict = Literal["lost", "silently wrong", "traceback", "other"]
_PICTURES = (".png", ".pdf", ".svg", ".md")
MATERIALS = ".materials"
"""Link to all materials in every trial's folder, from which a change may take another store."""
PLACE = "place"
"""Folder of the output in every trial: alone there, it can be watched, moved, or put on a disk of its own."""


class Failed(Exception):  # noqa: N818  (an outcome)
    """What a command must not do."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        super().__init__(message)
        self.verdict: Verdict = verdict


class NotTried(Exception):  # noqa: N818  (an outcome)
    """The trial could not be made, such as a kill after the command's end."""


@dataclass(frozen=True)
class Job:
    """A command that is tried."""

    package: str
    name: str
    words: str
    """The command without `--out`, with paths relative to the trial's folder."""
    reads: tuple[str, ...]
    """Files and folders that it reads: the user's, or what other jobs made."""
    makes: str = ""
    """Name of its output; "": it only prints."""
    other: str = ""
    """Further words that change the result: the comparison must notice."""
    changes: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Changes to what it reads, each of which changes the result; called with the trial's folder."""
    mistakes: tuple[str, ...] = ()
    """Further words that are wrong, for a start that fails."""
    kills: int = 0
    """How many times it is interrupted, besides the other kinds."""
    disk: bool = False
    """Whether it is tried on a full disk."""
    damage: bool = True
    """Whether what it reads is damaged."""
    maker: bool = False
    """Whether it only makes material for other jobs."""
    cold: bool = False
    """Whether its processes are started anew, such as where it starts processes of its own."""

    @property
    def out(self) -> str:
        """Its output in a trial's folder."""
        return f"{PLACE}/{self.makes}"

    def command(self, out: str | None = None) -> list[str]:
        """Return the words of its command."""
        where = ["--out", out or self.out] if self.makes else []
        return [*shlex.split(self.words), *where]


@dataclass
class Baseline:
    """What a job does when it is left alone."""

    result: dict[str, str]
    stdout: str
    seconds: float
    n_changes: int
    """How often its output's folder was seen to change."""
    n_bytes: int
    files: tuple[str, ...] = ()
    """The files of its output, in `PLACE`."""


@dataclass
class Outcome:
    """How a trial ended."""

    package: str
    kind: str
    name: str
    verdict: Verdict | Literal["good", "not tried"]
    message: str = ""
    steps: tuple[str, ...] = ()


class Bench:
    """Where the trials of all packages run: materials, baselines, and a folder for each trial."""

    def __init__(self, home: Path, shell: Shell, seed: int, keep: Path | None = None) -> None:
        self.home, self.shell, self.seed, self.keep = home, shell, seed, keep
        self.baselines: dict[str, Baseline] = {}
        self._users: dict[str, set[str]] = {}
        self._lock, self._n = threading.Lock(), 0

    def write_materials(self, package: str, write: Callable[[Path], None]) -> None:
        """Write what the user of a package brings."""
        self.materials(package).mkdir(parents=True)
        write(self.materials(package))
        self._users[package] = {path.name for path in self.materials(package).iterdir()}

    def materials(self, package: str) -> Path:
        """Return the folder of what a package's jobs read."""
        return self.home / package / "materials"

    def users(self, package: str) -> set[str]:
        """Return the names of what the user brings: the materials that no job made."""
        return self._users[package]

    def random(self, name: str) -> random.Random:
        """Return the generator of one trial: the same in every run with this seed, whatever else is tried."""
        return random.Random(f"{self.seed} {name}")

    def baseline(self, job: Job) -> Baseline:
        """Return what the job does when it is left alone."""
        return self.baselines[f"{job.package} {job.name}"]

    def prepare(self, job: Job) -> None:
        """Run a job undisturbed: its baseline, and material for later jobs.

        Raises:
            Failed: it does not work even so.
            NotTried: another job, which makes what it reads, did not work.
        """
        if missing := [name for name in job.reads if not (self.materials(job.package) / name).exists()]:
            raise NotTried(f"{missing[0]} was not made")
        trial = Trial(self, job, "baseline")
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
        files = sorted(file for file in trial.place.rglob("*") if file.is_file() and file.suffix not in _PICTURES)
        named = tuple(str(file.relative_to(trial.place)) for file in files)
        self.baselines[f"{job.package} {job.name}"] = Baseline(made, process.stdout, seconds, changes, n_bytes, named)
        if job.makes:
            kept = self.materials(job.package) / job.makes
            shutil.move(trial.out, kept)
        trial.remove()

    def folder(self, package: str) -> Path:
        """Return a new folder for a trial."""
        with self._lock:
            self._n += 1
            path = self.home / package / f"trial-{self._n}"
        path.mkdir(parents=True)
        return path


class Trial:
    """One folder with copies of what a job reads, and the commands that are run there."""

    def __init__(self, bench: Bench, job: Job, kind: str) -> None:
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
        if left := process.left_after(3):
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
        if not process.wait(3):
            process.send(signal.SIGKILL)
            process.wait()
            raise Failed("other", f"goes on for more than 3 s after {number.name}")
        if process.code == 0:
            raise NotTried("it ended before the signal came")
        if "Traceback (most recent call last)" in process.stderr:
            raise Failed("traceback", _raised(process.stderr))
        if left := process.left_after(3):
            raise Failed("other", f"{len(left)} processes go on for more than 3 s after {number.name}")

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def attempt(bench: Bench, job: Job, kind: str, name: str, test: Callable[[Trial], None]) -> Outcome:
    """Make one trial in a folder of its own."""
    trial = Trial(bench, job, kind)
    outcome = Outcome(job.package, kind, f"{job.name}: {name}", "good")
    try:
        test(trial)
    except NotTried as reason:
        outcome = replace(outcome, verdict="not tried", message=str(reason))
    except Failed as failed:
        outcome = replace(outcome, verdict=failed.verdict, message=str(failed), steps=tuple(trial.steps))
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
