"""From MAF files to an alignment store, in bounded memory.

Each chromosome is first a sparse file of its full length, mapped into memory and filled block by block, and is then
written to the store in compressed shards. Memory is that of a few blocks for any number of species. The disk's space is
allocated before it is written to: a full disk would end the process when a hole of a mapped file is filled.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from r2mae_core import UserError, check_output, check_space, fingerprint, one_writer, refuse_changed, whole_folder
from r2mae_dna.data.codes import ENCODE_REFERENCE, TOKEN_BITS, match_chromosome
from r2mae_dna.data.maf import BlockCounts, Piece, Scan, project, read_blocks, scan_blocks
from r2mae_dna.data.new_folders import check_new_folder
from r2mae_dna.data.store import SHARD_ROWS, StoreInfo, StoreWriter, store_entries
from r2mae_dna.data.text_files import read_lines

MAX_FASTA_MISMATCH = 0.05
_NAME = re.compile(r"(?!__|zarr\.json$)[^\s/\\.][^\s/\\]*")
"""Names of chromosomes that a folder of the store may have."""
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


class _Chromosome:
    """The letters of a chromosome, in two files with holes that are mapped into memory.

    Args:
        name: of the files, without a suffix.
        length: positions.
        n_columns: 1 + species.
    """

    def __init__(self, name: Path, length: int, n_columns: int) -> None:
        self.codes: np.ndarray = _mapped(Path(f"{name}.codes"), (length, n_columns))
        self.taken: np.ndarray = _mapped(Path(f"{name}.taken"), (length,)).view(np.bool_)  # covered by a block
        self.shards: set[int] = set()
        """The stretches of `SHARD_ROWS` positions with anything in them."""
        self._name = name

    def __len__(self) -> int:
        return len(self.codes)

    def touch(self, start: int, end: int) -> None:
        """Make space for content of [start, end); must come before it is written.

        Raises:
            OSError: the disk is full.
        """
        for shard in set(range(start // SHARD_ROWS, (end - 1) // SHARD_ROWS + 1)) - self.shards:
            first, last = shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, len(self))
            for suffix, width in (("codes", self.codes.shape[1]), ("taken", 1)):
                _allocate(Path(f"{self._name}.{suffix}"), first * width, (last - first) * width)
            self.shards.add(shard)


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(file, np.uint8, "w+", shape=shape)


def _allocate(file: Path, start: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), start, n_bytes)


@dataclass
class _Canvas:
    """The chromosomes being filled."""

    folder: Path
    n_columns: int
    chromosomes: dict[str, _Chromosome] = field(default_factory=dict)
    overlaps: int = 0

    def add(self, piece: Piece, path: Path) -> None:
        if len(piece.codes) == 0:
            return
        if piece.chromosome not in self.chromosomes:
            if not _NAME.fullmatch(piece.chromosome):
                raise UserError(
                    f"{path}, line {piece.line}: a chromosome of a store cannot be called {piece.chromosome!r}"
                )
            name = self.folder / str(len(self.chromosomes))
            self.chromosomes[piece.chromosome] = _Chromosome(name, piece.length, self.n_columns)
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
        overwrite: replace a store that is there.
        progress: show a bar of blocks.

    Raises:
        UserError: a file is missing, malformed or of another assembly; the reference or all of the species are in no
            block; the store exists; there is not enough space; or more than 5 % of the reference's bases differ from
            the FASTA file.
    """
    made = made_from(mafs, reference, species, fasta)
    inputs = [*mafs, *([] if fasta is None else [fasta])]
    check_output(out, inputs)
    with one_writer(out, folder=False):
        check_new_folder(out, store_entries, "an alignment store", overwrite=overwrite)
        scan = scan_blocks(mafs, reference, SHARD_ROWS)
        columns = _columns(scan.species, reference, species, mafs)
        check_space(out.parent, _bytes_needed(scan, len(columns), whole=fasta is not None), f"building {out.name}")
        with whole_folder(out) as folder:
            report = _build(mafs, folder, columns, fasta, made, progress)
            remedy = "it was changed while it was read: run the command again"
            refuse_changed(out, made["sources"], fingerprint(inputs), remedy)
    report.without_blocks = tuple(name for name in columns if name not in scan.species)
    return report


def made_from(mafs: Sequence[Path], reference: str, species: Sequence[str], fasta: Path | None) -> dict[str, Any]:
    """Return what a store is made from, as its index keeps it.

    Raises:
        UserError: a file is missing.
    """
    inputs = [*mafs, *([] if fasta is None else [fasta])]
    if missing := [file for file in inputs if not file.is_file()]:
        raise UserError(f"no file {missing[0]}")
    files = {"mafs": [file.name for file in mafs], "fasta": None if fasta is None else fasta.name}
    return {"reference": reference, "species": list(species), **files, "sources": fingerprint(inputs)}


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
    fasta: Path | None,
    made: Mapping[str, Any],
    progress: bool,
) -> BuildReport:
    counts, check = BlockCounts(), _FastaCheck()
    writer = StoreWriter(folder, list(columns))
    scratch = folder / ".scratch"
    scratch.mkdir()
    canvas = _Canvas(scratch, len(columns))
    with tqdm(desc="blocks", unit="block", disable=not progress, mininterval=0.5) as bar:
        for path in mafs:
            for rows in read_blocks(path):
                bar.update()
                if (piece := project(rows, columns, counts)) is not None:
                    canvas.add(piece, path)
    if not canvas.chromosomes:
        raise UserError(f"no block of {', '.join(map(str, mafs))} has a base of the reference {next(iter(columns))!r}")
    if fasta is not None:
        check.run(fasta, canvas.chromosomes)
    for name in list(canvas.chromosomes):
        chromosome = canvas.chromosomes.pop(name)
        writer.write(name, chromosome.codes, chromosome.shards)
        del chromosome  # the maps, before their files
    overlaps = canvas.overlaps
    shutil.rmtree(scratch)
    info = writer.close(counts.left_out() | {OVERLAPS: overlaps}, made)
    return BuildReport(info, counts, overlaps, (), check.checked, check.mismatches, check.filled, tuple(check.absent))


def _columns(found: list[str], reference: str, species: Sequence[str], mafs: Sequence[Path]) -> dict[str, int]:
    files = ", ".join(map(str, mafs))
    if reference not in found:
        known = ", ".join(found[:10]) + (" …" if len(found) > 10 else "")
        raise UserError(f"the reference {reference!r} is in no block of {files}; its species: {known or 'none'}")
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
            taken = target.taken[part] & (ours > 0)
            self.checked += int(taken.sum())
            self.mismatches += int(((ours ^ theirs) & TOKEN_BITS)[taken].astype(bool).sum())
            free = ~target.taken[part] & (theirs > 0)
            self.filled += int(free.sum())
            if free.any():
                target.touch(part.start, part.stop)
                target.codes[part, 0] = np.where(free, theirs, ours)


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
