"""Run commands in forks of this process, which has imported what they need: a second or less instead of six.

A fork is as good as a new process: nothing that a command does to its process reaches the next one. This process must
therefore not compute, and start no threads.
"""

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MEMORY = 6 << 30
"""Bytes that a command may take beyond what this process has: an absurd size fails there, not in the machine."""
PROCESSES = 24
"""More at once in one command are too many."""
GRACE = 20.0
"""Seconds to answer an interruption."""
QUIET = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg",
    "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_COLOR": "1", "COLUMNS": "100",
}  # fmt: skip
"""One thread each, no GPU, no network."""


@dataclass(frozen=True)
class Job:
    """A command to run."""

    name: str
    package: str
    argv: tuple[str, ...]
    folder: Path
    """Its current folder is `work` in here; what it prints and its temporary files are kept beside."""
    limit: float = 30.0
    """Seconds, after which it is interrupted, and killed if it does not answer."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    job: Job
    code: int
    """Exit code; negative for a signal."""
    seconds: float
    out: str
    err: str
    ended: str = "itself"
    """itself, interrupted (it answered at once), killed (it did not answer), or crowd (it had too many processes)."""


@dataclass
class _Running:
    job: Job
    pid: int
    started: float
    ended: str = "itself"


def warm_up(modules: Iterable[str]) -> None:
    """Import modules into this process, and with it into every command; one that cannot be imported is left out."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def run_all(jobs: Iterable[Job], at_once: int = 2) -> Iterator[Outcome]:
    """Run the commands, several at once, and yield how each ended, in no order."""
    waiting, running = iter(jobs), list[_Running]()
    more = True
    while more or running:
        while more and len(running) < at_once:
            job = next(waiting, None)
            more = job is not None
            if job is not None:
                running.append(_Running(job, _fork(job), time.monotonic()))
        for one in list(running):
            if outcome := _look_at(one):
                running.remove(one)
                yield outcome
        time.sleep(0.01)


def _fork(job: Job) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _in_child(job)
        except BaseException:
            traceback.print_exc()  # what a user would see
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    return pid


def _in_child(job: Job) -> int:
    os.setsid()  # its own processes can be ended together
    work, temporary = job.folder / "work", job.folder / "tmp"
    for folder in (work, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(job.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(TMPDIR=str(temporary), HOME=str(temporary), PYTHONPATH="")
    os.chdir(work)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = [str(Path(sys.executable).with_name(f"r2mae-{job.package}")), *job.argv]
    sys.modules["__main__"].__spec__ = None  # a process that it starts runs the command line, not this program
    main: Callable[[list[str]], None] = importlib.import_module(f"r2mae_{job.package}.cli").main
    try:
        main(list(job.argv))
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code if isinstance(stop.code, int) else 1
    else:
        code = 0
    (job.folder / "modules").write_text("\n".join(sys.modules))
    return code


def _look_at(one: _Running) -> Outcome | None:
    """Return how a command ended, or None while it runs within its limits."""
    pid, status = os.waitpid(one.pid, os.WNOHANG)
    seconds = time.monotonic() - one.started
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)  # what it left behind
        out, err = (_text(one.job.folder / name) for name in ("out", "err"))
        return Outcome(one.job, os.waitstatus_to_exitcode(status), seconds, out, err, one.ended)
    if one.ended == "itself" and _processes(one.pid) > PROCESSES:
        one.ended = "crowd"
        os.killpg(one.pid, signal.SIGKILL)
    elif one.ended == "itself" and seconds > one.job.limit:
        one.ended = "interrupted"
        os.kill(one.pid, signal.SIGINT)
    elif one.ended == "interrupted" and seconds > one.job.limit + GRACE:
        one.ended = "killed"
        os.killpg(one.pid, signal.SIGKILL)
    return None


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace") if file.exists() else ""


def _processes(session: int) -> int:
    """Return how many processes a command has."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            count += int(stat.read_text().rpartition(")")[2].split()[3]) == session
    return count
