"""Readers for a user's own table: .npy, .npz, .csv, .parquet and .h5ad, and the check of what is in it."""

import csv
import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2mae_theory.arrays import Floats
from r2mae_theory.errors import DataError

MIN_SAMPLES = 10


@dataclass(frozen=True)
class Table:
    """A clean numeric table and what was left out on the way to it."""

    X: Floats
    """Samples by features, finite, no constant feature; shape (n, p)."""
    names: tuple[str, ...]
    columns: NDArray[np.intp]
    """Where each feature was in the table that came in, shape (p,)."""
    notes: tuple[str, ...]
    """One sentence per kind of thing that was dropped, with counts and names."""


def read_table(path: str | Path) -> Table:
    """Read a file by its ending and clean it.

    Raises:
        DataError: for an unknown ending, an empty or unreadable file, or too little left after cleaning.
    """
    file = Path(path)
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet, ".h5ad": _h5ad}
    if file.suffix.lower() not in readers:
        raise DataError(f"cannot read {file.name}: known endings are {', '.join(readers)}")
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    if file.stat().st_size == 0:
        raise DataError(f"{file.name} is empty")
    X, names, notes = readers[file.suffix.lower()](file)
    return clean(X, names, notes)


def clean(X: ArrayLike, names: list[str] | None = None, notes: list[str] | None = None) -> Table:
    """Drop rows with missing or infinite values and features that do not vary; say so.

    Features with more than half of their values missing go first, lest they take every row with them.

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
    said = list(notes or [])
    columns = np.arange(data.shape[1])

    def drop(bad: NDArray[np.bool_], why: str) -> None:
        nonlocal data, columns
        if bad.any():
            said.append(f"dropped {bad.sum()} {why}: {_some([labels[k] for k in columns[bad]])}")
            data, columns = data[:, ~bad], columns[~bad]

    if len(data):
        drop(np.isfinite(data).mean(axis=0) < 0.5, "features with more than half of their values missing")
    holes = np.logical_not(np.isfinite(data).all(axis=1))
    if holes.any():
        said.append(f"dropped {holes.sum()} of {len(holes)} rows with missing or infinite values")
        data = data[~holes]
    if len(data) < MIN_SAMPLES:
        raise DataError(f"only {len(data)} complete samples, at least {MIN_SAMPLES} are needed" + _because(said))
    spread = data.std(axis=0)
    drop(spread <= 1e-12 * np.maximum(np.abs(data).max(axis=0), 1e-300), "constant features")
    if data.shape[1] < 2:
        raise DataError(f"only {data.shape[1]} usable features, at least 2 are needed" + _because(said))
    return Table(data, tuple(labels[k] for k in columns), columns, tuple(said))


def _because(notes: list[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")


_Raw = tuple["ArrayLike", "list[str] | None", "list[str]"]


def _npy(file: Path) -> _Raw:
    try:
        return np.load(file, allow_pickle=False), None, []
    except ValueError as error:
        raise DataError(f"cannot read {file.name}: {error}") from error


def _npz(file: Path) -> _Raw:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
    except (ValueError, OSError) as error:
        raise DataError(f"cannot read {file.name}: {error}") from error
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
    with file.open(newline="", encoding="utf-8-sig") as handle:
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
    """Say which columns are not numeric; refuse a table that has no other."""
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
    try:
        pd = importlib.import_module("pandas")
    except ImportError as error:
        raise DataError("reading parquet needs pandas and pyarrow: pip install 'r2mae-theory[files]'") from error
    try:
        frame = pd.read_parquet(file)
    except Exception as error:  # every engine raises its own kind
        raise DataError(f"cannot read {file.name}: {error}") from error
    numeric = frame.select_dtypes(include=["number", "bool"])
    text = [str(c) for c in frame.columns if c not in numeric.columns]
    kept = [str(c) for c in numeric.columns]
    return numeric.to_numpy(dtype=float, na_value=np.nan), kept, _without_text(file, kept, text)


def _h5ad(file: Path) -> _Raw:
    try:
        anndata = importlib.import_module("anndata")
    except ImportError as error:
        raise DataError("reading h5ad needs anndata: pip install 'r2mae-theory[files]'") from error
    try:
        cells = anndata.read_h5ad(file)
    except Exception as error:  # h5py and anndata raise many kinds
        raise DataError(f"cannot read {file.name}: {error}") from error
    X = cells.X
    if X is None:
        raise DataError(f"{file.name} has no X")
    return (X if isinstance(X, np.ndarray) else X.toarray()), [str(g) for g in cells.var_names], []
