"""Counts of one file, in blocks of cells, whatever its format: h5ad, h5mu, zarr, 10x h5, 10x mtx folders, loom.

Nothing is read but tables until `blocks` is called; memory is bounded by a block, except for mtx folders in no order.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from r2mae_core import UserError, reading
from r2mae_singlecell.data import formats, mtx
from r2mae_singlecell.data.rows import Rows
from r2mae_singlecell.data.stores import opened
from r2mae_singlecell.data.whole import FRACTION, Rounded, message, selected, whole, without_zeros

BLOCK = 20_000
"""Cells that are read at a time at most."""
GENES = "Gene Expression"
"""10x Genomics' word for features that are genes, in a column `feature_types`."""


@dataclass(frozen=True)
class CountsFile:
    """The counts of an open file.

    `obs` and `var` are its tables of cells and genes; features that are not genes (antibodies, peaks) are left out of
    `var` and counted in `left_out`.
    """

    path: Path
    place: str
    """Where the counts lie in it, such as "X", "raw/X" or "layers/counts"."""
    obs: pd.DataFrame
    var: pd.DataFrame
    left_out: Mapping[str, int]
    """Reason → features of the file that are not in `var`."""
    features: np.ndarray = field(repr=False)
    """(genes,) the column of the file that each gene is."""
    content: formats.Content = field(repr=False)
    scratch: Path = field(repr=False)
    stack: contextlib.ExitStack = field(repr=False)
    _rows: list[Rows] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return len(self.obs), len(self.var)

    @property
    def places(self) -> tuple[str, ...]:
        """Where counts may lie in the file."""
        return tuple(self.content.places)

    @property
    def obsm(self) -> dict[str, Any]:
        """Name → dense array of two dimensions, a row for each cell; it is in the file, and slices of it are read."""
        return dict(self.content.obsm)

    def at(self, place: str) -> "CountsFile":
        """Return the same file with counts at another place.

        Raises:
            UserError: there are none.
        """
        return counts_at(self.path, self.content, place, self.scratch, self.stack)

    def rows(self) -> Rows:
        """Return the matrix as it lies in the file; counts that are stored by genes are sorted into a scratch file.

        Raises:
            UserError: it is damaged, does not belong to the tables, or there is no space for the scratch file.
        """
        if not self._rows:
            with reading(self.path, f"a file with counts at {self.place}"):
                rows = self.content.places[self.place](self.scratch)
            if hasattr(rows, "close"):
                self.stack.callback(rows.close)  # pyright: ignore[reportAttributeAccessIssue]
            n_features = int(self.features.size) + sum(self.left_out.values())
            if rows.shape != (len(self.obs), n_features):
                raise UserError(
                    f"{self.path}: {self.place} is {rows.shape}, but there are {len(self.obs):,} cells × "
                    f"{n_features:,} genes"
                )
            self._rows.append(rows)
        return self._rows[0]

    def blocks(
        self,
        block: int = BLOCK,
        columns: np.ndarray | None = None,
        n_columns: int | None = None,
        *,
        rounding: bool = False,
        rounded: Rounded | None = None,
    ) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield the counts, block by block of cells.

        Args:
            block: cells at a time at most; fewer, where they would not fit the memory.
            columns: (genes,) the position of each gene in the result, or -1 to leave it out; genes that meet are added
                up. None: all genes as in `var`.
            n_columns: genes of the result; with `columns`.
            rounding: round fractional counts instead of refusing them.
            rounded: what is rounded is added here.

        Yields:
            The position of the first cell; and (cells, n_columns) CSR of int32, with the columns of each row in order,
            without zeros.

        Raises:
            UserError: a count is missing, negative, infinite or fractional, with its cell and gene; or the file is
                damaged.
        """
        rows, n_columns = self.rows(), len(self.var) if columns is None else n_columns
        moved = np.full(rows.shape[1], -1, np.int32)
        moved[self.features] = np.arange(len(self.var)) if columns is None else columns
        if n_columns is None:
            raise ValueError("columns needs n_columns")
        for start, raw in self._ahead(rows, block):
            part = selected(raw, moved, n_columns)
            values, found, position, what = whole(part.data, rounding)
            if what:
                self._refuse(start, raw, part, position, what, moved)
            if rounded is not None:
                rounded.close += found.close
                rounded.fractions += found.fractions
            part.data = values
            yield start, without_zeros(part)

    def _ahead(self, rows: Rows, block: int) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Read blocks, the next one while the last one is worked on."""

        def read(start: int) -> tuple[int, sp.csr_matrix, int]:
            end = rows.end(start, block)
            with reading(self.path, f"a file with counts at {self.place}"):
                return start, rows.read(start, end), end

        if not rows.shape[0]:
            return
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(read, 0)
            while True:
                start, part, end = coming.result()
                if end < rows.shape[0]:
                    coming = pool.submit(read, end)
                yield start, part
                if end >= rows.shape[0]:
                    return

    def _refuse(
        self, start: int, raw: sp.csr_matrix, part: sp.csr_matrix, position: int, what: int, moved: np.ndarray
    ) -> None:
        """Name the cell and the gene of a value that is no count."""
        row = int(np.searchsorted(part.indptr, position, side="right")) - 1
        at = raw.indptr[row] + np.flatnonzero(
            moved[raw.indices[raw.indptr[row] : raw.indptr[row + 1]]] == part.indices[position]
        )
        bad = next((i for i in at if whole(raw.data[i : i + 1], False)[3] == what), at[0])
        column = int(raw.indices[bad])
        gene = str(self.var.index[int(np.flatnonzero(self.features == column)[0])])
        others = ", ".join(place for place in self.places if place != self.place)
        remedy = f"raw counts are needed (--counts names their place{f'; there are also {others}' if others else ''})"
        if what == FRACTION:
            remedy += "; if these are counts that a tool estimated (SoupX, STARsolo), --round makes them whole"
        raise UserError(
            f"{self.path}: {self.place}, cell {start + row:,} {str(self.obs.index[start + row])!r}, gene {column:,} "
            f"{gene!r} (counted from 0): {message(what, raw.data[bad])}; {remedy}"
        )


@contextlib.contextmanager
def open_counts(source: Path, place: str | None = None, scratch: Path | None = None) -> Iterator[CountsFile]:
    """Open a file of any format that has counts of cells.

    Args:
        source: an h5ad or h5mu file (the modality `rna`), a zarr store (a folder, or zipped), a file or folder of Cell
            Ranger (.h5, or matrix.mtx with its tables), or a loom file.
        place: where the counts lie in it; None: "X", or the only place.
        scratch: where a scratch file may lie, if the counts are stored by genes; None: the system's.

    Raises:
        UserError: it is missing or damaged, of no known format, refers to other files, or reading it could run code.
    """
    with contextlib.ExitStack() as stack:
        content = stack.enter_context(open_content(source))
        yield counts_at(source, content, place, scratch or Path(tempfile.gettempdir()), stack)


@contextlib.contextmanager
def open_content(source: Path) -> Iterator[formats.Content]:
    """Open a file without saying yet where its counts lie.

    Raises:
        UserError: as `open_counts`.
    """
    if (folder := mtx.mtx_folder(source)) is not None:
        yield mtx.mtx_content(*folder)
        return
    with opened(source) as file:
        yield formats.content_of(file, source)


def counts_at(
    source: Path, content: formats.Content, place: str | None, scratch: Path, stack: contextlib.ExitStack
) -> CountsFile:
    """Return the counts at a place of an open file.

    Args:
        source: the file's name.
        content: what is in it.
        place: where the counts lie; None: "X", or the only place.
        scratch: where a scratch file may lie.
        stack: removes the scratch file when it is closed.

    Raises:
        UserError: there are no counts.
    """
    if place is None:
        place = "X" if len(content.places) != 1 else next(iter(content.places))
    if place not in content.places:
        known = f"there are {', '.join(content.places)}" if content.places else "there is no matrix in it"
        raise UserError(f"{source} has no counts at {place}; give their place with --counts ({known})")
    var = content.var if content.raw_var is None or not place.startswith("raw/") else content.raw_var
    features, left_out = _genes(var)
    return CountsFile(source, place, content.obs, var.iloc[features], left_out, features, content, scratch, stack)


def _genes(var: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """Return the positions of the features that are genes, and the number of the others by their kind.

    Raises:
        UserError: none is a gene.
    """
    if "feature_types" not in var:
        return np.arange(len(var)), {}
    kinds: Any = var["feature_types"].astype(str)
    if not (kinds == GENES).any():
        return np.arange(len(var)), {}
    others = kinds[kinds != GENES].value_counts().sort_index()
    return np.flatnonzero(kinds == GENES), {f"features of the kind {kind}": int(n) for kind, n in others.items()}
