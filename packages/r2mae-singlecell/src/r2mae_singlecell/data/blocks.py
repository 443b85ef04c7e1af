"""The counts of somebody's file, block by block of cells, checked while they are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from r2mae_core import UserError, reading
from r2mae_singlecell.data.variable_genes import normalized_dispersion

HIGHEST = int(np.iinfo(np.int32).max)
"""Highest count that a prepared file can hold."""


class CountBlocks:
    """The counts of an open file, block by block.

    Args:
        file: what `opened` gave.
        path: the place of the counts in it.
        source: the file's name.
        block: cells read at a time.

    Raises:
        UserError: there are no counts at this place, or they are stored by genes.
    """

    def __init__(self, file: Any, path: str, source: Path, block: int) -> None:
        from anndata.io import sparse_dataset

        with reading(source, "an AnnData file"):
            there = bool(path) and path in file
        if not there:
            raise UserError(f"{source} has no counts at {path}; give their place with --counts, such as layers/counts")
        self.source, self.path, self.block = source, path, block
        self.in_raw = path.startswith("raw/")
        with reading(source, f"a file with counts at {path}"):
            element = file[path]
            self.matrix: Any = sparse_dataset(element) if hasattr(element, "keys") else element
            self.shape: tuple[int, int] = (int(self.matrix.shape[0]), int(self.matrix.shape[1]))
        if getattr(self.matrix, "format", "csr") != "csr":
            raise UserError(
                f"{source}: {path} is stored by genes (CSC); rewrite it by cells: adata.X = adata.X.tocsr()"
            )

    def blocks(self, genes: np.ndarray | None, what: str, progress: bool) -> Iterator[Any]:
        """Yield the blocks of cells as CSR without zeros, with all genes or with some.

        Raises:
            UserError: a block cannot be read.
        """
        starts = range(0, self.shape[0], self.block)
        for start in tqdm(starts, desc=what, unit="block", disable=not progress):
            with reading(self.source, f"a file with counts at {self.path}"):
                part = sp.csr_matrix(self.matrix[start : start + self.block])
            part.eliminate_zeros()
            yield part if genes is None else part[:, genes]

    def where(self, block: int, part: sp.csr_matrix, position: int) -> str:
        """Return what names the place of one stored value of a block in a message."""
        cell = block * self.block + int(np.searchsorted(part.indptr, position, side="right")) - 1
        return f"{self.source}: {self.path}, cell {cell:,}, gene {int(part.indices[position]):,} (counted from 0)"


def totals_and_highest(counts: CountBlocks, progress: bool) -> tuple[np.ndarray, int]:
    """Return the total of every cell and the highest count, and check that they are counts.

    Raises:
        UserError: a value is missing, negative, fractional or too large, with its place; or the matrix is damaged.
    """
    totals, highest = [], 0
    for i, part in enumerate(counts.blocks(None, "checking", progress)):
        with reading(counts.source, f"a file with counts at {counts.path}"):
            part.check_format(full_check=True)  # columns that are none would crash what adds them up
        _check_values(counts, i, part)
        totals.append(np.asarray(part.sum(axis=1), dtype=np.float64).ravel())
        highest = max(highest, int(part.data.max(initial=0)))
    return np.concatenate(totals) if totals else np.zeros(0), highest


def _check_values(counts: CountBlocks, block: int, part: sp.csr_matrix) -> None:
    values: Any = part.data
    if not values.size or (np.issubdtype(values.dtype, np.unsignedinteger) and values.max() <= HIGHEST):
        return
    remedy = "raw counts are needed (--counts names their place)"

    def refuse(bad: np.ndarray, what: str) -> None:
        place = int(np.argmax(bad))
        raise UserError(f"{counts.where(block, part, place)}: {what.format(values[place])}; {remedy}")

    if values.dtype.kind not in "biuf":
        raise UserError(f"{counts.source}: {counts.path} holds {values.dtype}, not numbers; {remedy}")
    if not values.min() >= 0:  # NaN fails the comparison
        bad = ~(values >= 0)
        refuse(bad, f"negative or missing values, {{:g}} the first of {int(bad.sum()):,}")
    if values.max() > HIGHEST:
        refuse(values > HIGHEST, f"{{:g}} is more than a count can be, {HIGHEST:,}")
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        refuse(values != np.floor(values), "fractional values such as {:g}; these are normalised, and")


def dispersion(counts: CountBlocks, totals: np.ndarray, target_sum: float | None, progress: bool) -> np.ndarray:
    """Return scanpy's normalised dispersion of every gene."""
    aim = float(np.median(totals[totals > 0])) if target_sum is None else target_sum
    factors = np.divide(aim, totals, out=np.zeros_like(totals), where=totals > 0)
    sums, squares = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for i, part in enumerate(counts.blocks(None, "choosing genes", progress)):
        scaled: Any = sp.diags_array(factors[i * counts.block : i * counts.block + part.shape[0]]) @ part.astype(
            np.float64
        )
        sums += np.asarray(scaled.sum(axis=0)).ravel()
        squares += np.asarray(scaled.power(2).sum(axis=0)).ravel()
    n = counts.shape[0]
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0.0) * n / max(n - 1, 1)
    return normalized_dispersion(mean, variance)
