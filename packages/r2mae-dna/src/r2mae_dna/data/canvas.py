"""The letters of chromosomes while a store is built: sparse files, mapped into memory and filled block by block.

The disk's space is allocated before it is written to: a full disk would end the process when a hole of a mapped file is
filled.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.maf import Piece
from r2mae_dna.data.store import SHARD_ROWS


class Chromosome:
    """The letters of a chromosome: a stretch of two files with holes that are mapped into memory.

    Args:
        codes: (length, 1 + species) uint8.
        taken: (length,) bool, which positions a block covers.
        allocate: takes a stretch of positions for which there must be space on the disk.
    """

    def __init__(self, codes: np.ndarray, taken: np.ndarray, allocate: Callable[[int, int], None]) -> None:
        self.codes, self.taken, self._allocate = codes, taken, allocate
        self.shards: set[int] = set()
        """The stretches of `SHARD_ROWS` positions with anything in them."""

    def __len__(self) -> int:
        return len(self.codes)

    def touch(self, start: int, end: int) -> None:
        """Make space for content of [start, end); must come before it is written.

        Raises:
            OSError: the disk is full.
        """
        for shard in set(range(start // SHARD_ROWS, (end - 1) // SHARD_ROWS + 1)) - self.shards:
            self._allocate(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, len(self)))
            self.shards.add(shard)


def _allocate(file: Path, start: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), start, n_bytes)


class Canvas:
    """The chromosomes being filled, one after the other in two files, however many they are.

    Args:
        folder: where the files are made.
        lengths: chromosome → its length.
        n_columns: 1 + species.
    """

    def __init__(self, folder: Path, lengths: Mapping[str, int], n_columns: int) -> None:
        total = max(sum(lengths.values()), 1)
        codes = np.memmap(folder / "codes", np.uint8, "w+", shape=(total, n_columns))
        taken = np.memmap(folder / "taken", np.uint8, "w+", shape=(total,)).view(np.bool_)
        self.chromosomes: dict[str, Chromosome] = {}
        self.overlaps = 0
        first = 0
        for name, length in lengths.items():

            def allocate(start: int, end: int, first: int = first) -> None:
                for file, width in (("codes", n_columns), ("taken", 1)):
                    _allocate(folder / file, (first + start) * width, (end - start) * width)

            part = slice(first, first + length)
            self.chromosomes[name] = Chromosome(np.asarray(codes[part]), np.asarray(taken[part]), allocate)
            first += length

    def add(self, piece: Piece, path: Path) -> None:
        """Write a block where no earlier one is.

        Args:
            piece: the block.
            path: the file that it is of, for messages.

        Raises:
            UserError: the chromosome has another length than in an earlier block.
        """
        if len(piece.codes) == 0:
            return
        target = self.chromosomes[piece.chromosome]
        if len(target) != piece.length:
            raise UserError(
                f"{path}, line {piece.line}: {piece.chromosome} is {piece.length} long here and {len(target)} in an "
                "earlier block; the files belong to different assemblies"
            )
        target.touch(piece.start, piece.start + len(piece.codes))
        part = slice(piece.start, piece.start + len(piece.codes))
        taken = target.taken[part]
        if (n := int(taken.sum())) == 0:
            target.codes[part] = piece.codes
        else:
            self.overlaps += n
            target.codes[part][~taken] = piece.codes[~taken]
        target.taken[part] = True
