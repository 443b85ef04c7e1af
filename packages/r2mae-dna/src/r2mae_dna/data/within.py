"""Regions by which a file of variants is restricted, whatever its names of their chromosomes."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from r2mae_core import UserError
from r2mae_dna.data.bed import read_bed
from r2mae_dna.data.chunks import united
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.regions import Genome, Region, parse_regions


class Within:
    """The union of regions; a variant is in it if its position is, whatever it reaches over.

    Args:
        regions: in any order; may overlap.
        find: name of a chromosome in a file → the regions'; None if it has none.
    """

    left_out = ""
    """Lines of a BED that are on other chromosomes, in words."""

    def __init__(self, regions: Sequence[Region], find: Callable[[str], str | None]) -> None:
        if not regions:
            raise UserError("no region is named")
        of: dict[str, list[tuple[int, int]]] = {}
        for region in regions:
            of.setdefault(region.chromosome, []).append((region.start, region.end))
        self._of, self._find = {name: united(parts) for name, parts in of.items()}, find
        self._known: dict[str, list[tuple[int, int]]] = {}

    def intervals(self, name: str) -> list[tuple[int, int]]:
        """Return the regions, 0-based and half-open, ascending, of a chromosome that a file calls so."""
        if name not in self._known:
            self._known[name] = self._of.get(self._find(name) or "", [])
        return self._known[name]

    def has(self, name: str, position: int) -> bool:
        """Return whether a position, from 1, of a file's chromosome is in the regions."""
        intervals = self.intervals(name)
        i = bisect_right(intervals, position - 1, key=lambda interval: interval[0]) - 1
        return i >= 0 and position - 1 < intervals[i][1]

    def __str__(self) -> str:
        shown = [str(Region(name, *part)) for name, parts in self._of.items() for part in parts]
        return " ".join(shown) if len(shown) <= 3 else f"{' '.join(shown[:2])} and {len(shown) - 2:,} more"

    @property
    def digest(self) -> str:
        """Digest of the regions."""
        return digest_of({"regions": self._of})

    def read_by(self, index: Path | None, why: str) -> str:
        """Return one line that says how a file was restricted.

        Args:
            index: by which it was read.
            why: there is none.
        """
        how = f"read by the index {index}" if index is not None else f"the whole file was read, as {why}"
        return f"Only {self}; {how}{f'. {self.left_out}' if self.left_out else ''}"


def within_of(regions: str, bed: Path | None, genome: Genome) -> Within | None:
    """Return what `--regions` and `--bed` name together; None if neither is given.

    Raises:
        UserError: see `parse_regions` and `read_bed`.
    """
    if not regions.strip() and bed is None:
        return None
    intervals, absent = read_bed(bed, genome) if bed is not None else ([], {})
    within = Within([*parse_regions(regions, genome), *intervals], genome.chromosome)
    if absent:
        names = ", ".join(list(absent)[:5]) + (" …" if len(absent) > 5 else "")
        within.left_out = (
            f"Left out: {sum(absent.values()):,} lines of {bed} on chromosomes not in {genome.path}: {names}"
        )
    return within
