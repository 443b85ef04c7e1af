"""The pieces of a genome that a scan computes at once, cut on a fixed grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from r2mae_dna.data.regions import Region
from r2mae_dna.data.store import AlignmentStore


@dataclass(frozen=True)
class Chunk:
    """The wanted intervals in one cell of the grid."""

    chromosome: str
    intervals: tuple[tuple[int, int], ...]
    """0-based, half-open, ascending, apart from each other."""

    @property
    def start(self) -> int:
        """First position."""
        return self.intervals[0][0]

    @property
    def end(self) -> int:
        """End, exclusive."""
        return self.intervals[-1][1]

    def __len__(self) -> int:
        return sum(end - start for start, end in self.intervals)

    def positions(self) -> np.ndarray:
        """Return the wanted positions, (n,) int64."""
        return np.concatenate([np.arange(start, end) for start, end in self.intervals])


def plan_chunks(store: AlignmentStore, regions: Sequence[Region], size: int) -> list[Chunk]:
    """Cut regions into chunks, in the store's order of chromosomes.

    Args:
        store: the alignment; where it has no content, there are no chunks.
        regions: what is wanted, in any order; may overlap. None: everything.
        size: positions of a cell of the grid.
    """
    chunks = list[Chunk]()
    for name in store.chromosomes:
        wanted = [(region.start, region.end) for region in regions if region.chromosome == name]
        if not regions:
            wanted = [(0, store.lengths[name])]
        cells: dict[int, list[tuple[int, int]]] = {}
        for start, end in common(united(wanted), united(store.stretches(name))):
            for cell in range(start // size, (end - 1) // size + 1):
                cells.setdefault(cell, []).append((max(start, cell * size), min(end, (cell + 1) * size)))
        chunks += [Chunk(name, tuple(intervals)) for _, intervals in sorted(cells.items())]
    return chunks


def united(intervals: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of intervals, ascending and apart from each other."""
    out = list[tuple[int, int]]()
    for start, end in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def common(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the intersections of two lists as `united` returns them."""
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            yield start, end
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
