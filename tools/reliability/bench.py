"""Where the trials of all packages run: materials, baselines, and a folder for each trial."""

import random
import threading
from collections.abc import Callable
from pathlib import Path

from tools.reliability.job import Baseline, Job
from tools.reliability.shell import Shell


class Bench:
    """Where the trials of all packages run: materials, baselines, and a folder for each trial."""

    def __init__(self, home: Path, shell: Shell, seed: int, keep: Path | None = None) -> None:
        self.home, self.shell, self.seed, self.keep = home, shell, seed, keep
        self.baselines: dict[tuple[str, str], Baseline] = {}
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

    def unfinished(self, job: Job) -> Path:
        """Return where the output of a run that was killed in its middle is, if it had any by then."""
        return self.home / job.package / "unfinished" / job.name.replace(" ", "-") / job.makes

    def users(self, package: str) -> set[str]:
        """Return the names of what the user brings: the materials that no job made."""
        return self._users[package]

    def random(self, name: str) -> random.Random:
        """Return the generator of one trial: the same in every run with this seed, whatever else is tried."""
        return random.Random(f"{self.seed} {name}")

    def baseline(self, job: Job) -> Baseline:
        """Return what the job does when it is left alone."""
        return self.baselines[job.package, job.name]

    def folder(self, package: str) -> Path:
        """Return a new folder for a trial."""
        with self._lock:
            self._n += 1
            path = self.home / package / f"trial-{self._n}"
        path.mkdir(parents=True)
        return path
