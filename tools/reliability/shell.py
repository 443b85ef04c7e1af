"""Start commands in warm or cold processes, send them signals, and wait for them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 180
"""Seconds after which a command counts as hanging."""


def patience() -> float:
    """Return how many seconds a command may take to end: 3 on a machine whose cores are free, else in proportion."""
    return 3 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
}


@dataclass
class Process:
    """A command that runs or has ended, with a process group of its own."""

    stdout_file: Path
    stderr_file: Path
    started: float = field(default_factory=time.monotonic)
    pid: int = 0
    code: int | None = None
    """As in `subprocess`: minus the signal's number, if one ended it."""
    known: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def stdout(self) -> str:
        """What it printed."""
        return self.stdout_file.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        """What it complained of."""
        return self.stderr_file.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGTERM as `kill PID` does; SIGINT as the terminal, and SIGKILL, to all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            (os.kill if number == signal.SIGTERM else os.killpg)(self.pid, number)

    def wait(self, seconds: float = LIMIT) -> bool:
        """Return whether it has ended within so many seconds."""
        return self.ended.wait(seconds)

    def left(self) -> list[int]:
        """Return the processes of its group that still live."""
        return [int(place.name) for place in Path("/proc").glob("[0-9]*") if _lives_in(place, self.pid)]

    def left_over(self) -> list[int]:
        """Return what of its group still lives after a while, and end that."""
        until = time.monotonic() + patience()
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.05)
        if left:
            self.send(signal.SIGKILL)
        return left


def _lives_in(place: Path, group: int) -> bool:
    try:
        state, _, found = (place / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(found) == group and state not in "ZX"


class Shell:
    """The warm process of each package, started when it is first needed."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._lock = threading.Lock()

    def start(self, package: str, words: list[str], folder: Path, name: str, *, cold: bool = False) -> Process:
        """Start `r2mae-PACKAGE WORDS` in a folder; its output goes to `.NAME.stdout` and `.NAME.stderr` there."""
        process = Process(folder / f".{name}.stdout", folder / f".{name}.stderr")
        environment = ENVIRONMENT | {"TMPDIR": str(folder / ".tmp")}
        (folder / ".tmp").mkdir(exist_ok=True)
        if cold:
            threading.Thread(target=_run_cold, args=(process, package, words, folder, environment), daemon=True).start()
        else:
            with self._lock:
                if package not in self._servers:
                    self._servers[package] = _Server(package)
            self._servers[package].start(process, words, folder, environment)
        if not process.known.wait(LIMIT):
            raise RuntimeError(f"the warm process of {package} does not answer")
        return process

    def close(self) -> None:
        """End the warm processes."""
        for server in self._servers.values():
            server.close()


def _run_cold(process: Process, package: str, words: list[str], folder: Path, environment: dict[str, str]) -> None:
    program = shutil.which(f"r2mae-{package}") or str(Path(sys.executable).with_name(f"r2mae-{package}"))
    with process.stdout_file.open("w") as out, process.stderr_file.open("w") as err:
        child = subprocess.Popen(
            [program, *words],
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    process.pid = child.pid
    process.known.set()
    process.code = child.wait()
    process.ended.set()


class _Server:
    """The client's side of `warm.py`."""

    def __init__(self, package: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py")), package],
            env=os.environ | ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes: list[Process] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, process: Process, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        assert self._child.stdin is not None
        with self._lock:
            self._processes.append(process)
            request = {
                "number": len(self._processes) - 1,
                "words": words,
                "folder": str(folder),
                "stdout": str(process.stdout_file),
                "stderr": str(process.stderr_file),
                "environment": environment,
            }
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            answer = json.loads(line)
            process = self._processes[answer["number"]]
            if "pid" in answer:
                process.pid = answer["pid"]
                process.known.set()
            else:
                process.code = answer["code"]
                process.ended.set()
        for process in self._processes:  # the warm process has ended: nobody waits for what is left of it
            process.ended.set()

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(30)
