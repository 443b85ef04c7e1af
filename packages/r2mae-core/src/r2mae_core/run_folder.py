"""The folder of one run: what was asked, with which versions, and all that came out."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from r2mae_core.errors import UserError
from r2mae_core.files import atomic_path, write_text
from r2mae_core.records import Record, read_records, write_records


class RunFolder:
    """`config.yaml`, `versions.json`, `metrics.csv`, `checkpoints/`, `results.json` and `figures/` of one run.

    Opening a folder that exists goes on with its run, if the config is the same.

    Args:
        path: the folder; made if it is not there.
        config: the resolved config, as plain data.

    Raises:
        UserError: the folder holds a run of another config, or files that are no run.
    """

    def __init__(self, path: Path | str, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.config = _plain(config)
        config_file = self.path / "config.yaml"
        if config_file.exists():
            _refuse_other_config(self.path, yaml.safe_load(config_file.read_text(encoding="utf-8")), self.config)
        elif self.path.exists() and any(not file.name.startswith(".") for file in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no config.yaml of a run; name another folder")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            # The config first, and whole at once: another rank may open the folder at the same moment.
            write_text(config_file, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            write_text(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def metrics_file(self) -> Path:
        """`metrics.csv`: step, metric, value; appended to."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, if there is one."""
        last = self.checkpoints / "last.ckpt"
        return last if last.exists() else None

    def write_results(self, records: Sequence[Record]) -> Path:
        """Write `results.json` and return its path."""
        return write_records(self.path / "results.json", records)

    def results(self) -> list[Record]:
        """Return the records of `results.json`, or none."""
        file = self.path / "results.json"
        return read_records(file) if file.exists() else []

    def save_figure(self, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as `figures/<name>` (the suffix says the format) and return its path."""
        target = self.path / "figures" / name
        with atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
        return target


def default_run_path(prog: str, command: str) -> Path:
    """Return `runs/<prog>-<command>-<time>` under the current folder."""
    return Path("runs") / f"{prog}-{command}-{time.strftime('%Y%m%d-%H%M%S')}"


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
    """Return the value as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        name: value
        for key, item in config.items()
        for name, value in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def _refuse_other_config(path: Path, there: Any, here: Mapping[str, Any]) -> None:
    old, new = _flat(there), _flat(here)
    # A run may go on on another device.
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key) and key != "device"]
    if not keys:
        return
    shown = "; ".join(f"{key} is {old.get(key)!r} there and {new.get(key)!r} here" for key in keys[:4])
    more = f" (and {len(keys) - 4} more)" if len(keys) > 4 else ""
    raise UserError(f"{path} holds a run of another config: {shown}{more}; name another folder with --out")
