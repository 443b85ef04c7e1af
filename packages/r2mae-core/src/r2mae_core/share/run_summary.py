"""A run in one object: what was asked, with what it was made, how training went, and what was measured."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from r2mae_core.lab.commands import Command
from r2mae_core.lab.comparison import cell_of
from r2mae_core.lab.errors import UserError
from r2mae_core.lab.metrics_file import read_metrics
from r2mae_core.lab.records import Record, read_records
from r2mae_core.lab.run_folder import plain_data
from r2mae_core.lab.sealed import read_json, read_yaml
from r2mae_core.lab.setups import NOTED, digest_of_sources
from r2mae_core.ratio.config import name_of_scheme
from r2mae_core.ratio.naming import scheme_in_words, variant

Series = Sequence[tuple[int, float]]
"""(optimizer step, value) in order of steps."""


@dataclass(frozen=True)
class EvaluationRow:
    """What was measured of one scheme on one task, over its seeds."""

    scheme: str
    task: str
    split: str
    metric: str
    mean: float
    """NaN where a seed's value is not finite."""
    sd: float | None
    """Sample standard deviation over seeds; None: one seed, or NaN."""
    n_seeds: int
    n: int | None
    """Examples that a seed's value is computed on; None: not the same number for every seed."""
    paper: float | None
    """The value that the paper prints, if it prints one."""


@dataclass(frozen=True)
class RunSummary:
    """What a run folder says about its run. What it does not say is None, or empty; nothing is made up."""

    path: Path
    """The folder."""
    options: Mapping[str, Any]
    """The command's options, resolved, as plain data; some may be paths of the machine."""
    program: str | None = None
    """The console script, such as "r2mae-text"; its package is r2mae_text."""
    command: str | None = None
    """The verb, such as "pretrain"."""
    scheme: str | None = None
    """Of a pretraining: what tables call its scheme, such as "r2mae per sample"."""
    scheme_in_words: str | None = None
    """Of a pretraining: its masking in words, such as "uniform from 0.15 to 0.4, drawn at every step (seed 0)"."""
    seeds: tuple[int, ...] = ()
    """The option `--seed` or `--seeds`, else those of the results."""
    data: str | None = None
    """The data, as the options name it: a name or a path."""
    data_digest: str | None = None
    """What names the data's content."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Name of a file of the user's → size and digest."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the run depends on, such as the digest of its corpus."""
    models: tuple[tuple[str, int], ...] = ()
    """Of an evaluation or a fine-tuning: scheme and seed of each pretraining whose model it used, as far as noted."""
    start: str | None = None
    """Of a pretraining that goes on from other weights: which, as the options name them."""
    started: str | None = None
    """When the run began for the first time: ISO 8601, UTC."""
    seconds: float | None = None
    """Wall time of training and evaluation, without what came before an interruption."""
    device: str | None = None
    """What computed the results; several are joined by commas."""
    commit: str | None = None
    """Short commit of the folder where the command ran; "+" behind it: with changes."""
    python: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed package → version."""
    metrics: Mapping[str, Series] = field(default_factory=dict)
    """All that was logged during training, by name."""
    evaluation: tuple[EvaluationRow, ...] = ()
    """The results, one row for all seeds of a measure."""
    changed_options: Mapping[str, Any] | None = None
    """Options that differ from the command's defaults, required ones included; None: the defaults are not known."""
    finished: bool = False
    """Whether the folder holds a finished model or results."""

    @property
    def package(self) -> str | None:
        """The Python package of the program."""
        return None if self.program is None else self.program.replace("-", "_")

    @property
    def loss(self) -> Series:
        """Training loss by step; empty where none was logged."""
        return self.metrics.get("loss") or self.metrics.get("train_loss") or ()

    @property
    def mask_ratio(self) -> Series:
        """The mask ratio of logged steps."""
        return self.metrics.get("mask_ratio", ())

    @property
    def validation(self) -> dict[float, Series]:
        """Mask ratio → validation loss by step, ascending in the ratio."""
        found = {
            float(match[1]): series
            for name, series in self.metrics.items()
            if (match := re.fullmatch(r"val_loss/ratio_([0-9.]+)", name))
        }
        return dict(sorted(found.items()))


def run_summary(
    folder: Path | str,
    commands: Mapping[str, Command] | None = None,
    *,
    seed: int | None = None,
    task: str | None = None,
) -> RunSummary:
    """Read what a run folder says about its run.

    Args:
        folder: a run folder of any command, finished or not.
        commands: verb → command of the package that the run is of, for `changed_options`.
        seed: of one of the run's models: no other seed's results, and no other seed; None: of all.
        task: likewise of one of its tasks, with all splits of it.

    Raises:
        UserError: it is no run folder, or a file of it is damaged.
    """
    path = Path(folder)
    if not path.exists():
        raise UserError(f"{path} is not there")
    if not (path / "config.yaml").exists():
        raise UserError(f"{path} is not a run folder: it has no config.yaml")
    options = read_yaml(path / "config.yaml")
    facts, stamps = _json(path / "facts.json"), _json(path / "versions.json")
    records = read_records(path) if (path / "results.json").exists() else []
    records = [one for one in records if seed in (None, one.seed) and task in (None, _task_of(one, options))]
    program = facts.get("program") or _program_of(stamps.get("argv"))
    command = facts.get("command")
    sources, own = facts.get("sources") or {}, {key: value for key, value in facts.items() if key not in NOTED}
    scheme, words = _scheme(options, program)
    known = None if commands is None else commands.get(str(command))
    asked = options if task is None or "tasks" not in options else {**options, "tasks": [task]}
    return RunSummary(
        path=path,
        options=options,
        program=program,
        command=command,
        scheme=scheme,
        scheme_in_words=words,
        seeds=_seeds(options, records) if seed is None else (seed,),
        data=_text(options.get("data")),
        data_digest=digest_of_sources(sources) or _digest_among(own),
        sources=sources,
        facts=own,
        models=tuple((str(noted["scheme"]), int(noted["seed"])) for noted in facts.get("models") or ()),
        start=_text(options.get("start")),
        started=stamps.get("started"),
        seconds=_same(record.seconds for record in records),
        device=", ".join(dict.fromkeys(record.device for record in records if record.device)) or None,
        commit=stamps.get("git"),
        python=stamps.get("python"),
        versions=stamps.get("packages") or {},
        metrics=read_metrics(path / "metrics.csv") if (path / "metrics.csv").exists() else {},
        evaluation=evaluation_rows(records),
        changed_options=None if known is None else _changed(asked, known.config),
        finished=bool(records) or (path / "model").is_dir(),
    )


def evaluation_rows(records: Iterable[Record]) -> tuple[EvaluationRow, ...]:
    """Return one row for all seeds of a measure, in the order in which they were measured."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.scheme, record.task, record.split, record.metric), []).append(record)
    rows = []
    for key, group in groups.items():
        cell = cell_of(group)
        rows.append(EvaluationRow(*key, cell.mean, cell.sd, len(group), _same(one.n for one in group), cell.paper))
    return tuple(rows)


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _program_of(argv: Any) -> str | None:
    """Return the console script of a run that does not note it, if it was started by one."""
    first = argv[0] if isinstance(argv, list) and argv and isinstance(argv[0], str) else ""
    return first if re.fullmatch(r"r2mae-[a-z]+", first) else None


def _scheme(options: Mapping[str, Any], program: str | None) -> tuple[str | None, str | None]:
    config = options.get("mask_ratio")
    if config is None:
        return None, None
    modality = None if program is None else program.removeprefix("r2mae-")
    if isinstance(config, str) and modality is None:  # a scheme's name, without which nobody knows its ratios
        return config + variant(options), None
    return name_of_scheme(config, modality) + variant(options), scheme_in_words(config, options, modality)


def _seeds(options: Mapping[str, Any], records: Iterable[Record]) -> tuple[int, ...]:
    asked = options.get("seeds", options.get("seed"))
    if isinstance(asked, int):
        return (asked,)
    if isinstance(asked, list | tuple):
        return tuple(seed for seed in asked if isinstance(seed, int))
    return tuple(sorted({record.seed for record in records}))


def _task_of(record: Record, options: Mapping[str, Any]) -> str:
    """Return the task that a record is of, as the options name it: that of "mnli-mismatched" is "mnli"."""
    asked = options.get("tasks")
    tasks = [str(name) for name in asked] if isinstance(asked, list | tuple) else []
    found = [name for name in tasks if record.task == name or record.task.startswith(f"{name}-")]
    return max(found, key=len, default=record.task)


def _text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)


def _digest_among(facts: Mapping[str, Any]) -> str | None:
    """Return the fact that is a digest of data; that of the weights which a run starts from is none."""
    names = [name for name in facts if "weights" not in name and "model" not in name]
    found = (facts[name] for name in names if re.fullmatch(r"[0-9a-f]{8,64}", str(facts[name])))
    return next(found, None)


def _same(values: Iterable[Any]) -> Any:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _changed(options: Mapping[str, Any], config: type) -> dict[str, Any]:
    """Return the options that are not at a command's default; the mask ratio has a description of its own."""
    defaults = {
        option.name: plain_data(option.default if option.default_factory is MISSING else option.default_factory())
        for option in fields(config)
        if option.default is not MISSING or option.default_factory is not MISSING
    }
    return {
        name: value
        for name, value in options.items()
        if name != "mask_ratio" and (name not in defaults or defaults[name] != value)
    }
