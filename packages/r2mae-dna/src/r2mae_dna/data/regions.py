"""Regions of chromosomes, and the windows that lie in them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.codes import TOKEN_BITS
from r2mae_dna.data.store import AlignmentStore
from r2mae_dna.data.text_files import whole_number


@dataclass(frozen=True)
class Region:
    """A chromosome, or a stretch of one, 0-based and half-open."""

    chromosome: str
    start: int = 0
    end: int = 1 << 60

    def __str__(self) -> str:
        return f"{self.chromosome}:{self.start + 1:,}-{self.end:,}"


class Genome(Protocol):
    """What has chromosomes: an alignment, or a file of variants or scores."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def chromosomes(self) -> Sequence[str]:
        """Their names."""
        ...

    @property
    def lengths(self) -> Mapping[str, int]:
        """Name → bases."""
        ...

    def chromosome(self, name: str) -> str | None:
        """Return the own name of a chromosome, which may be in another style; None if it is not there."""
        ...


def parse_region(text: str, store: Genome) -> Region:
    """Read `chr22`, `chr22:1,000` or `chr22:1,000-2,000` (1-based, both ends included, as genome browsers write it).

    The name of the chromosome may itself have colons.

    Raises:
        UserError: the text is not a region or could be two, or the store has no such chromosome.
    """
    text = text.strip()
    before, colon, after = text.rpartition(":")
    place = re.fullmatch(r"(?P<start>[0-9,]+)(?:-(?P<end>[0-9,]+))?", after) if colon else None
    whole, part = store.chromosome(text), store.chromosome(before) if colon else None
    if whole is not None:
        if place is not None and part is not None:
            raise UserError(
                f"{text!r} is a chromosome of {store.path}, and a place on another, {part!r}; write "
                f"{text}:1-{store.lengths[whole]} for the one, {part}:{after.partition('-')[0]}-… for the other"
            )
        return Region(whole, 0, store.lengths[whole])
    if part is not None and place is None:
        raise UserError(f"{text!r} is not a region; write chr22, chr22:1000 or chr22:1000-2000")
    if part is None or place is None:
        known = ", ".join(store.chromosomes[:8]) + (" …" if len(store.chromosomes) > 8 else "")
        raise UserError(f"{store.path} has no chromosome {(before if place else text)!r}; it has {known}")
    try:
        start, end = (whole_number((place[key] or place["start"]).replace(",", "")) for key in ("start", "end"))
    except ValueError as error:
        raise UserError(f"{text!r} is not a region: {error}") from None
    if not 1 <= start <= end:
        raise UserError(f"{text!r}: positions count from 1, and the first must not exceed the last")
    return Region(part, start - 1, end)


def parse_regions(text: str, store: Genome) -> list[Region]:
    """Read regions that are separated by spaces.

    Raises:
        UserError: see `parse_region`; or a region ends beyond its chromosome.
    """
    regions = [parse_region(part, store) for part in text.split()]
    for region in regions:
        if region.end > store.lengths[region.chromosome]:
            raise UserError(
                f"{region} ends beyond {region.chromosome}, which is {store.lengths[region.chromosome]:,} long"
            )
    return regions


def refuse_overlap(one: Sequence[Region], other: Sequence[Region]) -> None:
    """Refuse regions for validation and for testing that share bases.

    Raises:
        UserError: two of them do.
    """
    for a in one:
        for b in other:
            if a.chromosome == b.chromosome and a.start < b.end and b.start < a.end:
                raise UserError(f"the validation region {a} and the test region {b} overlap; no base may be in both")


Intervals = tuple[np.ndarray, np.ndarray]
"""Starts and ends of stretches, ascending."""


def defined_intervals(reference: np.ndarray) -> Intervals:
    """Return starts and ends of the stretches where the reference (n,) uint8 is A, C, G or T."""
    defined = (reference & TOKEN_BITS) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], defined, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]


def stored_intervals(store: AlignmentStore, name: str) -> Intervals:
    """Return `defined_intervals` of a whole chromosome, of which one stretch is in memory at a time."""
    starts, ends = [], []
    for first, last in store.stretches(name):
        some_starts, some_ends = defined_intervals(store.read(name, first, last)[:, 0])
        starts.append(some_starts + first)
        ends.append(some_ends + first)
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    every_start, every_end = np.concatenate(starts), np.concatenate(ends)
    joined = every_start[1:] == every_end[:-1]  # across the edge of two stretches
    return every_start[np.r_[True, ~joined][: len(every_start)]], every_end[np.r_[~joined, True][: len(every_end)]]


def window_starts(intervals: Intervals, window: int, step: int, block: int = 1 << 20) -> Iterator[np.ndarray]:
    """Yield where windows within the intervals begin, int64, ascending: every `step` from the start of each.

    Args:
        intervals: starts and ends, ascending and disjoint.
        window: bases of a window.
        step: bases between two of an interval.
        block: how many are yielded at once at most.
    """
    starts, ends = intervals
    after = np.cumsum(np.maximum((ends - starts - window) // step + 1, 0))
    n = int(after[-1]) if len(after) else 0
    before = np.concatenate([[0], after])
    for first in range(0, n, block):
        number = np.arange(first, min(first + block, n))
        interval = np.searchsorted(after, number, side="right")
        yield starts[interval] + (number - before[interval]) * step


def assign_windows(
    name: str, starts: np.ndarray, window: int, held_out: Mapping[str, Sequence[Region]], only: Sequence[Region]
) -> dict[str, np.ndarray]:
    """Return which windows are in each split, (n,) bool. One across the edge of a held-out region is in none.

    Args:
        name: the chromosome.
        starts: of its windows.
        window: bases of a window.
        held_out: split → its regions.
        only: regions to train on; none: everything.
    """

    def inside(region: Region) -> np.ndarray:
        return (starts >= region.start) & (starts + window <= region.end)

    def touches(region: Region) -> np.ndarray:
        return (starts < region.end) & (starts + window > region.start)

    free = np.ones(len(starts), bool)
    out = {}
    for split, regions in held_out.items():
        chosen = np.zeros(len(starts), bool)
        for region in (r for r in regions if r.chromosome == name):
            chosen |= inside(region)
            free &= ~touches(region)
        out[split] = chosen
    if only:
        free &= np.any([inside(region) for region in only if region.chromosome == name], axis=0)
    return {"train": free, **out}
