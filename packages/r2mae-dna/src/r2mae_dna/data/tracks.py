"""Scores of every single-nucleotide change as files that genome tools read: TSV or VCF with tabix, and bigWig.

Bytes are compressed and indexed by htslib (pysam); bigWig files are written by pyBigWig, the extra `bigwig`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.codes import VOCABULARY
from r2mae_dna.data.text_files import open_to_write

_TABIX_LIMIT = 2**29
"""Longest chromosome of a .tbi index; longer ones need .csi."""
ALTERNATIVES = np.array([[0, 0, 0], [2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3]], np.uint8)
"""Token of the reference base → tokens of the three other bases."""
DECIMALS = 4
"""Of a score in a text file."""


@dataclass(frozen=True)
class SiteScores:
    """Scores of consecutive sites of one chromosome."""

    position: np.ndarray
    """(n,) int64, 0-based, ascending."""
    reference: np.ndarray
    """(n,) uint8 tokens, 1 to 4."""
    llr: np.ndarray
    """(n, 4) float32 of A, C, G, T against the reference base, which has 0 itself."""

    def __len__(self) -> int:
        return len(self.position)

    @property
    def alternatives(self) -> np.ndarray:
        """Tokens of the other bases, (n, 3)."""
        return ALTERNATIVES[self.reference]

    @property
    def changes(self) -> np.ndarray:
        """Scores of the three changes, (n, 3)."""
        return np.take_along_axis(self.llr, self.alternatives.astype(np.int64) - 1, 1)


class SiteWriter(Protocol):
    """A file of scores, written in the order of the genome."""

    def add(self, chromosome: str, sites: SiteScores) -> None:
        """Append sites."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class TextWriter:
    """A bgzipped TSV or VCF, a line per change.

    Args:
        path: the file.
        header: its first lines.
        vcf: whether it is a VCF, with the score in INFO.
        name: the score's name there.
    """

    def __init__(self, path: Path, header: str, *, vcf: bool, name: str) -> None:
        self._file, self._vcf, self._name = open_to_write(path), vcf, name
        self._file.write(header.encode())

    def add(self, chromosome: str, sites: SiteScores) -> None:
        """Append sites."""
        import polars as pl

        letters = pl.Series(list(VOCABULARY))
        frame = pl.DataFrame(
            {
                "pos": np.repeat(sites.position + 1, 3),
                "ref": letters.gather(np.repeat(sites.reference, 3)),
                "alt": letters.gather(sites.alternatives.reshape(-1)),
                "llr": sites.changes.reshape(-1),
            }
        )
        columns = [pl.lit(chromosome).alias("chrom"), "pos", "ref", "alt", "llr"]
        if self._vcf:
            info = pl.format(f"{self._name}={{}}", pl.col("llr").round(DECIMALS))
            columns = [columns[0], "pos", *_dots("id"), "ref", "alt", *_dots("qual", "filter"), info.alias("info")]
        text = frame.select(columns).write_csv(
            include_header=False, separator="\t", quote_style="never", float_precision=DECIMALS
        )
        self._file.write(text.encode())

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def _dots(*names: str) -> list[Any]:
    import polars as pl

    return [pl.lit(".").alias(name) for name in names]


def tsv_header(name: str) -> str:
    """Return the first line of a TSV of scores."""
    return f"#chrom\tpos\tref\talt\t{name}\n"


def vcf_header(name: str, lengths: Mapping[str, int], source: Mapping[str, Any]) -> str:
    """Return the header of a VCF of scores."""
    contigs = "".join(f"##contig=<ID={chromosome},length={length}>\n" for chromosome, length in lengths.items())
    values = ",".join(f'{key}="{value}"' for key, value in source.items())
    return (
        f"##fileformat=VCFv4.2\n{contigs}"
        f'##INFO=<ID={name},Number=A,Type=Float,Description="Log-likelihood ratio of the alternative to the reference '
        'base, mean of both strands; lower is more deleterious">\n'
        f"##r2mae_dna=<ID={name},{values}>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    )


def index_text(path: Path, lengths: Mapping[str, int], *, vcf: bool) -> Path:
    """Index a sorted, bgzipped file for tabix; return the index, beside the file.

    Args:
        path: the file.
        lengths: of the chromosomes; beyond 512 Mb the index is a .csi.
        vcf: whether it is a VCF, else the columns are chromosome and position.
    """
    import pysam

    csi = max(lengths.values(), default=0) >= _TABIX_LIMIT
    index = path.with_name(f"{path.name}.{'csi' if csi else 'tbi'}")
    kind: dict[str, Any] = {"preset": "vcf"} if vcf else {"seq_col": 0, "start_col": 1, "end_col": 1, "meta_char": "#"}
    pysam.tabix_index(str(path), force=True, keep_original=True, csi=csi, index=str(index), **kind)
    return index


def require_bigwig() -> Any:
    """Return pyBigWig.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyBigWig
    except ImportError:
        raise UserError(
            "writing bigWig needs pyBigWig, which is not installed: pip install 'r2mae-dna[bigwig]' (wheels exist for "
            "Linux only), or leave bigWig out of --formats"
        ) from None
    return pyBigWig


class BigWigWriter:
    """A bigWig with one value per site.

    Args:
        path: the file.
        lengths: of the chromosomes, in the order in which they are written.
        kind: worst or mean: the least or the mean score of a site's three changes; A, C, G or T: that change's, absent
            where it is the reference base.
    """

    def __init__(self, path: Path, lengths: Mapping[str, int], kind: str) -> None:
        self._file, self._kind = require_bigwig().open(str(path), "w"), kind
        self._file.addHeader(list(lengths.items()))

    def add(self, chromosome: str, sites: SiteScores) -> None:
        """Append sites."""
        position, values = self._values(sites)
        if len(position):
            self._file.addEntries(chromosome, position, values=values.astype(np.float64), span=1)

    def _values(self, sites: SiteScores) -> tuple[np.ndarray, np.ndarray]:
        if self._kind in ("worst", "mean"):
            changes = sites.changes
            return sites.position, changes.min(1) if self._kind == "worst" else changes.mean(1)
        token = VOCABULARY.index(self._kind)
        rows = sites.reference != token
        return sites.position[rows], sites.llr[rows, token - 1]

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def write_all(writers: Sequence[SiteWriter], chromosome: str, sites: SiteScores) -> None:
    """Append sites to every file."""
    for writer in writers:
        writer.add(chromosome, sites)
