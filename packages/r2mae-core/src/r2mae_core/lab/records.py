"""Result records: one measured number each, with all that is needed to trust it."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import as_json, write_text


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
    """Write `{"records": […]}` atomically and return the path."""
    write_text(path, as_json({"records": [asdict(record) for record in records]}))
    return path


def read_records(path: Path | str) -> list[Record]:
    """Read the records of a `results.json`, or of a run folder that holds one.

    Raises:
        UserError: the file is missing, is not such a file, or has records with missing or unknown fields.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["records"]
    except FileNotFoundError:
        raise UserError(f"no results at {path}; name a run folder or its results.json") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path} is not a {{"records": […]}} file: {error!r}') from None
    names = {field.name for field in fields(Record)}
    for i, row in enumerate(rows):
        if unknown := set(row) - names:
            raise UserError(f"{path}: record {i} has unknown fields {sorted(unknown)}")
    try:
        return [Record(**{**row, "value": math.nan} if row.get("value", 0) is None else row) for row in rows]
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: {error}") from None
