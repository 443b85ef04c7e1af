"""Read a user's table (.npy, .npz, .csv, .parquet or .h5ad) and clean it."""

import csv
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import DataError

MIN_SAMPLES = 10


@dataclass(frozen=True)
class Table:
    """A clean numeric table and what was dropped to make it so."""

    X: Floats
    """Samples by features, finite, no constant feature; shape (n, p)."""
    names: tuple[str, ...]
    columns: NDArray[np.intp]
    """Each feature's column in the original table, shape (p,)."""
    notes: tuple[str, ...]
    """One sentence for each kind of loss, with counts and names."""


def read_table(path: str | Path) -> Table:
    """Read a file by its suffix and clean it.

    Raises:
        DataError: for an unknown suffix, an empty or unreadable file, or too little data after cleaning.
    """
    file = Path(path)
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet, ".h5ad": _h5ad}
    if file.suffix.lower() not in readers:
        raise DataError(f"cannot read {file.name}: known suffixes are {', '.join(readers)}")
    if not file.is_file():
        raise DataError(f"no such file: {file}")
    if file.stat().st_size == 0:
        raise DataError(f"{file.name} is empty")
    X, names, notes = readers[file.suffix.lower()](file)
    return clean(X, names, notes)


def clean(X: ArrayLike, names: list[str] | None = None, notes: list[str] | None = None) -> Table:
    """Drop rows with missing or infinite values and constant features, and note it.

    Features with more than half of their values missing are dropped first, so that they do not cost every row.

    Raises:
        DataError: if fewer than 10 samples or 2 features remain, or the table is not numeric and two-dimensional.
    """
    try:
        data = np.array(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the table is not numeric: {error}") from error
    if data.ndim != 2:
        raise DataError(f"expected samples by features, got an array of shape {data.shape}")
    labels = [str(k) for k in range(data.shape[1])] if names is None else names
    losses = list(notes or [])
    columns = np.arange(data.shape[1])

    def drop(bad: NDArray[np.bool_], why: str) -> None:
        nonlocal data, columns
        if bad.any():
            losses.append(f"dropped {bad.sum()} {why}: {_some([labels[k] for k in columns[bad]])}")
            data, columns = data[:, ~bad], columns[~bad]

    if len(data):
        drop(np.isfinite(data).mean(axis=0) < 0.5, "features with more than half of their values missing")
    holes = np.logical_not(np.isfinite(data).all(axis=1))
    if holes.any():
        losses.append(f"dropped {holes.sum()} of {len(holes)} rows with missing or infinite values")
        data = data[~holes]
    if len(data) < MIN_SAMPLES:
        raise DataError(f"only {len(data)} complete samples, at least {MIN_SAMPLES} are needed" + _because(losses))
    spread = data.std(axis=0)
    drop(spread <= 1e-12 * np.maximum(np.abs(data).max(axis=0), 1e-300), "constant features")
    if data.shape[1] < 2:
        raise DataError(f"only {data.shape[1]} usable features, at least 2 are needed" + _because(losses))
    return Table(data, tuple(labels[k] for k in columns), columns, tuple(losses))


def _because(notes: list[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")


_Raw = tuple[ArrayLike, list[str] | None, list[str]]


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every library raises its own kinds
        raise DataError(f"cannot read {file.name}: {' '.join(str(error).split())}") from error


def _optional(name: str, need: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"reading {need}: pip install 'r2mae-theory[files]'") from error


def _npy(file: Path) -> _Raw:
    with _reading(file):
        return np.load(file, allow_pickle=False), None, []


def _npz(file: Path) -> _Raw:
    with _reading(file), np.load(file, allow_pickle=False) as archive:
        arrays = {k: archive[k] for k in archive.files}
    tables = [k for k, v in arrays.items() if v.ndim == 2]
    if "X" in tables:
        return arrays["X"], None, []
    if len(tables) != 1:
        raise DataError(f"{file.name} must hold one matrix, or one named X; its matrices are: {tables or 'none'}")
    return arrays[tables[0]], None, []


def _number(cell: str) -> float:
    text = cell.strip()
    return np.nan if text.lower() in ("", "na", "nan", "null", "none") else float(text)


def _csv(file: Path) -> _Raw:
    with _reading(file), file.open(newline="", encoding="utf-8-sig") as handle:
        rows = [row for row in csv.reader(handle) if row]
    if not rows:
        raise DataError(f"{file.name} is empty")
    if any(len(row) != len(rows[0]) for row in rows):
        bad = next(k for k, row in enumerate(rows) if len(row) != len(rows[0]))
        raise DataError(f"{file.name}: row {bad + 1} has {len(rows[bad])} cells, the first has {len(rows[0])}")
    has_header = not any(_is_number(cell) for cell in rows[0])
    names = rows[0] if has_header else [str(k) for k in range(len(rows[0]))]
    columns, kept, text = [], [], []
    for name, cells in zip(names, zip(*rows[has_header:], strict=True), strict=False):
        try:
            columns.append([_number(cell) for cell in cells])
            kept.append(name)
        except ValueError:
            text.append(name)
    return np.array(columns).T, kept, _without_text(file, kept, text)


def _without_text(file: Path, kept: list[str], text: list[str]) -> list[str]:
    """Note which columns are not numeric; refuse a table without others."""
    notes = [f"dropped {len(text)} columns that are not numeric: {_some(text)}"] if text else []
    if not kept:
        raise DataError(f"{file.name} has no numeric column" + _because(notes))
    return notes


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(file: Path) -> _Raw:
    pd = _optional("pandas", "parquet needs pandas and pyarrow")
    with _reading(file):
        frame = pd.read_parquet(file)
    numeric = frame.select_dtypes(include=["number", "bool"])
    text = [str(c) for c in frame.columns if c not in numeric.columns]
    kept = [str(c) for c in numeric.columns]
    return numeric.to_numpy(dtype=float, na_value=np.nan), kept, _without_text(file, kept, text)


def _h5ad(file: Path) -> _Raw:
    anndata = _optional("anndata", "h5ad needs anndata")
    with _reading(file):
        cells = anndata.read_h5ad(file)
    X = cells.X
    if X is None:
        raise DataError(f"{file.name} has no X")
    return (X if isinstance(X, np.ndarray) else X.toarray()), [str(g) for g in cells.var_names], []
