"""The folder of one run: what was asked, with which versions, and all that came out."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.figures import save_figure
from r2mae_core.lab.locks import one_writer
from r2mae_core.lab.records import Record, read_records, write_records
from r2mae_core.lab.sealed import SUMS, read_json, read_yaml, write_json, write_yaml
from r2mae_core.lab.setups import FREE, NOTED, noted_models
from r2mae_core.lab.sources import refuse_changed
from r2mae_core.lab.stamps import versions
from r2mae_core.lab.terminal import first_rank, pasteable

_NOT_KEPT = ("out", "progress", "dry_run", "logger")


def resolved(config: Any) -> dict[str, Any]:
    """Return a command's config as plain data for the run folder, without where it goes and how it is shown."""
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _NOT_KEPT}


class RunFolder:
    """`config.yaml`, `versions.json`, `metrics.csv`, `checkpoints/`, `results.json` and `figures/` of one run.

    Opening an existing folder resumes its run, if the config is the same. Commands open it with `open_run`.

    Args:
        path: the folder; made if it is not there.
        config: the resolved options of the command, as plain data: what `-c config.yaml` takes back.
        facts: what else the run depends on, such as the digest of its data; kept in `facts.json`.
        sources: `fingerprint` of the user's files that the run is made from; kept there too.
        free: options besides `FREE` that a resumed run may change.
        command: the verb; with `free` and `models` it says what the records were measured with.
        program: the console script's name.
        models: run folders of `pretrain` whose models are evaluated → (scheme in the records, seed).

    Raises:
        UserError: the folder holds a run of another config, other facts or other sources, or files that are not a
            run's.
    """

    def __init__(
        self,
        path: Path | str,
        config: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        sources: Mapping[str, str] | None = None,
        free: Sequence[str] = (),
        command: str = "",
        program: str = "",
        models: Mapping[Path, tuple[str, int]] | None = None,
    ) -> None:
        self.path = Path(path)
        self.config, self.facts = plain_data(config), plain_data(facts or {})
        self.made = False
        # Listed before the config is looked for: another process may write the files in between.
        files = _files(self.path)
        if not (self.path / "config.yaml").exists():
            if not all(map(_may_be_there, files)):
                raise UserError(f"{self.path} is not empty and has no config.yaml of a run; name another folder")
        else:
            try:
                self._refuse_other({*FREE, *free}, sources)
                return
            except UserError:
                if not holds_nothing(self.path):
                    raise  # else nothing is lost: a start that was cut off gives way to this one
        if first_rank():
            noted: dict[str, Any] = {"command": command} if command else {}
            if program:
                noted["program"] = program
            if free:
                noted["free"] = list(free)
            if models and (known := noted_models(models)):
                noted["models"] = known
            if sources is not None:
                noted["sources"] = dict(sources)
            self._make({**self.facts, **noted})

    def _refuse_other(self, free: set[str], sources: Mapping[str, str] | None) -> None:
        facts = _facts(self.path)
        made_from, *_ = [facts.pop(name, {}) for name in NOTED]
        old = _flat({**read_yaml(self.path / "config.yaml"), **facts})
        new = _flat({**self.config, **self.facts})
        keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key) and key not in free]
        if keys:
            shown = "; ".join(f"{key} is {old.get(key)!r} there and {new.get(key)!r} here" for key in keys[:4])
            more = f" (and {len(keys) - 4} more)" if len(keys) > 4 else ""
            where = f"{self.path} holds a run with another config"
            raise UserError(f"{where}: {shown}{more}; name another folder with --out")
        if sources is not None:
            refuse_changed(self.path, made_from, sources, "put it back as it was, or name another folder with --out")

    def _make(self, facts: Mapping[str, Any]) -> None:
        self.made = not (self.path / "config.yaml").exists()
        self.path.mkdir(parents=True, exist_ok=True)
        if facts or (self.path / "facts.json").exists():
            write_json(self.path / "facts.json", facts, indent=2)
        # The config after the facts, and whole at once: another rank may open the folder at the same moment.
        write_yaml(self.path / "config.yaml", self.config)
        write_json(self.path / "versions.json", versions(), indent=2)

    def leave_nothing(self) -> None:
        """Remove the folder again if this process made it and nothing has been computed in it."""
        if not self.made or not holds_nothing(self.path):
            return
        for file in [file for file in self.path.rglob("*") if file.name in _OF_START]:
            file.unlink(missing_ok=True)
        for folder in [*sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True), self.path]:
            with contextlib.suppress(OSError):  # a lock is still in it
                folder.rmdir()

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Open the folder of a run as it is.

        Raises:
            UserError: it is none.
        """
        path = Path(path)
        if not (path / "config.yaml").exists():
            raise UserError(f"{path} is not a run folder: it has no config.yaml")
        facts = {key: value for key, value in _facts(path).items() if key not in NOTED}
        return cls(path, read_yaml(path / "config.yaml"), facts=facts)

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
        """The checkpoint to resume from, if there is one: the file, or the last complete folder of shards."""
        file = self.checkpoints / "last.ckpt"
        if file.exists():
            return file
        # By step and checksums, not by times: a copied folder has other times.
        folders = [meta.parent for meta in self.checkpoints.glob("sharded-*.ckpt/meta.pt")]
        whole = [folder for folder in folders if (folder / SUMS).exists()] or folders
        return max(whole, key=lambda folder: int(folder.stem.rpartition("=")[2]), default=None)

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write a JSON object beside the results and return its path; numbers that are not finite become null."""
        return write_json(self.path / name, content)

    def write_results(self, records: Sequence[Record]) -> Path:
        """Write `results.json` and return its path."""
        return write_records(self.path / "results.json", records)

    @contextmanager
    def summing_up(self) -> Iterator[None]:
        """Let one process at a time read what a shared folder holds and write what follows from it.

        Else the slower of two would put what it had read before over the newer results of the other.
        """
        with one_writer(self.path / "results.json", folder=False, wait=True):
            yield

    def results(self) -> list[Record]:
        """Return the records of `results.json`, or none."""
        file = self.path / "results.json"
        return read_records(file) if file.exists() else []

    def save_figure(self, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as `figures/<name>` (the suffix sets the format) and return its path."""
        return save_figure(figure, self.path / "figures" / name)


@contextmanager
def open_run(
    prog: str,
    command: str,
    out: Path | None,
    config: Mapping[str, Any],
    *,
    n_processes: int = 1,
    facts: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
    free: Sequence[str] = (),
    models: Mapping[Path, tuple[str, int]] | None = None,
    shared: bool = False,
) -> Iterator[RunFolder]:
    """Open the folder of a command's run, `--out` or `runs/<prog>-<command>-<time>`, for as long as a block runs.

    The command is the folder's one writer. If it fails before anything was computed, the folder is as it was.

    Args:
        prog: the console script's name.
        command: the verb.
        out: what the user named.
        config: see `RunFolder`.
        n_processes: devices times machines.
        facts: see `RunFolder`.
        sources: see `RunFolder`.
        free: see `RunFolder`.
        models: see `RunFolder`.
        shared: several commands may work in the folder at once, as on a grid whose cells are locked one by one.

    Raises:
        UserError: several processes without a common folder, another command that writes there, and what `RunFolder`
            refuses.
    """
    if n_processes > 1 and out is None:
        raise UserError("several devices need --out DIR: each of their processes must know the same run folder")
    path = out or default_run_path(prog, command)
    with contextlib.nullcontext() if shared else one_writer(path):
        run = RunFolder(
            path, config, facts=facts, sources=sources, free=free, command=command, program=prog, models=models
        )
        try:
            yield run
        except BaseException:
            run.leave_nothing()
            raise


def unfinished(path: Path, command: str = "pretrain") -> UserError:
    """Return the message for a run folder without a finished model."""
    return UserError(f"{path} has no finished model; run the same {command} command with --out {path} to resume it")


def page_line(prog: str, path: Path) -> str:
    """Return the line that names a run's HTML page, for the end of a command; see `write_page`."""
    return f"Curves, tables and examples in one HTML page: {prog} report {pasteable(path)}"


def default_run_path(prog: str, command: str) -> Path:
    """Return `runs/<prog>-<command>-<time>` under the current folder."""
    return Path("runs") / f"{prog}-{command}-{time.strftime('%Y%m%d-%H%M%S')}"


def plain_data(value: Any) -> Any:
    """Return a value as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's
        return plain_data(value.tolist())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        name: value
        for key, item in config.items()
        for name, value in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


_OF_START = ("config.yaml", "facts.json", "versions.json")


def holds_nothing(path: Path) -> bool:
    """Return whether a folder holds no more than what a run begins with, so that another run may take it."""
    return all(file.name in _OF_START or file.name.startswith(".") for file in path.rglob("*") if not file.is_dir())


def _files(path: Path) -> list[Path]:
    if not path.exists():
        return []
    if not path.is_dir():
        raise UserError(f"{path} is a file; name a folder with --out")
    return list(path.iterdir())


def _may_be_there(file: Path) -> bool:
    """Return whether a new run may find this file: a hidden one, or what a start that was cut off wrote first."""
    return file.name.startswith(".") or file.name == "facts.json"


def _facts(path: Path) -> dict[str, Any]:
    file = path / "facts.json"
    return read_json(file) if file.exists() else {}
