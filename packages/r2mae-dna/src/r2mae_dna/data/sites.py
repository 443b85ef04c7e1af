"""From alleles to windows: which alleles can be scored, and the alignment around them, each site read once."""

from dataclasses import dataclass

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.aliases import Names
from r2mae_dna.data.codes import GAP, TOKEN_BITS
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.variants import INDEL, NO_ALIGNMENT, NOT_SNV, OUTSIDE, REF_MISMATCH, SCORED, STAR, SYMBOLIC, Alleles

READ_SPAN, MAX_GAP = 131_072, 8192
"""Positions of the store that are read at once at most, and between two sites that are read together."""
MIN_CHECKED = 20
"""Reference alleles below which a disagreement is weak evidence of a wrong genome build."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of a variant file, ready for the scorer.

    An allele has a part for each of its changed bases: one in most, several where neighbouring bases change together.
    """

    status: np.ndarray
    """(n,) uint8 per allele."""
    allele: np.ndarray
    """(parts,) the allele of each part; those of alleles that are to be scored, in their order."""
    reference: np.ndarray
    """(parts,) tokens."""
    alternative: np.ndarray
    window_of: np.ndarray
    """(parts,) the window of each."""
    windows: np.ndarray
    """(sites, L, 1 + S) bytes, sorted by site: alleles of one site share one."""
    sites: np.ndarray
    """(sites, 2) int64: the chromosome's index in the store, and the 0-based position, of each window."""


_BASES = np.zeros(256, np.uint8)
for _token, _pair in enumerate((b"Aa", b"Cc", b"Gg", b"Tt"), start=1):
    _BASES[list(_pair)] = _token
MAX_LENGTH = 50
"""Most bases of an allele that is scored by its parts."""


def classify(reference: str, alternative: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the status of an allele as it is written, and the tokens of its reference and its alternative bases.

    Tokens are given for alleles of equal length that differ somewhere, and are else empty.
    """
    none = np.zeros(0, np.uint8)
    if alternative == "*":
        return STAR, none, none
    single_end = len(alternative) > 1 and "." in (alternative[0], alternative[-1])
    if single_end or alternative.startswith(("<", "[", "]")) or alternative.endswith(("[", "]", ">")):
        return SYMBOLIC, none, none
    if not (reference.isascii() and alternative.isascii()):
        return NOT_SNV, none, none
    own, other = (_BASES[np.frombuffer(text.encode(), np.uint8)] for text in (reference, alternative))
    if not (len(own) and len(other) and own.all() and other.all()):
        return NOT_SNV, none, none
    if len(own) != len(other):
        return INDEL, none, none
    if len(own) > MAX_LENGTH or (own == other).all():
        return NOT_SNV, none, none
    return SCORED, own, other


def read_stretch(
    alleles: Alleles, store: AlignmentStore, window: int, min_defined: float, names: Names | None = None
) -> Stretch:
    """Determine which alleles can be scored, and read their windows, each site once.

    Every reference base of an allele is compared with the alignment, also those that stay.

    Args:
        alleles: of a variant file.
        store: the alignment.
        window: bases around a site.
        min_defined: fraction of them that must have a reference base.
        names: the alleles' chromosomes in the store.
    """
    find = (names or Names(store)).find
    found = {name: find(name) for name in set(alleles.chromosome)}
    index = {name: store.chromosomes.index(own) if own is not None else -1 for name, own in found.items()}
    chromosome = np.array([index[name] for name in alleles.chromosome], np.int64)
    lengths = np.array([*(store.lengths[name] for name in store.chromosomes), 0])
    known = {pair: classify(*pair) for pair in set(zip(alleles.reference, alleles.alternative, strict=True))}
    kinds = [known[pair] for pair in zip(alleles.reference, alleles.alternative, strict=True)]
    status = np.array([kind[0] for kind in kinds], np.uint8)
    size = np.array([len(kind[1]) for kind in kinds], np.int64)
    outside = (alleles.position < 1) | (alleles.position - 1 + np.maximum(size, 1) > lengths[chromosome])
    status[outside & (status == SCORED)] = OUTSIDE
    size[status != SCORED] = 0
    allele = np.repeat(np.arange(len(status)), size)
    within = np.arange(len(allele)) - np.repeat(np.cumsum(size) - size, size)
    chosen = [kind for kind, n in zip(kinds, size.tolist(), strict=True) if n]
    reference, alternative = (np.concatenate([np.zeros(0, np.uint8), *(kind[i] for kind in chosen)]) for i in (1, 2))
    places = np.stack([chromosome[allele], alleles.position[allele] - 1 + within], 1)
    sites, which = np.unique(places, axis=0, return_inverse=True)
    which = which.reshape(-1)
    windows = read_windows(store, sites, window)
    own = windows[..., 0] & TOKEN_BITS
    centre, defined = own[which, window // 2], (own != GAP).mean(1)[which]
    changed = reference != alternative
    # The last to be set counts: an allele on another genome's base is a mismatch, whatever else its parts lack.
    status[allele[(centre == GAP) | (changed & (defined < min_defined))]] = NO_ALIGNMENT
    status[allele[(centre != GAP) & (centre != reference)]] = REF_MISMATCH
    ready = changed & (status[allele] == SCORED)
    kept, window_of = np.unique(which[ready], return_inverse=True)
    return Stretch(status, allele[ready], reference[ready], alternative[ready], window_of, windows[kept], sites[kept])


def read_windows(store: AlignmentStore, sites: np.ndarray, window: int) -> np.ndarray:
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
