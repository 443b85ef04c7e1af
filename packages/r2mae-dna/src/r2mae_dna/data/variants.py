"""Variants: stretches of a file, their results, and tables (VCF is in `vcf.py`). Every column is kept."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError
from r2mae_dna.data.tables import (
    TABLE_COLUMNS,
    file_kind,
    frame_within,
    positions_of,
    table_columns,
    with_types,
    write_frame,
)
from r2mae_dna.data.within import Within

SCORED, NOT_SNV, REF_MISMATCH, OUTSIDE, NO_ALIGNMENT, INDEL, SYMBOLIC, STAR, NOT_FINITE, NO_SITE, NO_ALLELE = range(11)
STATUS = (
    "scored", "not_snv", "ref_mismatch", "outside", "no_alignment", "indel", "symbolic", "overlapping_deletion",
    "not_finite", "site_not_in_scan", "allele_not_in_scan",
)  # fmt: skip
"""What became of an allele. `scored` has a finite score; `not_snv`: no other base (such as `.`, an N, or the reference
allele itself); `symbolic`: <DEL> and the like, and breakends; `overlapping_deletion`: `*`."""
STATUS_COLUMN = "r2mae_status"
PREFIX = "r2mae_"
RERUN = "remove the folder of its parts, beside the output, and run the same command again"


@dataclass(frozen=True)
class Alleles:
    """A stretch of a variant file, one entry per alternative allele."""

    chromosome: list[str]
    position: np.ndarray
    """(n,) int64, 1-based."""
    reference: list[str]
    alternative: list[str]
    record: np.ndarray
    """(n,) int64: which record of the stretch, from 0."""

    def __len__(self) -> int:
        return len(self.alternative)


@dataclass(frozen=True)
class Result:
    """Scores of a stretch, in the order of its alleles."""

    llr: np.ndarray
    """(n,) float32; NaN if there is none."""
    status: np.ndarray
    """(n,) uint8: index into `STATUS`."""


def score_column(name: str) -> str:
    """Return a score's column in tables; in a VCF the same in capitals.

    Raises:
        UserError: the name has other characters than letters, digits and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name.lower() == "status":
        raise UserError(f"--name {name!r}: use letters, digits and underscores; `status` is taken")
    return PREFIX + name.lower()


class TableFile:
    """A TSV, CSV or Parquet table with the columns chrom, pos, ref, alt.

    Args:
        path: the file.
        within: only the rows at these positions; by the index that lies beside a bgzipped TSV, if it can be believed,
            else the others are read and left out.

    Raises:
        UserError: the file is missing or damaged, lacks a column, or has a position that is not a number.
    """

    def __init__(self, path: Path, within: Within | None = None) -> None:
        import polars as pl

        self.path = path
        self.frame, self.index, self.not_indexed = frame_within(path, within, TABLE_COLUMNS, as_written=True)
        self._columns = table_columns(self.frame.columns, TABLE_COLUMNS, path)
        self._position = positions_of(self.frame[self._columns["pos"]], path)
        for name in ("chrom", "ref", "alt"):
            kind = self.frame[self._columns[name]].dtype
            if kind.is_nested() or kind in (pl.Binary, pl.Object):
                raise UserError(f"{path}: the column {self._columns[name]} holds {kind} instead of text; one per row")

    def chunks(self, size: int) -> Iterator[Alleles]:
        """Yield stretches of `size` rows."""
        return (alleles for alleles in self.chosen_chunks(size, lambda _: True) if alleles is not None)

    def chosen_chunks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Alleles | None]:
        """Yield stretches of `size` rows; None for those, by their number from 0, that are not wanted."""
        import polars as pl

        names = ("chrom", "ref", "alt")
        texts = [pl.col(self._columns[name]).cast(pl.String).fill_null(".").alias(name) for name in names]
        for i, start in enumerate(range(0, len(self.frame), size)):
            if not wanted(i):
                yield None
                continue
            part = self.frame.slice(start, size).select(texts)
            yield Alleles(
                part["chrom"].to_list(),
                self._position[start : start + size],
                part["ref"].to_list(),
                part["alt"].to_list(),
                np.arange(len(part)),
            )

    def write(self, out: Path, results: Iterable[Result], size: int, column: str, source: dict[str, Any]) -> None:
        """Write the table again with two more columns; the arguments are those of `VcfFile.write`.

        Raises:
            UserError: the output is a VCF, which could not keep the table's columns.
        """
        del source  # a table has no header; the command prints it
        parts = list(results)
        llr = np.concatenate([part.llr for part in parts]) if parts else np.zeros(0, np.float32)
        status = np.concatenate([part.status for part in parts]) if parts else np.zeros(0, np.uint8)
        if len(status) != len(self.frame):
            raise UserError(f"{len(status):,} scores for the {len(self.frame):,} rows of {self.path}; {RERUN}")
        typed = file_kind(out) == "parquet" and file_kind(self.path) != "parquet"
        write_frame(with_result(with_types(self.frame) if typed else self.frame, Result(llr, status), column), out)


def with_result(frame: Any, result: Result, column: str) -> Any:
    """Return a polars frame with the columns of scores and statuses."""
    import polars as pl

    return frame.with_columns(
        pl.Series(column, result.llr).fill_nan(None),
        pl.Series(STATUS_COLUMN, [STATUS[code] for code in result.status.tolist()], dtype=pl.String),
    )
