"""Result records: one number each, with all that is needed to trust it; the same fields as in the other packages."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from r2mae_theory.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One measured or predicted value."""

    task: str
    """The setting or data set, such as "1B: spiked, λ = 20, a = 0.25"."""
    metric: str
    """What it is, such as "simulated_risk" or "predicted_risk", both over the null risk."""
    value: float
    scheme: str
    """The distribution of mask ratios, such as "fixed 0.3"."""
    seed: int
    n: int
    """How many examples the value is computed on: the training sets of a simulation, or held-out rows; of a prediction,
    the samples that it is for."""
    split: str = "test"
    """Which part of the data; every risk is that of new samples."""
    seconds: float | None = None
    """Wall time that it took, where it was measured on its own."""
    device: str | None = None
    git: str | None = None
    paper: float | None = None
    """The value that the paper prints for this cell, if it prints one."""


def scheme_name(mask: float | tuple[float, float]) -> str:
    """Return what tables call a ratio or a range: "fixed 0.3", "Uniform(0.2, 0.5)"."""
    return f"Uniform({mask[0]:g}, {mask[1]:g})" if isinstance(mask, tuple) else f"fixed {mask:g}"


def write_records(path: Path, records: Iterable[Record]) -> Path:
    """Write `{"records": […]}` atomically and return the path; an infinite value is no record."""
    rows = [asdict(record) for record in records if math.isfinite(record.value)]
    write_text(path, json.dumps({"records": rows}, indent=1) + "\n")
    return path


def read_records(path: Path) -> list[Record]:
    """Read the records of a `results.json`."""
    return [Record(**row) for row in json.loads(path.read_text(encoding="utf-8"))["records"]]
