"""Read a user's table: .npy, .npz, .csv, .parquet or .h5ad. Nothing here unpickles."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_theory.arguments import check_memory, shown
from r2mae_theory.csv_table import read_csv
from r2mae_theory.data import RawTable, Table, because, clean, some
from r2mae_theory.errors import DataError


def read_table(path: str | Path) -> Table:
    """Read a file by its suffix and clean it.

    Raises:
        DataError: for an unknown suffix, an empty or unreadable file, or too little data after cleaning; the message
            begins with the file's name.
    """
    if not isinstance(path, str | Path):
        raise DataError(f"the table's file must be a path, got {shown(path)}")
    file = Path(path)
    if (read := _READERS.get(file.suffix.lower())) is None:
        raise DataError(f"cannot read {file}: known suffixes are {', '.join(_READERS)}")
    with _reading(file):
        if file.is_dir():
            raise DataError("it is a folder")
        if not file.exists():
            raise DataError("no such file")
        if file.stat().st_size == 0:
            raise DataError("it is empty")
        return clean(read(file))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line with the file's name."""
    try:
        yield
    except MemoryError:
        raise DataError(f"cannot read {file}: it does not fit into memory") from None
    except Exception as error:  # every library raises its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read {file}: {reason[:400]}") from error


def _optional(name: str, need: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"reading {need}: pip install 'r2mae-theory[files]'") from error


def _npy(file: Path) -> RawTable:
    with file.open("rb") as content:  # numpy leaves a file open that turns out to be damaged
        found = np.load(content, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise DataError("it is an archive of arrays; name it .npz")
    return RawTable(found)


def _npz(file: Path) -> RawTable:
    with file.open("rb") as content:
        archive = np.load(content, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError("it is a single array; name it .npy")
        if "X" in archive.files:
            return RawTable(archive["X"])
        arrays = {name: archive[name] for name in archive.files}
    tables = [name for name, values in arrays.items() if values.ndim == 2]
    if len(tables) != 1:
        raise DataError(f"it must hold one matrix, or one named X; its matrices are: {', '.join(tables) or 'none'}")
    return RawTable(arrays[tables[0]])


def _csv(file: Path) -> RawTable:
    return read_csv(file.read_bytes())


def _parquet(file: Path) -> RawTable:
    pd = _optional("pandas", "parquet needs pandas and pyarrow")
    frame = pd.read_parquet(file)
    is_number = [pd.api.types.is_bool_dtype(kind) or _is_real(pd, kind) for kind in frame.dtypes]
    names = [str(column) for column in frame.columns]
    places = [k for k, good in enumerate(is_number) if good]
    text = [name for name, good in zip(names, is_number, strict=True) if not good]
    notes = [f"dropped {len(text)} columns that are not numeric: {some(text)}"] if text else []
    if not places:
        raise DataError("it has no numeric column" + because(notes))
    values = frame.iloc[:, places].to_numpy(dtype=float, na_value=np.nan)
    return RawTable(values, [names[k] for k in places], places, len(names), notes)


def _is_real(pd: Any, kind: Any) -> bool:
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)


def _h5ad(file: Path) -> RawTable:
    anndata = _optional("anndata", "h5ad needs anndata")
    cells = anndata.read_h5ad(file)
    X = cells.X
    if X is None:
        raise DataError("it has no X")
    if not isinstance(X, np.ndarray):
        X.check_format(full_check=True)  # an index out of range would be written to memory that is not ours
        check_memory(f"its X of {X.shape[0]} cells × {X.shape[1]} genes", 4.0 * X.shape[0] * X.shape[1])
        X = X.toarray()
    return RawTable(X, [str(gene) for gene in cells.var_names])


_READERS: dict[str, Callable[[Path], RawTable]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".h5ad": _h5ad,
}
