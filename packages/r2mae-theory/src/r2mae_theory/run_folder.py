"""The folder of one run: what was asked, with which versions, and all that came out."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import time
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from r2mae_theory.errors import TheoryError
from r2mae_theory.files import atomic_path, write_text
from r2mae_theory.records import write_records
from r2mae_theory.rows import csv_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

    from r2mae_theory.records import Record
    from r2mae_theory.rows import Row

_HIDDEN = ("out", "dry_run")
_FREE = ("workers", "target")
"""Options that a run may change when it goes on: none changes a number."""


class RunFolder:
    """`config.yaml`, `versions.json`, `results.json`, tables and `figures/` of one run.

    Opening a folder that exists goes on with its run, if the options are the same.

    Args:
        path: the folder; made if it is not there.
        config: the command's options; `config.yaml` is what `-c` takes back.

    Raises:
        TheoryError: the folder holds a run with other options, or files that are no run.
    """

    def __init__(self, path: Path, config: Any) -> None:
        self.path = path
        here = {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in _HIDDEN}
        file = path / "config.yaml"
        if file.exists():
            there = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            other = [name for name in here if name not in _FREE and here[name] != there.get(name)]
            if other:
                shown = "; ".join(f"{name} is {there.get(name)!r} there and {here[name]!r} here" for name in other[:4])
                raise TheoryError(f"{path} holds a run of another config: {shown}; name another folder with --out")
        elif path.exists() and any(not found.name.startswith(".") for found in path.iterdir()):
            raise TheoryError(f"{path} is not empty and holds no config.yaml of a run; name another folder")
        else:
            write_text(file, yaml.safe_dump(here, sort_keys=False, allow_unicode=True))
            write_text(path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def write_results(self, records: Iterable[Record]) -> Path:
        """Write `results.json` and return its path."""
        return write_records(self.path / "results.json", records)

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON beside the results; numbers that are not finite become null, as JSON has none."""
        write_text(self.path / name, json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")

    def write_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Write rows of numbers, such as the points of a curve, as `<name>.csv`."""
        write_text(self.path / f"{name}.csv", csv_text(rows))

    def save_figure(self, name: str, figure: Figure) -> Path:
        """Save a figure as `figures/<name>.png` and `.pdf`, and return the path of the first."""
        for ending in ("pdf", "png"):
            target = self.path / "figures" / f"{name}.{ending}"
            with atomic_path(target) as temporary:
                figure.savefig(temporary, dpi=150)
        return target


def open_run(command: str, config: Any) -> RunFolder:
    """Open the folder of a command's run: `--out`, or `runs/r2mae-theory-<command>-<time>`."""
    return RunFolder(config.out or Path("runs") / f"r2mae-theory-{command}-{time.strftime('%Y%m%d-%H%M%S')}", config)


def stamped(records: Iterable[Record]) -> list[Record]:
    """Return the records with the device and the commit."""
    commit = git_commit()
    return [replace(record, device="cpu", git=commit) for record in records]


def git_commit() -> str | None:
    """Return the short commit of the current folder's checkout, with `+` if it has changes; None outside git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, Any]:
    """Return what a result depends on: Python, platform, installed packages, git commit, command line."""
    packages = {dist.name: dist.version for dist in metadata.distributions() if dist.name}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_commit(),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _plain(value: Any) -> Any:
    """Return the value as YAML and JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
