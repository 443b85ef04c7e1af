"""Conservation tracks (phastCons, phyloP) for windows: per-base values from bigWig files, and the paper's filter."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, reading
from r2mae_dna.data.chromosome_names import ChromosomeNames

SPAN, BLOCK = 16_384, 1 << 20
"""Bases of a track, and scores of windows, that are in memory at once."""
MIN_KNOWN = 0.5
"""Share of a window's bases whose phastCons must be known for it to have a rank."""


class Track:
    """A bigWig file.

    Args:
        path: the file.
        probability: its values are probabilities, as phastCons is; others are refused where they are read.

    Raises:
        UserError: pyBigWig is not installed, or the file is not a bigWig.
    """

    def __init__(self, path: Path, *, probability: bool = False) -> None:
        try:
            import pyBigWig
        except ImportError:
            raise UserError(
                f"reading {path} needs pyBigWig, which is not installed: pip install 'r2mae-dna[bigwig]' "
                "(wheels exist for Linux only)"
            ) from None
        if not path.is_file():
            raise UserError(f"no file {path}")
        self.path, self._probability = path, probability
        try:
            self._file: Any = pyBigWig.open(str(path))
            lengths = self._file.chroms() if self._file.isBigWig() else None
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path} is not a bigWig file: {error}") from None
        if not lengths:
            raise UserError(f"{path} is not a bigWig file, or has no chromosomes")
        self._lengths: dict[str, int] = dict(lengths)
        self._names = ChromosomeNames(lengths)

    def values(self, chromosome: str, start: int, end: int) -> np.ndarray:
        """Return the values of [start, end), float32; NaN if the track has none.

        Raises:
            UserError: the file is damaged, or a value is no probability where it should be one.
        """
        out = np.full(end - start, np.nan, np.float32)
        own = self._names.find(chromosome)
        if own is not None and (last := min(end, self._lengths[own])) > start:
            with reading(self.path, "a bigWig file"):
                values = self._file.values(own, start, last, numpy=True)
                if np.ndim(values) and len(values):  # a track without any value gives none, or a bare 0
                    out[: last - start] = values
        if self._probability and (wrong := (out < 0) | (out > 1)).any():
            at = int(wrong.argmax())
            raise UserError(
                f"{self.path}: {out[at]:g} at {chromosome}:{start + at + 1:,} is no phastCons, which lies between 0 "
                "and 1; were --phastcons and --phylop mistaken for each other?"
            )
        return out

    def check_lengths(self, lengths: Mapping[str, int], where: str) -> None:
        """Refuse a track of another genome.

        Args:
            lengths: chromosome of the alignment → its length.
            where: the alignment, for the message.

        Raises:
            UserError: it has none of the chromosomes, or one of another length.
        """
        found = {name: own for name in lengths if (own := self._names.find(name)) is not None}
        if not found:
            raise UserError(
                f"{self.path} has none of the chromosomes of {where} ({', '.join(list(lengths)[:5])}); it has "
                f"{', '.join(list(self._lengths)[:5])}"
            )
        for name, own in found.items():
            if self._lengths[own] != lengths[name]:
                raise UserError(
                    f"{self.path}: {own} is {self._lengths[own]:,} long, and {lengths[name]:,} in {where}; "
                    "wrong genome build?"
                )


def pieces(starts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield ascending `starts` in pieces that lie within `SPAN` bases."""
    return iter(np.split(starts, np.flatnonzero(np.diff(starts // SPAN)) + 1) if len(starts) else ())


def windows_of(track: Track, name: str, starts: np.ndarray, window: int) -> np.ndarray:
    """Return the values of the windows at `starts` of one piece, (n, window) float32; NaN where the track has none."""
    first = int(starts[0])
    values = track.values(name, first, int(starts[-1]) + window)
    return np.lib.stride_tricks.sliding_window_view(values, window)[starts - first]


def known_quantile(values: np.ndarray, quantile: float) -> np.ndarray:
    """Return a quantile of the known values of each row, (n,) float32, as `np.quantile` interpolates it.

    Args:
        values: (n, L), NaN where unknown.
        quantile: from 0 to 1.

    Returns:
        NaN for a row of which less than `MIN_KNOWN` is known.
    """
    ordered = np.sort(values, axis=1)  # NaN last
    known = np.count_nonzero(~np.isnan(ordered), axis=1)
    place = quantile * np.maximum(known - 1, 0)
    low = place.astype(np.int64)
    rows, high = np.arange(len(values)), np.minimum(low + 1, np.maximum(known - 1, 0))
    below, above = (ordered[rows, index].astype(np.float64) for index in (low, high))
    found = (below + (above - below) * (place - low)).astype(np.float32)
    return np.where(known >= MIN_KNOWN * values.shape[1], found, np.float32(np.nan))


class Conserved:
    """Which windows are the most conserved of a genome, as GPN-MSA chooses its training set.

    The scores of all windows lie in a scratch file, 4 bytes each, so that memory does not grow with the genome.

    Args:
        scratch: a file that does not exist yet.
    """

    def __init__(self, scratch: Path) -> None:
        self._path, self.n, self.known = scratch, 0, 0
        self._key, self._ties, self._wanted_ties, self._seen, self._at = 0, 0, 0, 0, 0
        scratch.touch()

    def add(self, scores: np.ndarray) -> None:
        """Append the scores of the next windows, float32, NaN where unknown."""
        with self._path.open("ab") as file:
            scores.astype(np.float32).tofile(file)
        self.n += len(scores)
        self.known += int(np.count_nonzero(~np.isnan(scores)))

    def choose(self, top: float) -> None:
        """Find the score from which a window belongs to the share `top` of all windows, rounded up.

        Windows without a score rank below all others and are never chosen. Of windows with the last score that is
        chosen, as many are as are needed, spread evenly over the genome.
        """
        wanted = min(math.ceil(round(top * self.n, 6)), self.known)
        high = self._place(wanted, lambda keys: keys >> 16)
        low = self._place(high[1], lambda keys: keys[keys >> 16 == high[0]] & 0xFFFF)
        self._key, self._wanted_ties, self._ties = high[0] << 16 | low[0], *low[1:]

    def _place(self, wanted: int, digits: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int, int]:
        """Return the 16 bits in which the `wanted`-th largest lies, its rank among these, and how many these are."""
        counts = np.zeros(1 << 16, np.int64)
        for start in range(0, self.n, BLOCK):
            scores = self._read(start, BLOCK)
            counts += np.bincount(digits(_keys(scores[~np.isnan(scores)])), minlength=1 << 16)
        above = np.cumsum(counts[::-1])[::-1] - counts  # windows with larger bits
        place = int(np.flatnonzero(above < max(wanted, 1))[0])
        return place, wanted - int(above[place]), int(counts[place])

    def _read(self, start: int, n: int) -> np.ndarray:
        return np.fromfile(self._path, np.float32, min(n, self.n - start), offset=4 * start)

    def next(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the next `n` windows, in the order in which they were added, are chosen and have a score.

        Returns:
            two arrays (n,) bool.
        """
        scores = self._read(self._at, n)
        self._at += n
        known = ~np.isnan(scores)
        keys = np.where(known, _keys(scores), 0)
        chosen, ties = known & (keys > self._key), np.flatnonzero(known & (keys == self._key))
        before = self._seen * self._wanted_ties % max(self._ties, 1)
        taken = (before + np.arange(len(ties) + 1) * self._wanted_ties) // max(self._ties, 1)
        chosen[ties[np.diff(taken) > 0]] = True
        self._seen += len(ties)
        return chosen, known


def _keys(scores: np.ndarray) -> np.ndarray:
    """Return whole numbers, int64 below 2^32, in the order of float32 numbers."""
    bits = (scores + np.float32(0)).view(np.uint32).astype(np.int64)  # -0 becomes 0
    return np.where(bits >> 31 == 1, 0xFFFFFFFF - bits, bits | 0x80000000)
