"""Where a result comes from: the commit, the versions, and the device."""

import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from r2mae_core.lab.records import Record


def git_commit() -> str | None:
    """Return the short commit of the current folder's checkout, with `+` if it has changes; None outside git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, Any]:
    """Return what a result depends on: Python, platform, installed packages, git commit, command line; and when."""
    packages = {dist.name: dist.version for dist in metadata.distributions() if dist.name}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def stamped(records: Iterable[Record], device_name: str, seconds: float | None = None) -> list[Record]:
    """Return the records with the device's name and the commit, and the wall time where it is given."""
    stamps: dict[str, Any] = {"device": device_name, "git": git_commit()}
    stamps |= {} if seconds is None else {"seconds": seconds}
    return [replace(record, **stamps) for record in records]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
