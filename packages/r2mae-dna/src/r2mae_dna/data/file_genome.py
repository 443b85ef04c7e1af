"""The chromosomes that a file of variants names, where no alignment says which there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from r2mae_dna.data.chromosome_names import ChromosomeNames
from r2mae_dna.data.index import IndexedLines, find_index
from r2mae_dna.data.tables import file_kind, read_frame, table_columns, table_index
from r2mae_dna.data.vcf import VcfFile

UNKNOWN = 1 << 60
"""Length of a chromosome that may be of any length."""


@dataclass(frozen=True)
class FileGenome:
    """Chromosomes of a file; satisfies `regions.Genome`."""

    path: Path
    chromosomes: Sequence[str]

    @property
    def lengths(self) -> Mapping[str, int]:
        """Name → a length beyond all."""
        return dict.fromkeys(self.chromosomes, UNKNOWN)

    @cached_property
    def _names(self) -> ChromosomeNames:
        return ChromosomeNames(self.chromosomes)

    def chromosome(self, name: str) -> str | None:
        """Return the file's name of a chromosome, which may be in another style; None if it is not there."""
        return self._names.find(name)


def genome_of(path: Path) -> FileGenome:
    """Return the chromosomes of a VCF or a table: by its index, or by reading it once.

    Raises:
        UserError: the file is missing or damaged, or a table has no column chrom.
    """
    if file_kind(path) == "vcf":
        file = VcfFile(path)
        index, _ = find_index(path)
        if index is not None and path.suffix.lower() != ".bcf":
            return FileGenome(path, IndexedLines(path, index).chromosomes)
        return FileGenome(path, list(dict.fromkeys(fields[0] for fields in file.records())))
    index, _ = table_index(path, ("chrom", "pos"))
    if index is not None:
        return FileGenome(path, IndexedLines(path, index).chromosomes)
    frame = read_frame(path)
    own = table_columns(frame.columns, ("chrom",), path)["chrom"]
    return FileGenome(path, [str(name) for name in frame[own].drop_nulls().unique(maintain_order=True)])
