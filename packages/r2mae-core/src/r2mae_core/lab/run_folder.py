"""The folder of one run: what was asked, with which versions, and all that came out."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import as_json, atomic_path, write_text
from r2mae_core.lab.records import Record, read_records, write_records
from r2mae_core.lab.stamps import versions

FREE = ("device", "log_every", "checkpoint_every", "compile", "strategy", "workers", "peak_tflops")
"""Options that a resumed run may change: none of them changes what a step computes."""

_NOT_KEPT = ("out", "progress", "dry_run")


def resolved(config: Any) -> dict[str, Any]:
    """Return a command's config as plain data for the run folder, without where it goes and how it is shown."""
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_KEPT}


class RunFolder:
    """`config.yaml`, `versions.json`, `metrics.csv`, `checkpoints/`, `results.json` and `figures/` of one run.

    Opening an existing folder resumes its run, if the config is the same.

    Args:
        path: the folder; made if it is not there.
        config: the resolved options of the command, as plain data: what `-c config.yaml` takes back.
        facts: what else the run depends on, such as the digest of its data; kept in `facts.json`.
        free: options besides `FREE` that a resumed run may change.

    Raises:
        UserError: the folder holds a run of another config or other facts, or files that are not a run's.
    """

    def __init__(
        self,
        path: Path | str,
        config: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        free: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.config, self.facts = _plain(config), _plain(facts or {})
        config_file = self.path / "config.yaml"
        # Listed before the config is looked for: another rank may write the files in between, the config before others.
        files = list(self.path.iterdir()) if self.path.exists() else []
        if config_file.exists():
            there = yaml.safe_load(config_file.read_text(encoding="utf-8")) or {}
            _refuse_other_config(
                self.path, {**there, **_facts(self.path)}, {**self.config, **self.facts}, {*FREE, *free}
            )
        elif not all(map(_may_be_there, files)):
            raise UserError(f"{self.path} is not empty and has no config.yaml of a run; name another folder")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.facts:
                write_text(self.path / "facts.json", json.dumps(self.facts, indent=2) + "\n")
            # The config first, and whole at once: another rank may open the folder at the same moment.
            write_text(config_file, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            write_text(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Open the folder of a run as it is.

        Raises:
            UserError: it is none.
        """
        path = Path(path)
        if not (path / "config.yaml").exists():
            raise UserError(f"{path} is not a run folder: it has no config.yaml")
        return cls(path, yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) or {}, facts=_facts(path))

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
        """The checkpoint to resume from, if there is one: the newest file or complete folder of shards."""
        files = [self.checkpoints / "last.ckpt", *self.checkpoints.glob("sharded-*.ckpt/meta.pt")]
        newest = max((file for file in files if file.exists()), key=lambda file: file.stat().st_mtime_ns, default=None)
        return newest if newest is None or newest.suffix == ".ckpt" else newest.parent

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file beside the results and return its path; numbers that are not finite become null."""
        target = self.path / name
        write_text(target, as_json(content, ensure_ascii=False))
        return target

    def write_results(self, records: Sequence[Record]) -> Path:
        """Write `results.json` and return its path."""
        return write_records(self.path / "results.json", records)

    def results(self) -> list[Record]:
        """Return the records of `results.json`, or none."""
        file = self.path / "results.json"
        return read_records(file) if file.exists() else []

    def save_figure(self, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as `figures/<name>` (the suffix sets the format) and return its path."""
        target = self.path / "figures" / name
        with atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
        return target


def open_run(
    prog: str,
    command: str,
    out: Path | None,
    config: Mapping[str, Any],
    *,
    n_processes: int = 1,
    facts: Mapping[str, Any] | None = None,
    free: Sequence[str] = (),
) -> RunFolder:
    """Open the folder of a command's run: `--out`, or `runs/<prog>-<command>-<time>`.

    Args:
        prog: the console script's name.
        command: the verb.
        out: what the user named.
        config: see `RunFolder`.
        n_processes: devices times machines.
        facts: see `RunFolder`.
        free: see `RunFolder`.

    Raises:
        UserError: several processes without a common folder, and what `RunFolder` refuses.
    """
    if n_processes > 1 and out is None:
        raise UserError("several devices need --out DIR: each of their processes must know the same run folder")
    return RunFolder(out or default_run_path(prog, command), config, facts=facts, free=free)


def unfinished(path: Path, command: str = "pretrain") -> UserError:
    """Return the message for a run folder without a finished model."""
    return UserError(f"{path} has no finished model; run the same {command} command with --out {path} to resume it")


def default_run_path(prog: str, command: str) -> Path:
    """Return `runs/<prog>-<command>-<time>` under the current folder."""
    return Path("runs") / f"{prog}-{command}-{time.strftime('%Y%m%d-%H%M%S')}"


def _plain(value: Any) -> Any:
    """Return the value as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        name: value
        for key, item in config.items()
        for name, value in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def _may_be_there(file: Path) -> bool:
    """Return whether a new run may find this file: a hidden one, or one that another rank has just written."""
    return file.name.startswith(".") or file.name == "facts.json"


def _facts(path: Path) -> dict[str, Any]:
    file = path / "facts.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _refuse_other_config(path: Path, there: Any, here: Mapping[str, Any], free: set[str]) -> None:
    old, new = _flat(there), _flat(here)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key) and key not in free]
    if not keys:
        return
    shown = "; ".join(f"{key} is {old.get(key)!r} there and {new.get(key)!r} here" for key in keys[:4])
    more = f" (and {len(keys) - 4} more)" if len(keys) > 4 else ""
    raise UserError(f"{path} holds a run with another config: {shown}{more}; name another folder with --out")
