"""Multiple alignment format (MAF): a streaming reader that keeps one block in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.codes import ENCODE, ENCODE_REFERENCE, GAP, reverse_complement
from r2mae_dna.data.text_files import MAX_LENGTH, read_lines, whole_number

_GAP_LETTER = ord("-")


@dataclass(frozen=True, slots=True)
class Row:
    """One `s` line."""

    source: str
    """Name of the sequence in the file, such as `mm9.chr10`."""
    start: int
    """0-based, on its own strand."""
    size: int
    """Letters that are not gaps."""
    reverse: bool
    source_size: int
    """Length of the whole sequence."""
    text: bytes
    """Letters and gaps; equally long in all rows of a block."""
    line: int

    @property
    def species(self) -> str:
        """The name before the first dot."""
        return self.source.partition(".")[0]

    @property
    def chromosome(self) -> str:
        """The name after the first dot; all of it, if there is no dot."""
        return self.source.partition(".")[2] or self.source


def read_blocks(path: Path) -> Iterator[list[Row]]:
    """Yield the rows of each block. Lines of other kinds (i, e, q, track, comments) are skipped.

    Raises:
        UserError: a line is malformed; the message names file and line.
    """
    rows: list[Row] = []
    for number, line in read_lines(path):
        kind = line[:1]
        if kind == b"s":
            rows.append(_row(path, number, line, rows))
        elif kind == b"a" and rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _row(path: Path, number: int, line: bytes, rows: list[Row]) -> Row:
    fields = line.split()
    try:
        _, source, start, size, strand, source_size, text = fields
        first, letters, length = whole_number(start), whole_number(size), whole_number(source_size)
        row = Row(source.decode(), first, letters, strand == b"-", length, text, number)
    except ValueError:
        raise UserError(
            f"{path}, line {number}: a sequence line needs `s source start size strand source-size text`, "
            f"got {line[:80].decode(errors='replace').strip()!r}"
        ) from None
    if strand not in (b"+", b"-"):
        raise UserError(f"{path}, line {number}: the strand must be + or -, got {strand.decode(errors='replace')!r}")
    if (letters := len(text) - text.count(b"-")) != row.size:
        raise UserError(f"{path}, line {number}: {source.decode()} declares {row.size} letters and has {letters}")
    if row.source_size > MAX_LENGTH:
        raise UserError(f"{path}, line {number}: {row.source} cannot be {row.source_size:,} long")
    if row.start + row.size > row.source_size:
        raise UserError(
            f"{path}, line {number}: {source.decode()} {row.start}+{row.size} is outside its length {row.source_size}"
        )
    if rows and len(rows[0].text) != len(text):
        raise UserError(
            f"{path}, line {number}: {source.decode()} is {len(text)} columns wide, its block {len(rows[0].text)}"
        )
    return row


@dataclass(frozen=True)
class Scan:
    """What a quick pass over the names and places of all rows finds."""

    species: list[str]
    """In order of first appearance."""
    lengths: dict[str, int]
    """Chromosome of the reference → its length."""
    stretches: dict[str, set[int]]
    """Chromosome of the reference → which stretches of it blocks cover."""


def scan_blocks(paths: Iterable[Path], reference: str, stretch: int) -> Scan:
    """Return which species the files hold, and where on the reference they have blocks.

    Args:
        paths: MAF files.
        reference: the species whose places are wanted.
        stretch: positions of a stretch.

    Raises:
        UserError: a file is missing or damaged. Malformed lines are left to `read_blocks`.
    """
    seen: dict[bytes, None] = {}
    scan, wanted = Scan([], {}, {}), reference.encode()
    for path in paths:
        for _, line in read_lines(path):
            if line[:1] != b"s" or len(parts := line[:200].split(None, 6)) < 2:
                continue
            species, _, chromosome = parts[1].partition(b".")
            seen.setdefault(species)
            if species == wanted and len(parts) > 5:
                _add_place(scan, (chromosome or species).decode(errors="replace"), parts[2:6], stretch)
    scan.species.extend(name.decode(errors="replace") for name in seen)
    return scan


def _add_place(scan: Scan, chromosome: str, fields: list[bytes], stretch: int) -> None:
    try:
        start, size, length = (whole_number(fields[i]) for i in (0, 1, 3))
    except ValueError:
        return
    if size and start + size <= length <= MAX_LENGTH:
        if fields[2] == b"-":
            start = length - start - size
        scan.lengths[chromosome] = length
        scan.stretches.setdefault(chromosome, set()).update(range(start // stretch, (start + size - 1) // stretch + 1))


@dataclass
class BlockCounts:
    """What a build read and skipped; printed at its end."""

    blocks: int = 0
    without_reference: int = 0
    """Blocks that hold no row of the reference."""
    duplicate_rows: int = 0
    """Further rows of a species in the same block; the longest is kept, the first of equals."""
    unlisted_rows: int = 0
    """Rows of species that were not requested."""

    def left_out(self) -> dict[str, int]:
        """Return reason → what was skipped."""
        return {
            "blocks without the reference": self.without_reference,
            "second rows of a species in a block (the longest is kept)": self.duplicate_rows,
            "rows of species that were not requested": self.unlisted_rows,
        }


@dataclass(frozen=True)
class Piece:
    """A block seen from the reference's forward strand."""

    chromosome: str
    length: int
    """Length of the chromosome."""
    start: int
    """0-based."""
    codes: np.ndarray
    """(bases of the reference, 1 + species) bytes of the store."""
    line: int


def project(rows: list[Row], species: dict[str, int], counts: BlockCounts) -> Piece | None:
    """Project a block onto the reference: columns with a gap in the reference are dropped; its strand becomes forward.

    Args:
        rows: of one block.
        species: name → column; the reference has column 0.
        counts: updated in place.

    Returns:
        None if the block has no row of the reference.
    """
    counts.blocks += 1
    chosen: dict[int, Row] = {}
    for row in rows:
        column = species.get(row.species)
        if column is None:
            counts.unlisted_rows += 1
            continue
        if column in chosen:
            counts.duplicate_rows += 1
            if row.size <= chosen[column].size:
                continue
        chosen[column] = row
    reference = chosen.pop(0, None)
    if reference is None:
        counts.without_reference += 1
        return None
    letters = np.frombuffer(reference.text, np.uint8)
    keep = letters != _GAP_LETTER
    codes = np.full((reference.size, len(species)), GAP, np.uint8)
    codes[:, 0] = ENCODE_REFERENCE[letters[keep]]
    if chosen:
        others = np.frombuffer(b"".join(row.text for row in chosen.values()), np.uint8)
        others = ENCODE[others].reshape(len(chosen), -1)
        codes[:, list(chosen)] = (others if keep.all() else others[:, keep]).T
    start = reference.start
    if reference.reverse:
        start = reference.source_size - reference.start - reference.size
        codes = reverse_complement(codes)
    return Piece(reference.chromosome, reference.source_size, start, codes, reference.line)
