"""Cell Ranger's folders: matrix.mtx, genes × cells as text, and the tables of its genes and cells.

Such text has no place where a block begins, so it is read once, a piece at a time, into a scratch file.
"""

import gzip
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from r2mae_core import UserError, check_space, reading
from r2mae_singlecell.data.formats import Content
from r2mae_singlecell.data.rows import DenseRows, Rows, SparseRows, TransposedRows, checked_indices

PIECE = 2**21
"""Lines of text that are read at a time."""


def mtx_folder(source: Path) -> tuple[Path, str] | None:
    """Return the folder of Cell Ranger's (or STARsolo's) matrix.mtx and the prefix of its names; None for other paths.

    Raises:
        UserError: there are several in the folder.
    """
    ends = ("matrix.mtx", "matrix.mtx.gz")
    if source.is_file() and source.name.endswith(ends):
        return source.parent, source.name.removesuffix(".gz").removesuffix("matrix.mtx")
    if not source.is_dir():
        return None
    prefixes = sorted(
        {p.name.removesuffix(".gz").removesuffix("matrix.mtx") for e in ends for p in source.glob(f"*{e}")}
    )
    if len(prefixes) > 1:
        raise UserError(f"{source} holds several matrices ({', '.join(prefixes)} …matrix.mtx); name them one by one")
    return (source, prefixes[0]) if prefixes else None


def mtx_content(folder: Path, prefix: str) -> Content:
    """Return the content of Cell Ranger's matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, gzipped or not.

    Raises:
        UserError: one of the three is missing or damaged, or they do not fit together.
    """

    def there(*names: str) -> Path:
        both = [folder / f"{prefix}{name}{end}" for name in names for end in ("", ".gz")]
        if (found := next((path for path in both if path.is_file()), None)) is None:
            raise UserError(f"{folder} has a matrix.mtx, but no {prefix}{names[0]}, which names its rows or columns")
        return found

    def table(path: Path) -> pd.DataFrame:
        with reading(path, "a table of Cell Ranger"):
            return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)

    features, barcodes = table(there("features.tsv", "genes.tsv")), table(there("barcodes.tsv"))
    var = pd.DataFrame(index=pd.Index(features[0]))
    for position, name in ((1, "gene_symbols"), (2, "feature_types")):
        if position in features:
            var[name] = features[position].to_numpy()
    file = there("matrix.mtx")
    places = {"X": lambda scratch: mtx_rows(file, scratch)}
    return Content(pd.DataFrame(index=pd.Index(barcodes[0])), var, None, places, {})


class _Other(Exception):  # noqa: N818  no error
    """The text is not what can be read in pieces: sorted by cells or by genes, whole numbers or fractions."""


def mtx_rows(file: Path, scratch: Path) -> Rows:
    """Return the rows, one for each cell, of a Matrix Market file of genes × cells.

    Cell Ranger and STARsolo sort it by cells, and others by genes: such files are read in pieces. What is neither, or
    is dense or symmetric, is read whole by scipy.

    Args:
        file: gzipped or not.
        scratch: a folder for a scratch file of 12 bytes a value, which is gone when the rows are closed.

    Raises:
        ValueError: it is damaged.
        UserError: there is not enough space for the scratch file.
    """
    try:
        return _Pieces(file, scratch).rows()
    except _Other:
        from scipy.io import mmread

        found: Any = mmread(file)
        if isinstance(found, np.ndarray):
            return DenseRows(found, by_genes=True)
        matrix = found.T.tocsr()
        return SparseRows(matrix.data, matrix.indices, matrix.indptr, matrix.shape)


class _Pieces:
    """A sorted file, read once into arrays of a scratch file: where each value lies along the row, and what it is."""

    def __init__(self, file: Path, scratch: Path) -> None:
        self.file, self.scratch = file, scratch

    def rows(self) -> Rows:
        """Read the file, and return rows whose `close` removes the scratch file."""
        with (gzip.open if self.file.suffix == ".gz" else open)(self.file, "rt") as text:
            n_genes, n_cells, n, kind = _header(text)
            check_space(self.scratch, n * (4 + kind.itemsize), f"reading {self.file}, which is text")
            folder = tempfile.TemporaryDirectory(prefix=".r2mae-mtx-", dir=self.scratch)
            try:
                return self._read(_pieces(text, kind), folder, (n_genes, n_cells), n, kind)
            except BaseException:
                folder.cleanup()
                raise

    def _read(self, pieces: Iterator[Any], folder: Any, sizes: tuple[int, int], n: int, kind: np.dtype) -> Rows:
        first = next(pieces, None)
        by_cells = first is None or _by_cells(first[0], first[1])
        outer, inner = (1, 0) if by_cells else (0, 1)  # positions in (gene, cell): what it is sorted by, and the other
        arrays = [
            _mapped(Path(folder.name) / name, n, dtype) for name, dtype in (("i", np.dtype(np.int32)), ("v", kind))
        ]
        lengths, at, last = np.zeros(sizes[outer], np.int64), 0, 0
        for piece in itertools.chain([] if first is None else [first], pieces):
            sorted_by, other, values = piece[outer], piece[inner], piece[2]
            if sorted_by.size and (sorted_by[0] < last or (np.diff(sorted_by) < 0).any()):
                raise _Other
            if at + len(values) > n:
                raise ValueError(f"it holds more than the {n:,} values that its header states")
            lengths += np.bincount(checked_indices(sorted_by, sizes[outer]), minlength=sizes[outer])
            arrays[0][at : at + len(values)] = checked_indices(other, sizes[inner])
            arrays[1][at : at + len(values)] = values
            at, last = at + len(values), int(sorted_by[-1]) if sorted_by.size else last
        if at != n:
            raise ValueError(f"it holds {at:,} values, not the {n:,} that its header states: it is cut off")
        indptr, shape = np.concatenate([[0], np.cumsum(lengths)]), (sizes[1], sizes[0])
        if by_cells:
            return _Kept(arrays[1], arrays[0], indptr, shape, folder)
        rows = TransposedRows(arrays[1], arrays[0], indptr, shape, self.scratch)
        folder.cleanup()
        return rows


def _by_cells(genes: np.ndarray, cells: np.ndarray) -> bool:
    """Return whether lines are sorted by cells; the first lines may be of one gene, in the order of the cells."""
    genes, cells = np.diff(genes), np.diff(cells)
    return bool((cells >= 0).all()) and not ((genes >= 0).all() and np.count_nonzero(genes) < np.count_nonzero(cells))


class _Kept(SparseRows):
    """Rows whose arrays lie in a scratch file."""

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int], folder: Any) -> None:
        super().__init__(data, indices, indptr, shape)
        self._folder = folder

    def close(self) -> None:
        """Remove the scratch file."""
        self._folder.cleanup()


def _header(text: Any) -> tuple[int, int, int, np.dtype]:
    """Return genes, cells, values and their type; the text then stands at the first value."""
    words = text.readline().lower().split()
    if words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or words[4:] != ["general"]:
        raise _Other  # or damaged: scipy knows
    kinds = {"integer": np.dtype(np.int64), "real": np.dtype(np.float64)}
    if words[3] not in kinds:
        raise _Other
    line = next((line for line in text if line.strip() and not line.startswith("%")), "")
    n_genes, n_cells, n = (int(word) for word in line.split())
    return n_genes, n_cells, n, kinds[words[3]]


def _pieces(text: Any, kind: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield genes, cells and values, counted from 0."""
    types: Any = {0: np.int64, 1: np.int64, 2: kind, 3: str}
    try:
        # The fourth column takes what a line must not hold: else pandas makes the first number the table's index.
        for table in pd.read_csv(text, sep=r"\s+", header=None, names=[0, 1, 2, 3], dtype=types, chunksize=PIECE):
            if table[3].notna().any():
                raise ValueError("its lines have more than three numbers")
            yield table[0].to_numpy() - 1, table[1].to_numpy() - 1, table[2].to_numpy()
    except pd.errors.EmptyDataError:  # no value at all
        return


def _mapped(file: Path, n: int, dtype: np.dtype) -> Any:
    return np.memmap(file, dtype, "w+", shape=(n,)) if n else np.zeros(0, dtype)
