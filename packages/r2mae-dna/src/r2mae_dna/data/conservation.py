"""Conservation tracks (phastCons, phyloP) for windows: per-base values from bigWig files, and the paper's filter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, reading
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
        self.path = path
        try:
            self._file: Any = pyBigWig.open(str(path))
            lengths = self._file.chroms() if self._file.isBigWig() else None
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path} is not a bigWig file: {error}") from None
        if not lengths:
            raise UserError(f"{path} is not a bigWig file, or has no chromosomes")
        self._names = list(lengths)
        self._lengths = list(lengths.values())
        self._index = {name: i for i, name in enumerate(self._names)}

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        """Return the values of [start, end), float32; NaN if the track has none."""
        out = np.full(end - start, np.nan, np.float32)
        i = match_chromosome(chromosome, self._index)
        if i is not None and (last := min(end, self._lengths[i])) > start:
            with reading(self.path, "a bigWig file"):
                out[: last - start] = self._file.values(self._names[i], start, last, numpy=True)
        return out

    def check_lengths(self, lengths: Mapping[str, int], where: str) -> None:
        """Refuse a track of another genome.

        Args:
            lengths: chromosome of the alignment → its length.
            where: the alignment, for the message.

        Raises:
            UserError: it has none of the chromosomes, or one of another length.
        """
        found = {name: i for name in lengths if (i := match_chromosome(name, self._index)) is not None}
        if not found:
            raise UserError(
                f"{self.path} has none of the chromosomes of {where} ({', '.join(list(lengths)[:5])}); it has "
                f"{', '.join(self._names[:5])}"
            )
        for name, i in found.items():
            if self._lengths[i] != lengths[name]:
                raise UserError(
                    f"{self.path}: {self._names[i]} is {self._lengths[i]:,} long, and {lengths[name]:,} in {where}; "
                    "wrong genome build?"
                )


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
