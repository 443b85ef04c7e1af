"""From MAF files to an alignment store, in bounded memory.

All chromosomes are first stretches of a sparse file, mapped into memory and filled block by block, and are then written
to the store in compressed shards. Memory of the process's own is that of a few blocks for any number of species; pages
of the mapped file come on top while the system has room for them. The disk's space is allocated before it is written
to: a full disk would end the process when a hole of a mapped file is filled.
"""

import os
import shutil
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from r2mae_core import UserError, check_output, check_space, fingerprint, one_writer, refuse_changed, whole_folder
from r2mae_dna.data.codes import ENCODE_REFERENCE, SOFT_MASK, TOKEN_BITS, match_chromosome
from r2mae_dna.data.maf import BlockCounts, Piece, Scan, project, read_blocks, scan_blocks
from r2mae_dna.data.new_folders import check_new_folder
from r2mae_dna.data.species import SpeciesNames, split_source
from r2mae_dna.data.store import SHARD_ROWS, StoreInfo, StoreWriter, store_entries
from r2mae_dna.data.text_files import read_lines

MAX_FASTA_MISMATCH = 0.05
Case = Literal["maf", "fasta"]
"""Whose lower-case letters are the soft-masked ones."""
OVERLAPS = "reference bases in more than one block (the first is kept)"


@dataclass
class BuildReport:
    """Result of a build."""

    info: StoreInfo
    counts: BlockCounts
    overlaps: int = 0
    """Reference positions that are in more than one block; the first block counts."""
    without_blocks: tuple[str, ...] = ()
    """Requested species that appear in no block."""
    checked: int = 0
    """Reference bases compared with the FASTA file."""
    mismatches: int = 0
    """Of these, how many differ."""
    filled: int = 0
    """Positions without a block whose reference base came from the FASTA file."""
    unchecked: tuple[str, ...] = ()
    """Chromosomes that are not in the FASTA file."""
    nameless: tuple[str, ...] = ()
    """Some sequences that name no species, and are left out."""


class _Chromosome:
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


class _Canvas:
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
        self.chromosomes: dict[str, _Chromosome] = {}
        self.overlaps = 0
        first = 0
        for name, length in lengths.items():

            def allocate(start: int, end: int, first: int = first) -> None:
                for file, width in (("codes", n_columns), ("taken", 1)):
                    _allocate(folder / file, (first + start) * width, (end - start) * width)

            part = slice(first, first + length)
            self.chromosomes[name] = _Chromosome(np.asarray(codes[part]), np.asarray(taken[part]), allocate)
            first += length

    def add(self, piece: Piece, path: Path) -> None:
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


def build_alignment(
    mafs: Sequence[Path],
    out: Path,
    *,
    reference: str,
    species: Sequence[str] = (),
    fasta: Path | None = None,
    case: Case | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BuildReport:
    """Build a store from MAF files.

    Args:
        mafs: plain or gzipped; several are joined, such as one per chromosome.
        out: the store's folder.
        reference: species whose coordinates the store has, such as `hg38`.
        species: the others, in the order of the columns, which a model depends on. Empty: every species of the files
            in order of first appearance.
        fasta: the reference genome; its bases are compared with the alignment's, and fill positions without a block.
        case: whose lower-case letters are the soft-masked ones, everywhere; default: the genome's, if it is given.
        overwrite: replace a store that is there.
        progress: show a bar of blocks.

    Raises:
        UserError: a file is missing, malformed or of another assembly; the reference or all of the species are in no
            block; the store exists; there is not enough space; or more than 5 % of the reference's bases differ from
            the FASTA file.
    """
    case = case_source(case, fasta)
    made = made_from(mafs, reference, species, fasta, case)
    inputs = [*mafs, *([] if fasta is None else [fasta])]
    check_output(out, inputs)
    with one_writer(out, folder=False):
        check_new_folder(out, store_entries, "an alignment store", overwrite=overwrite)
        scan = scan_blocks(mafs, reference, SHARD_ROWS, species)
        columns = _columns(scan.names, reference, species, mafs)
        check_space(out.parent, _bytes_needed(scan, len(columns), whole=fasta is not None), f"building {out.name}")
        with whole_folder(out) as folder:
            report = _build(mafs, folder, columns, scan.lengths, fasta, made, progress)
            remedy = "it was changed while it was read: run the command again"
            refuse_changed(out, made["sources"], fingerprint(inputs), remedy)
    report.without_blocks = tuple(name for name in columns if name not in scan.species)
    report.nameless = tuple(scan.names.nameless)
    return report


def case_source(case: Case | None, fasta: Path | None) -> Case:
    """Return whose lower-case letters are the soft-masked ones.

    Raises:
        UserError: the genome's, and there is none.
    """
    if case == "fasta" and fasta is None:
        raise UserError("--case fasta takes the soft-masked letters from the genome; give it with --fasta")
    return case or ("maf" if fasta is None else "fasta")


def made_from(
    mafs: Sequence[Path], reference: str, species: Sequence[str], fasta: Path | None, case: Case
) -> dict[str, Any]:
    """Return what a store is made from, as its index keeps it.

    Raises:
        UserError: a file is missing.
    """
    inputs = [*mafs, *([] if fasta is None else [fasta])]
    if missing := [file for file in inputs if not file.is_file()]:
        raise UserError(f"no file {missing[0]}")
    files = {"mafs": [file.name for file in mafs], "fasta": None if fasta is None else fasta.name}
    return {"reference": reference, "species": list(species), "case": case, **files, "sources": fingerprint(inputs)}


def _bytes_needed(scan: Scan, n_columns: int, *, whole: bool) -> int:
    """Return what the files of the chromosomes take before they are compressed, whole or where blocks are."""
    positions = (
        scan.lengths[name] if whole else min(len(stretches) * SHARD_ROWS, scan.lengths[name])
        for name, stretches in scan.stretches.items()
    )
    return sum(positions) * (n_columns + 1)


def _build(
    mafs: Sequence[Path],
    folder: Path,
    columns: dict[str, int],
    lengths: Mapping[str, int],
    fasta: Path | None,
    made: Mapping[str, Any],
    progress: bool,
) -> BuildReport:
    reference = next(iter(columns))
    counts, check = BlockCounts(), _FastaCheck(made["case"])
    writer = StoreWriter(folder, list(columns))
    scratch = folder / ".scratch"
    scratch.mkdir()
    canvas = _Canvas(scratch, lengths, len(columns))
    with tqdm(desc="blocks", unit="block", disable=not progress, mininterval=0.5) as bar:
        for path in mafs:
            for rows in read_blocks(path, partial(_is_of, reference, columns), counts):
                bar.update()
                if (piece := project(rows, columns, counts)) is not None:
                    canvas.add(piece, path)
    if not lengths:
        raise UserError(f"no block of {', '.join(map(str, mafs))} has a base of the reference {reference!r}")
    if fasta is not None:
        check.run(fasta, canvas.chromosomes)
    for name in list(canvas.chromosomes):
        chromosome = canvas.chromosomes.pop(name)
        writer.write(name, chromosome.codes, chromosome.shards)
        del chromosome  # the maps, before their files
    overlaps = canvas.overlaps
    shutil.rmtree(scratch)
    info = writer.close(counts.left_out() | {OVERLAPS: overlaps}, made, made["case"])
    return BuildReport(info, counts, overlaps, (), check.checked, check.mismatches, check.filled, tuple(check.absent))


def _is_of(species: str, names: Container[str], source: str) -> bool:
    """Return whether a sequence is of a species."""
    found = split_source(source, names)
    return found is not None and found[0] == species


def _columns(names: SpeciesNames, reference: str, species: Sequence[str], mafs: Sequence[Path]) -> dict[str, int]:
    files, found = ", ".join(map(str, mafs)), list(names.found)
    if reference not in found:
        known = ", ".join(found[:10]) + (" …" if len(found) > 10 else "")
        more = f"; without a species: {', '.join(names.nameless)}" if names.nameless else ""
        raise UserError(f"the reference {reference!r} is in no block of {files}; its species: {known or 'none'}{more}")
    names.check(reference, species, files)
    others = list(species) or [name for name in found if name != reference]
    if reference in others or len(set(others)) != len(others):
        raise UserError("list each species once, and without the reference")
    if not set(others) & set(found):
        raise UserError(
            f"none of the species {', '.join(others[:5])} is in {files}" if others else f"only one species in {files}"
        )
    return {name: i for i, name in enumerate([reference, *others])}


@dataclass
class _FastaCheck:
    case: Case
    checked: int = 0
    mismatches: int = 0
    filled: int = 0
    absent: list[str] = field(default_factory=list)

    def run(self, fasta: Path, chromosomes: dict[str, _Chromosome]) -> None:
        """Compare every chromosome with its record, and fill what no block covers."""
        names = list(chromosomes)
        index, seen = {name: i for i, name in enumerate(names)}, set()
        for record_name, sequence in read_fasta(fasta):
            i = match_chromosome(record_name, index)
            if i is None or names[i] in seen:
                continue
            seen.add(names[i])
            target = chromosomes[names[i]]
            if len(sequence) != len(target):
                raise UserError(
                    f"{fasta}: {record_name} is {len(sequence)} long and the alignment's {names[i]} "
                    f"{len(target)}; wrong genome build?"
                )
            self._compare(sequence, target)
        self.absent = [name for name in names if name not in seen]
        if self.case == "fasta":
            for name in self.absent:
                _unmask(chromosomes[name])
        if self.checked and self.mismatches > MAX_FASTA_MISMATCH * self.checked:
            raise UserError(
                f"{self.mismatches} of {self.checked} reference bases differ between the alignment and {fasta}; "
                "wrong genome build?"
            )
        if not seen:
            raise UserError(f"{fasta} contains none of the alignment's chromosomes: {', '.join(names[:5])}")

    def _compare(self, sequence: np.ndarray, target: _Chromosome) -> None:
        for start in range(0, len(sequence), SHARD_ROWS):
            part = slice(start, min(start + SHARD_ROWS, len(sequence)))
            ours, theirs = target.codes[part, 0], ENCODE_REFERENCE[sequence[part]]
            if self.case == "maf":
                theirs &= TOKEN_BITS
            taken = target.taken[part] & (ours > 0)
            self.checked += int(taken.sum())
            self.mismatches += int(((ours ^ theirs) & TOKEN_BITS)[taken].astype(bool).sum())
            free = ~target.taken[part] & (theirs > 0)
            self.filled += int(free.sum())
            if free.any():
                target.touch(part.start, part.stop)
                target.codes[part, 0] = np.where(free, theirs, ours)
            if self.case == "fasta" and taken.any():
                letters = target.codes[part, 0] & TOKEN_BITS
                lower = (sequence[part] >= ord("a")) & (letters > 0)
                target.codes[part, 0] = letters | np.where(lower, SOFT_MASK, 0).astype(np.uint8)


def _unmask(chromosome: _Chromosome) -> None:
    """Make all letters of the reference upper-case."""
    for shard in chromosome.shards:
        chromosome.codes[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS, 0] &= TOKEN_BITS


def read_fasta(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name (to the first space) and letters (n,) uint8 of each record, plain or gzipped.

    Raises:
        UserError: the file is missing, damaged, or no FASTA file.
    """
    name: str | None = None
    parts: list[bytes] = []
    for number, line in read_lines(path):
        if line[:1] == b">":
            if name is not None:
                yield name, _letters(parts)
            name, parts = (line[1:].decode(errors="replace").split(None, 1) or [""])[0], []
        elif name is not None:
            parts.append(line)
        elif line.strip():
            raise UserError(f"{path}, line {number}: a FASTA file begins with a line of > and a name")
    if name is not None:
        yield name, _letters(parts)


def _letters(lines: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(lines).translate(None, b" \t\r\n"), np.uint8)
