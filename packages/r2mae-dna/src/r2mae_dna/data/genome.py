"""The reference genome beside an alignment: its bases compared, its letters where no block is, its case."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from r2mae_core import UserError, reading
from r2mae_dna.data.canvas import Chromosome
from r2mae_dna.data.chromosome_names import ChromosomeNames
from r2mae_dna.data.codes import ENCODE_REFERENCE, SOFT_MASK, TOKEN_BITS
from r2mae_dna.data.store import SHARD_ROWS
from r2mae_dna.data.text_files import read_lines

Case = Literal["maf", "fasta"]
"""Whose lower-case letters are the soft-masked ones."""


@dataclass
class GenomeCheck:
    """What the comparison of chromosomes with the genome found."""

    checked: int = 0
    """Reference bases compared."""
    mismatches: int = 0
    """Of these, how many differ."""
    filled: int = 0
    """Positions without a block whose reference base came from the genome."""
    absent: list[str] = field(default_factory=list[str])
    """Chromosomes that the genome lacks."""

    def run(self, genome: Path, chromosomes: Mapping[str, Chromosome], case: Case) -> None:
        """Compare every chromosome with its record, and fill what no block covers.

        Args:
            genome: FASTA, plain or gzipped, or 2bit.
            chromosomes: changed in place.
            case: whose lower-case letters are the soft-masked ones.

        Raises:
            UserError: the file is damaged, or a chromosome has another length in it, or two records.
        """
        names, seen = ChromosomeNames(chromosomes), dict[str, str]()
        for record, sequence in read_genome(genome, lambda record: names.find(record) is not None):
            name = names.find(record) or record
            if name in seen:
                if seen[name] == name != record:  # its own record was there: chrM beside chrMT
                    continue
                raise UserError(
                    f"{genome}: the records {seen[name]} and {record} could both be the alignment's {name}; leave one "
                    "out"
                )
            seen[name] = record
            target = chromosomes[name]
            if len(sequence) != len(target):
                raise UserError(
                    f"{genome}: {record} is {len(sequence)} long and the alignment's {name} {len(target)}; "
                    "wrong genome build?"
                )
            self._compare(sequence, target, case)
        self.absent = [name for name in chromosomes if name not in seen]
        if case == "fasta":
            for name in self.absent:
                _unmask(chromosomes[name])

    def _compare(self, sequence: np.ndarray, target: Chromosome, case: Case) -> None:
        for start in range(0, len(sequence), SHARD_ROWS):
            part = slice(start, min(start + SHARD_ROWS, len(sequence)))
            ours, theirs = target.codes[part, 0], ENCODE_REFERENCE[sequence[part]]
            if case == "maf":
                theirs &= TOKEN_BITS
            taken = target.taken[part] & (ours > 0)
            self.checked += int(taken.sum())
            self.mismatches += int(((ours ^ theirs) & TOKEN_BITS)[taken].astype(bool).sum())
            free = ~target.taken[part] & (theirs > 0)
            self.filled += int(free.sum())
            if free.any():
                target.touch(part.start, part.stop)
                target.codes[part, 0] = np.where(free, theirs, ours)
            if case == "fasta" and taken.any():
                letters = target.codes[part, 0] & TOKEN_BITS
                lower = (sequence[part] >= ord("a")) & (letters > 0)
                target.codes[part, 0] = letters | np.where(lower, SOFT_MASK, 0).astype(np.uint8)


def _unmask(chromosome: Chromosome) -> None:
    """Make all letters of the reference upper-case."""
    for shard in chromosome.shards:
        chromosome.codes[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS, 0] &= TOKEN_BITS


def read_genome(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and letters (n,) uint8 of the wanted records of a genome: FASTA, or 2bit by its name or first bytes.

    Raises:
        UserError: the file is missing or damaged, or is 2bit and py2bit is not installed.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    with path.open("rb") as content:
        head = content.read(4)
    if path.suffix.lower() == ".2bit" or head in _TWO_BIT:
        yield from _read_two_bit(path, wanted)
        return
    for name, letters in read_fasta(path):
        if wanted(name):
            yield name, letters


_TWO_BIT = (b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43")
"""The first bytes of a 2bit file, in either order of bytes."""


def _read_two_bit(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    try:
        import py2bit
    except ImportError:
        raise UserError(f"{path}: reading 2bit needs py2bit: pip install 'r2mae-dna[twobit]'") from None
    with reading(path, "a 2bit file"):
        file = py2bit.open(str(path), True)  # with the soft-masked stretches, as lower-case letters
        names = [name for name in file.chroms() if wanted(name)]
    try:
        for name in names:
            with reading(path, "a 2bit file"):
                letters = np.frombuffer(file.sequence(name).encode(), np.uint8)
            yield name, letters
    finally:
        file.close()


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
