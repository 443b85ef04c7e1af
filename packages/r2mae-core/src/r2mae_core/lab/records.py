"""Result records: one measured number each, with all that is needed to trust it."""

import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.sealed import read_json, write_json


@dataclass(frozen=True)
class Record:
    """One measured value."""

    task: str
    """What was evaluated, such as "digits" or "mnli"."""
    metric: str
    """What was measured, such as "probe_accuracy"; at a mask ratio "loss@0.15"."""
    value: float
    """NaN or infinite where nothing was measured, as in a run that diverged: `null` in the file, read back as NaN, and
    a dash in tables."""
    scheme: str
    """The mask scheme that pretrained the model."""
    seed: int
    n: int
    """How many examples the value is computed on."""
    split: str = "test"
    """Which part of the data: "train", "validation", "test", or the benchmark's own name of it."""
    seconds: float | None = None
    """Wall time that training and evaluation took, where it was measured on its own."""
    device: str | None = None
    git: str | None = None
    paper: float | None = None
    """The value that the paper prints for this cell, if it prints one."""


def write_records(path: Path, records: Iterable[Record]) -> Path:
    """Write `{"records": […]}` atomically, with a checksum, and return the path."""
    return write_json(path, {"records": [asdict(record) for record in records]})


def read_records(path: Path | str) -> list[Record]:
    """Read the records of a `results.json`, or of a run folder that holds one.

    Raises:
        UserError: the file is missing, is not such a file, or has records with missing or unknown fields.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"no results at {path}; name a run folder or its results.json")
    rows = read_json(path).get("records")
    if not isinstance(rows, list):
        raise UserError(f'{path} is not a {{"records": […]}} file')
    return [_record(path, i, row) for i, row in enumerate(rows)]


def _record(path: Path, i: int, row: Any) -> Record:
    where = f"{path}: record {i}"
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object with {', '.join(_KINDS)}")
    if unknown := set(row) - set(_KINDS):
        raise UserError(f"{where} has unknown fields {sorted(unknown)}")
    if missing := [name for name in _NEEDED if name not in row]:
        raise UserError(f"{where} has no {', '.join(missing)}")
    row = {**row, "value": math.nan if row["value"] is None else row["value"]}
    for name, value in row.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise UserError(f"{where}: {name} is {value!r}")
    return Record(**row)


_KINDS: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "metric": (str,),
    "value": (int, float),
    "scheme": (str,),
    "seed": (int,),
    "n": (int,),
    "split": (str,),
    "seconds": (int, float, NoneType),
    "device": (str, NoneType),
    "git": (str, NoneType),
    "paper": (int, float, NoneType),
}
_NEEDED = [field.name for field in fields(Record) if field.default is MISSING]
