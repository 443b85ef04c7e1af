"""From MAF files to an alignment store, in bounded memory.

Each chromosome is first a sparse file of its full length, mapped into memory and filled block by block, and is then
written to the store in compressed shards. Memory is that of a few blocks for any number of species.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from r2mae_core import UserError
from r2mae_dna.data.codes import ENCODE_REFERENCE, TOKEN_BITS, match_chromosome
from r2mae_dna.data.maf import BlockCounts, Piece, open_text, project, read_blocks, scan_species
from r2mae_dna.data.store import SHARD_ROWS, StoreInfo, StoreWriter

MAX_FASTA_MISMATCH = 0.05
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


@dataclass
class _Chromosome:
    codes: np.ndarray
    """(length, 1 + species) memory map."""
    taken: np.ndarray
    """(length,) bool memory map: covered by a block."""
    shards: set[int] = field(default_factory=set)
    """The stretches of `SHARD_ROWS` positions with anything in them."""

    def touch(self, start: int, end: int) -> None:
        """Record that [start, end) has content."""
        self.shards.update(range(start // SHARD_ROWS, (end - 1) // SHARD_ROWS + 1))


@dataclass
class _Canvas:
    """The chromosomes being filled."""

    folder: Path
    n_columns: int
    chromosomes: dict[str, _Chromosome] = field(default_factory=dict)
    overlaps: int = 0

    def add(self, piece: Piece, path: Path) -> None:
        if piece.chromosome not in self.chromosomes:
            name = self.folder / str(len(self.chromosomes))
            self.chromosomes[piece.chromosome] = _Chromosome(
                np.memmap(f"{name}.codes", np.uint8, "w+", shape=(piece.length, self.n_columns)),
                np.memmap(f"{name}.taken", np.bool_, "w+", shape=(piece.length,)),
            )
        target = self.chromosomes[piece.chromosome]
        if len(piece.codes) == 0:
            return
        if len(target.codes) != piece.length:
            raise UserError(
                f"{path}, line {piece.line}: {piece.chromosome} is {piece.length} long here and "
                f"{len(target.codes)} in an earlier block; the files belong to different assemblies"
            )
        part = slice(piece.start, piece.start + len(piece.codes))
        taken = target.taken[part]
        if (n := int(taken.sum())) == 0:
            target.codes[part] = piece.codes
        else:
            self.overlaps += n
            target.codes[part][~taken] = piece.codes[~taken]
        target.taken[part] = True
        target.touch(part.start, part.stop)


def build_alignment(
    mafs: Sequence[Path],
    out: Path,
    *,
    reference: str,
    species: Sequence[str] = (),
    fasta: Path | None = None,
    progress: bool = False,
) -> BuildReport:
    """Build a store from MAF files.

    Args:
        mafs: plain or gzipped; several are joined, such as one per chromosome.
        out: the store's folder; must not exist.
        reference: species whose coordinates the store has, such as `hg38`.
        species: the others, in the order of the columns, which a model depends on. Empty: every species of the files
            in order of first appearance.
        fasta: the reference genome; its bases are compared with the alignment's, and fill positions without a block.
        progress: show a bar of blocks.

    Raises:
        UserError: a file is missing, malformed or of another assembly; the reference or all of the species are in no
            block; the store exists; or more than 5 % of the reference's bases differ from the FASTA file.
    """
    if out.exists():
        raise UserError(f"{out} exists; remove it first, or choose another --out")
    found = scan_species(mafs)
    columns = _columns(found, reference, species, mafs)
    counts = BlockCounts()
    with scratch_folder(out) as folder:
        canvas = _Canvas(folder, len(columns))
        with tqdm(desc="blocks", unit="block", disable=not progress, mininterval=0.5) as bar:
            for path in mafs:
                for rows in read_blocks(path):
                    bar.update()
                    if (piece := project(rows, columns, counts)) is not None:
                        canvas.add(piece, path)
        if not canvas.chromosomes:
            raise UserError(f"no block of {', '.join(map(str, mafs))} contains the reference {reference!r}")
        check = _FastaCheck()
        if fasta is not None:
            check.run(fasta, canvas.chromosomes)
        writer = StoreWriter(folder / "store", list(columns))
        for name, chromosome in canvas.chromosomes.items():
            writer.write(name, chromosome.codes, chromosome.shards)
        info = writer.close(counts.left_out() | {OVERLAPS: canvas.overlaps})
        (folder / "store").rename(out)
    absent = tuple(name for name in columns if name not in found)
    return BuildReport(
        info, counts, canvas.overlaps, absent, check.checked, check.mismatches, check.filled, tuple(check.absent)
    )


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


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out`, which is removed when the block ends."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
            if len(sequence) != len(target.codes):
                raise UserError(
                    f"{fasta}: {record_name} is {len(sequence)} long and the alignment's {names[i]} "
                    f"{len(target.codes)}; wrong genome build?"
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
                target.codes[part, 0] = np.where(free, theirs, ours)
                target.touch(part.start, part.stop)


def read_fasta(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name (to the first space) and letters (n,) uint8 of each record, plain or gzipped."""
    import io

    from Bio.SeqIO.FastaIO import SimpleFastaParser

    with io.TextIOWrapper(open_text(path), encoding="ascii", errors="replace") as lines:
        try:
            for title, sequence in SimpleFastaParser(lines):
                name = (title.split(None, 1) or [""])[0]
                yield name, np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)
        except ValueError as error:
            raise UserError(f"{path} is not a FASTA file: {error}") from None
