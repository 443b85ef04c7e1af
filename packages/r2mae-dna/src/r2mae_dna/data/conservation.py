"""Conservation tracks (phastCons, phyloP) for windows: per-base values from bigWig files, and the paper's filter."""

from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.codes import match_chromosome


class Track:
    """A bigWig file.

    Raises:
        UserError: pyBigWig is not installed, or the file is not a bigWig.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyBigWig
        except ImportError:
            raise UserError(
                f"reading {path} needs pyBigWig, which is not installed: pip install 'r2mae-dna[bigwig]' "
                "(wheels exist for Linux only)"
            ) from None
        if not path.is_file():
            raise UserError(f"no file {path}")
        try:
            self._file: Any = pyBigWig.open(str(path))
        except RuntimeError as error:
            raise UserError(f"{path} is not a bigWig file: {error}") from None
        lengths = self._file.chroms()
        self._names = list(lengths)
        self._lengths = list(lengths.values())
        self._index = {name: i for i, name in enumerate(self._names)}

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        """Return the values of [start, end), float32; NaN if the track has none."""
        out = np.full(end - start, np.nan, np.float32)
        i = match_chromosome(chromosome, self._index)
        if i is not None and (last := min(end, self._lengths[i])) > start:
            out[: last - start] = self._file.values(self._names[i], start, last, numpy=True)
        return out


def conserved_windows(
    phastcons: np.ndarray, *, quantile: float, top: float, rest: float, generator: np.random.Generator
) -> np.ndarray:
    """Return which windows to keep: the most conserved, and a few of the rest (GPN-MSA's training set).

    Args:
        phastcons: (n, L) per window and base, NaN counted as 0.
        quantile: quantile over a window's bases; GPN-MSA takes the 75th percentile.
        top: fraction of windows that are kept for their high quantile.
        rest: fraction of the others kept at random.
        generator: source of randomness.

    Returns:
        (n,) bool.
    """
    score = np.quantile(np.nan_to_num(phastcons), quantile, axis=1)
    keep = score >= np.quantile(score, 1 - top)
    return keep | (generator.random(len(score)) < rest)
