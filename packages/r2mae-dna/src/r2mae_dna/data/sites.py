"""From alleles to windows: which alleles can be scored, and the alignment around them, each site read once."""

from dataclasses import dataclass

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.codes import GAP, TOKEN_BITS
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.variants import NO_ALIGNMENT, NOT_SNV, OUTSIDE, REF_MISMATCH, SCORED, Alleles

READ_SPAN, MAX_GAP = 131_072, 8192
"""Positions of the store that are read at once at most, and between two sites that are read together."""
MIN_CHECKED = 20
"""Reference alleles below which a disagreement is weak evidence of a wrong genome build."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of a variant file, ready for the scorer."""

    status: np.ndarray
    """(n,) uint8 per allele."""
    reference: np.ndarray
    """(n,) tokens."""
    alternative: np.ndarray
    rows: np.ndarray
    """The alleles to score."""
    window_of: np.ndarray
    """For each of these, its window."""
    windows: np.ndarray
    """(sites, L, 1 + S) bytes, sorted by site: alleles of one site share one."""


_BASES = {letter: token for token, pair in enumerate(("Aa", "Cc", "Gg", "Tt"), start=1) for letter in pair}


def read_stretch(alleles: Alleles, store: AlignmentStore, window: int, min_defined: float) -> Stretch:
    """Determine which alleles can be scored, and read their windows, each site once.

    Args:
        alleles: of a variant file.
        store: the alignment.
        window: bases around a site.
        min_defined: fraction of them that must have a reference base.
    """
    found = {name: store.chromosome(name) for name in set(alleles.chromosome)}
    index = {name: store.chromosomes.index(own) if own is not None else -1 for name, own in found.items()}
    chromosome = np.array([index[name] for name in alleles.chromosome], np.int64)
    reference = np.array([_BASES.get(text, 0) for text in alleles.reference], np.uint8)
    alternative = np.array([_BASES.get(text, 0) for text in alleles.alternative], np.uint8)
    position = alleles.position - 1
    lengths = np.array([*(store.lengths[name] for name in store.chromosomes), 0])
    status = np.full(len(alleles), SCORED, np.uint8)
    status[(position < 0) | (position >= lengths[chromosome])] = OUTSIDE
    status[(reference == 0) | (alternative == 0) | (reference == alternative)] = NOT_SNV
    rows = np.flatnonzero(status == SCORED)
    sites, which = np.unique(np.stack([chromosome[rows], position[rows]], 1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    windows = _read_windows(store, sites, window)
    own = windows[..., 0] & TOKEN_BITS
    centre, defined = own[which, window // 2], (own != GAP).mean(1)[which]
    no_base = (centre == GAP) | (defined < min_defined)
    status[rows] = np.where(no_base, NO_ALIGNMENT, np.where(centre == reference[rows], SCORED, REF_MISMATCH))
    ready = status[rows] == SCORED
    kept, window_of = np.unique(which[ready], return_inverse=True)
    return Stretch(status, reference, alternative, rows[ready], window_of, windows[kept])


def _read_windows(store: AlignmentStore, sites: np.ndarray, window: int) -> np.ndarray:
    """Return windows (n, window, 1 + S) around sorted sites (n, 2) of chromosome and 0-based position.

    The site is at index window // 2, as GPN-MSA has it. Neighbouring sites are read together.
    """
    out = np.zeros((len(sites), window, store.n_species + 1), np.uint8)
    first = 0
    while first < len(sites):
        number, position = sites[first].tolist()
        same = int(np.searchsorted(sites[:, 0], number, side="right"))
        last = first + int(np.searchsorted(sites[first:same, 1], position + READ_SPAN))
        positions = sites[first:last, 1]
        gaps = np.flatnonzero(np.diff(positions) > MAX_GAP)
        if len(gaps):  # do not read what is between distant sites
            last = first + int(gaps[0]) + 1
            positions = positions[: gaps[0] + 1]
        start = position - window // 2
        block = store.read(store.chromosomes[number], start, int(positions[-1]) - window // 2 + window)
        views = np.lib.stride_tricks.sliding_window_view(block, window, axis=0)
        out[first:last] = views[positions - window // 2 - start].transpose(0, 2, 1)
        first = last
    return out


@dataclass
class BuildGuard:
    """Stops a run whose reference alleles do not match the alignment's genome."""

    limit: float
    where: str
    checked: int = 0
    wrong: int = 0

    def check(self, status: np.ndarray) -> None:
        """Count a stretch's reference alleles, and stop if too many disagree so far.

        Raises:
            UserError: they do.
        """
        self.wrong += int((status == REF_MISMATCH).sum())
        self.checked += int(((status == REF_MISMATCH) | (status == SCORED)).sum())
        limit = self.limit if self.checked >= MIN_CHECKED else max(self.limit, 0.5)
        if self.checked and self.wrong > limit * self.checked:
            raise UserError(
                f"{self.wrong:,} of {self.checked:,} reference alleles disagree with {self.where}: wrong genome build? "
                "use --force to score the others"
            )
