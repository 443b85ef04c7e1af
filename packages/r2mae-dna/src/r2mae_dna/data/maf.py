"""Multiple alignment format (MAF): a streaming reader that keeps one block in memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.codes import ENCODE, ENCODE_REFERENCE, GAP, reverse_complement
from r2mae_dna.data.species import SpeciesNames, split_source, tree_names
from r2mae_dna.data.text_files import MAX_LENGTH, read_lines, whole_number

_GAP_LETTER = ord("-")


_LETTERS = b"-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


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


@dataclass
class BlockCounts:
    """What a build read and skipped; printed at its end."""

    blocks: int = 0
    without_reference: int = 0
    """Blocks that hold no row of the reference."""
    duplicate_rows: int = 0
    """Further rows of a species in the same block; the longest is kept, the first of equals."""
    unlisted_rows: int = 0
    """Rows of species that were not requested, or that name no species."""
    faults: Counter[str] = field(default_factory=lambda: Counter[str]())
    """What is wrong with rows of other species → how many there are; none is used."""

    def left_out(self) -> dict[str, int]:
        """Return reason → what was skipped."""
        return {
            "blocks without the reference": self.without_reference,
            "second rows of a species in a block (the longest is kept)": self.duplicate_rows,
            "rows of species that were not requested, or without a species": self.unlisted_rows,
            **{f"rows of other species {fault}": count for fault, count in sorted(self.faults.items())},
        }


class _RowError(Exception):
    """A row that cannot be used."""

    def __init__(self, source: str, fault: str, message: str) -> None:
        super().__init__(message)
        self.source, self.fault = source, fault


def every_row(source: str) -> bool:
    """Return that a fault in this row ends the reading, whatever it is of."""
    return True


def read_blocks(
    path: Path, strict: Callable[[str], bool] = every_row, counts: BlockCounts | None = None
) -> Iterator[list[Row]]:
    """Yield the rows of each block. Lines of other kinds (i, e, q, track, comments) are skipped.

    Args:
        path: a MAF file, plain or gzipped.
        strict: tells from the name of a sequence whether its rows must be right; others that are not are skipped.
        counts: takes the number of these.

    Raises:
        UserError: the file is damaged, or a row that must be right is not; the message names file and line.
    """
    faults = (counts or BlockCounts()).faults
    rows: list[Row] = []
    for number, line in read_lines(path):
        kind = line[:1]
        if kind == b"s":
            try:
                rows.append(_row(number, line))
            except _RowError as error:
                if strict(error.source):
                    raise UserError(f"{path}, line {number}: {error}") from None
                faults[error.fault] += 1
        elif kind == b"a" and rows:
            yield _equally_wide(path, rows, strict, faults)
            rows = []
    if rows:
        yield _equally_wide(path, rows, strict, faults)


def _equally_wide(path: Path, rows: list[Row], strict: Callable[[str], bool], faults: Counter[str]) -> list[Row]:
    """Return the rows that are as wide as the first one that must be right."""
    if len({len(row.text) for row in rows}) == 1 or not (leading := [row for row in rows if strict(row.source)]):
        return rows
    width = len(leading[0].text)
    if other := next((row for row in leading if len(row.text) != width), None):
        raise UserError(
            f"{path}, line {other.line}: {other.source} is {len(other.text)} columns wide, its block {width}"
        )
    fitting = [row for row in rows if len(row.text) == width]
    faults["that are not as wide as their block"] += len(rows) - len(fitting)
    return fitting


def _row(number: int, line: bytes) -> Row:
    fields = line.split()
    source = fields[1].decode(errors="surrogateescape") if len(fields) > 1 else ""
    try:
        _, _, start, size, strand, source_size, text = fields
        first, letters, length = whole_number(start), whole_number(size), whole_number(source_size)
    except ValueError:
        raise _RowError(
            source,
            "that are malformed",
            "a sequence line needs `s source start size strand source-size text`, got "
            f"{line[:80].decode(errors='replace').strip()!r}",
        ) from None
    row = Row(source, first, letters, strand == b"-", length, text, number)
    if (fault := _fault(row, strand)) is not None:
        raise _RowError(source, *fault)
    return row


def _fault(row: Row, strand: bytes) -> tuple[str, str] | None:
    """Return what is wrong with a row, for a count and for a message."""
    source, text = row.source, row.text
    if strand not in (b"+", b"-"):
        shown = strand.decode(errors="replace")
        return "whose strand is neither + nor -", f"the strand must be + or -, got {shown!r}"
    if not source.isascii() and "\\udc" in ascii(source):
        return "whose name is not UTF-8", f"the name of the sequence, {source!r}, is not UTF-8"
    if (letters := len(text) - text.count(b"-")) != row.size:
        return "with another number of letters than declared", f"{source} declares {row.size} letters and has {letters}"
    if foreign := text.translate(None, _LETTERS):
        shown = foreign[:1].decode("latin-1")
        return "with other characters than letters and gaps", f"{source} has {shown!r} where a letter or - should be"
    if row.source_size > MAX_LENGTH:
        return "outside their chromosome", f"{source} cannot be {row.source_size:,} long"
    if row.start + row.size > row.source_size:
        place = f"{source} {row.start}+{row.size}"
        return "outside their chromosome", f"{place} is outside its length {row.source_size}"
    return None


@dataclass
class Scan:
    """What a quick pass over the names and places of all rows finds."""

    names: SpeciesNames
    lengths: dict[str, int] = field(default_factory=dict[str, int])
    """Chromosome of the reference → its length."""
    stretches: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Chromosome of the reference → which stretches of it blocks cover."""

    bases: dict[str, int] = field(default_factory=dict[str, int])
    """Chromosome of the reference → its bases in blocks; those of overlapping blocks count again."""

    @property
    def species(self) -> list[str]:
        """In order of first appearance."""
        return list(self.names.found)

    def add(self, other: "Scan") -> None:
        """Add what was found in a later file."""
        self.names.add(other.names)
        for name, length in other.lengths.items():
            self.lengths.setdefault(name, length)
            self.stretches.setdefault(name, set()).update(other.stretches[name])
            self.bases[name] = self.bases.get(name, 0) + other.bases[name]


def names_in_trees(paths: Iterable[Path]) -> list[str]:
    """Return the names in the trees (`# hal`) at the beginning of files.

    Raises:
        UserError: a file is missing or damaged.
    """
    names = list[str]()
    for path in paths:
        for _, line in read_lines(path):
            if line[:6] == b"# hal ":
                names += tree_names(line[6:].decode(errors="replace"))
            elif line[:1] != b"#" and line.strip():
                break
    return names


def scan_blocks(paths: Iterable[Path], reference: str, stretch: int, species: Iterable[str] = ()) -> Scan:
    """Return which species the files hold, and where on the reference they have blocks.

    Args:
        paths: MAF files.
        reference: the species whose places are wanted.
        stretch: positions of a stretch.
        species: names of others, which may have dots; so may those of a tree in the file (hal2maf's `# hal`).

    Raises:
        UserError: a file is missing or damaged. Malformed lines are left to `read_blocks`.
    """
    scan = Scan(SpeciesNames({reference, *species}))
    for path in paths:
        for _, line in read_lines(path):
            if line[:6] == b"# hal ":
                scan.names.given.update(tree_names(line[6:].decode(errors="replace")))
            if line[:1] != b"s":
                continue
            parts = line[:200].split(None, 6)
            if len(parts) < 7 and len(line) > 200:
                parts = line.split(None, 6)
            try:
                found = scan.names.of(parts[1].decode())
            except (IndexError, ValueError):
                continue  # malformed, or a name that is not UTF-8
            if found is not None and found[0] == reference and len(parts) > 5:
                _add_place(scan, found[1], parts[2:6], stretch)
    return scan


def _add_place(scan: Scan, chromosome: str, fields: list[bytes], stretch: int) -> None:
    try:
        start, size, length = (whole_number(fields[i]) for i in (0, 1, 3))
    except ValueError:
        return
    if size and start + size <= length <= MAX_LENGTH:
        if fields[2] == b"-":
            start = length - start - size
        scan.lengths.setdefault(chromosome, length)
        scan.bases[chromosome] = scan.bases.get(chromosome, 0) + size
        scan.stretches.setdefault(chromosome, set()).update(range(start // stretch, (start + size - 1) // stretch + 1))


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


def anywhere(chromosome: str | None) -> bool:
    """Return that blocks of every chromosome of the reference are wanted, and those without the reference."""
    return True


def project(
    rows: list[Row],
    species: dict[str, int],
    counts: BlockCounts,
    wanted: Callable[[str | None], bool] = anywhere,
) -> Piece | None:
    """Project a block onto the reference: columns with a gap in the reference are dropped; its strand becomes forward.

    Args:
        rows: of one block.
        species: name → column; the reference has column 0. A row is of the longest name that its own begins with.
        counts: updated in place, for a block that is wanted.
        wanted: tells from the reference's chromosome (None: the block has no row of it) whether the block is.

    Returns:
        None if the block has no row of the reference, or is not wanted.
    """
    chosen: dict[int, Row] = {}
    unlisted = 0
    for row in rows:
        found = split_source(row.source, species)
        if found is None:
            unlisted += 1
            continue
        column = species[found[0]]
        if column not in chosen or row.size > chosen[column].size:
            chosen[column] = row
    reference = chosen.get(0)
    found = None if reference is None else split_source(reference.source, species)
    chromosome = None if found is None else found[1]
    if not wanted(chromosome):
        return None
    counts.blocks += 1
    counts.unlisted_rows += unlisted
    counts.duplicate_rows += len(rows) - unlisted - len(chosen)
    if reference is None or chromosome is None:
        counts.without_reference += 1
        return None
    return Piece(chromosome, reference.source_size, *_paint(chosen, len(species)), reference.line)


def _paint(chosen: dict[int, Row], n_columns: int) -> tuple[int, np.ndarray]:
    """Return where a block begins on the reference's forward strand, and its bytes there."""
    reference, others = chosen[0], {column: row for column, row in chosen.items() if column}
    letters = np.frombuffer(reference.text, np.uint8)
    keep = letters != _GAP_LETTER
    codes = np.full((reference.size, n_columns), GAP, np.uint8)
    codes[:, 0] = ENCODE_REFERENCE[letters[keep]]
    if others:
        rows = np.frombuffer(b"".join(row.text for row in others.values()), np.uint8)
        rows = ENCODE[rows].reshape(len(others), -1)
        codes[:, list(others)] = (rows if keep.all() else rows[:, keep]).T
    if not reference.reverse:
        return reference.start, codes
    return reference.source_size - reference.start - reference.size, reverse_complement(codes)
