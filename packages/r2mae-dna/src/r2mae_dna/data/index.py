"""Indices of bgzipped files (tabix, CSI): whether one belongs to its file, and the lines of regions by it.

htslib reads by an index whatever it says; with that of another file it finds too little, and does not say so.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2mae_core import UserError, reading
from r2mae_dna.data.text_files import BGZF_END, is_bgzf, whole_number
from r2mae_dna.data.within import Within

_ZERO_BASED = 0x10000
_META = 37_450
"""The bin of a .tbi that holds counts instead of places."""


@dataclass(frozen=True)
class Index:
    """An index as it lies beside its file."""

    path: Path
    chromosome: int
    """Column of names, from 0."""
    position: int
    """Column of positions, from 0; -1: they are not counted from 1, or it is a BCF's."""
    end: int
    """Offset of the last compressed block that it speaks of."""


def find_index(file: Path, columns: tuple[int, int] = (0, 1)) -> tuple[Index | None, str]:
    """Return the index beside a file that can be believed; or None, and why there is none.

    An index is of this file if it ends where the file does, and is not older.

    Args:
        file: a bgzipped text file, or a BCF.
        columns: of a text file, those of the chromosome and of the position, from 0.
    """
    if not is_bgzf(file) and file.suffix.lower() != ".bcf":
        return None, f"{file} is not bgzipped" + (" but gzipped" if file.suffix.lower() == ".gz" else "")
    why = f"{file} has no index (.tbi or .csi) beside it"
    for suffix in (".csi", ".tbi"):
        path = file.with_name(f"{file.name}{suffix}")
        if not path.is_file():
            continue
        try:
            index = _read(path)
        except UserError as error:
            why = str(error)
            continue
        if index.end not in (file.stat().st_size - len(BGZF_END), file.stat().st_size):
            why = f"the index {path} is of another file"
        elif path.stat().st_mtime_ns < file.stat().st_mtime_ns:
            why = f"the index {path} is older than its file"
        elif file.suffix.lower() != ".bcf" and (index.chromosome, index.position) != columns:
            why = f"the index {path} is of other columns than the chromosome's and the position's"
        else:
            return index, ""
    return None, why


def _read(path: Path) -> Index:
    """Read what an index is of.

    Raises:
        UserError: it is damaged, or no index.
    """
    with reading(path, "an index of tabix"):
        try:
            content = gzip.decompress(path.read_bytes())
        except (EOFError, zlib.error) as error:
            raise ValueError(str(error)) from None
        if content[:4] == b"CSI\1":
            _, depth, n = struct.unpack_from("<3i", content, 4)
            at, meta, layout = 16 + n, ((1 << (3 * depth + 3)) - 1) // 7 + 1, content[16 : 16 + n]
            bins = struct.Struct("<IQi")
        elif content[:4] == b"TBI\1":
            at, meta, layout = 8, _META, content[8:36]
            bins = struct.Struct("<Ii")
            at = 36 + struct.unpack_from("<i", content, 32)[0]
        else:
            raise ValueError("its first bytes are not those of an index")
        csi = content[:4] == b"CSI\1"
        n_names = struct.unpack_from("<i", content, at if csi else 4)[0]
        at += 4 if csi else 0
        end = 0
        for _ in range(n_names):
            (n_bins,) = struct.unpack_from("<i", content, at)
            at += 4
            for _ in range(n_bins):
                number, *_, n_chunks = bins.unpack_from(content, at)
                at += bins.size
                ends = struct.unpack_from(f"<{2 * n_chunks}Q", content, at)[1::2]
                end = max((end, *(ends[:1] if number == meta else ends)))
                at += 16 * n_chunks
            if not csi:
                at += 4 + 8 * struct.unpack_from("<i", content, at)[0]
        if len(layout) < 28:  # of a BCF
            return Index(path, 0, -1, end >> 16)
        kind, chromosome, position = struct.unpack_from("<3i", layout)
        return Index(path, chromosome - 1, -1 if kind & _ZERO_BASED else position - 1, end >> 16)


class IndexedLines:
    """Lines of regions of a bgzipped text file.

    Args:
        file: the file.
        index: its index.
    """

    def __init__(self, file: Path, index: Index) -> None:
        import pysam

        pysam.set_verbosity(0)  # what it would print comes as an error
        self.file = file
        with reading(file, "a bgzipped file"):
            self._file: Any = pysam.TabixFile(str(file), index=str(index.path), encoding="latin-1")
            self.chromosomes: list[str] = list(self._file.contigs)
            """Names, in the order of the file."""

    def fetch(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the lines of records that overlap [start, end) of a chromosome of the file.

        Raises:
            UserError: the file is damaged.
        """
        own = name.encode().decode("latin-1")
        with reading(self.file, "a bgzipped file"):
            lines = self._file.fetch(own, start, min(end, 2**31 - 2))
        while True:
            with reading(self.file, "a bgzipped file"):
                line = next(lines, None)
            if line is None:
                return
            yield line.encode("latin-1")


def lines_of(file: Path, index: Index, within: Within) -> Iterator[bytes]:
    """Yield the lines of records whose positions are in the regions, in the order of the file.

    Raises:
        UserError: the file is damaged, or a position is not a number.
    """
    lines = IndexedLines(file, index)
    for name in lines.chromosomes:
        for start, end in within.intervals(name):
            for line in lines.fetch(name, start, end):  # also those that begin before it
                position = line.split(b"\t", index.position + 1)[index.position]
                try:
                    inside = start < whole_number(position) <= end
                except ValueError:
                    raise UserError(f"{file}: the position {position[:40]!r} is not a whole number") from None
                if inside:
                    yield line
