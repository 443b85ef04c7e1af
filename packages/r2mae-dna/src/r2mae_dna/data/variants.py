"""Variants: stretches of a file, their results, and tables (VCF is in `vcf.py`). Every column is kept."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, atomic_path
from r2mae_dna.data.text_files import open_to_write, read_lines, refuse_cut_bgzf

SCORED, NOT_SNV, REF_MISMATCH, OUTSIDE, NO_ALIGNMENT, INDEL, SYMBOLIC, STAR, NOT_FINITE = range(9)
STATUS = (
    "scored", "not_snv", "ref_mismatch", "outside", "no_alignment", "indel", "symbolic", "overlapping_deletion",
    "not_finite",
)  # fmt: skip
"""What became of an allele. `scored` has a finite score; `not_snv`: no other base (such as `.`, an N, or the reference
allele itself); `symbolic`: <DEL> and the like, and breakends; `overlapping_deletion`: `*`."""
STATUS_COLUMN = "r2mae_status"
PREFIX = "r2mae_"
RERUN = "remove the folder of its parts, beside the output, and run the same command again"
TABLE_COLUMNS = ("chrom", "pos", "ref", "alt")
_TABLES = {".tsv": "\t", ".txt": "\t", ".csv": ","}


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


def file_kind(path: Path) -> str:
    """Return "vcf", "parquet", or the suffix of a text table.

    Raises:
        UserError: the suffix is none of them.
    """
    name = path.name.lower()
    bare = Path(name.removesuffix(".gz").removesuffix(".bgz")).suffix
    if bare == ".vcf" or name.endswith(".bcf"):
        return "vcf"
    if name.endswith(".parquet"):
        return "parquet"
    if bare in _TABLES:
        return bare
    raise UserError(f"{path}: the name must end in .vcf, .vcf.gz, .bcf, .tsv, .csv or .parquet")


class TableFile:
    """A TSV, CSV or Parquet table with the columns chrom, pos, ref, alt.

    Raises:
        UserError: the file is missing or damaged, lacks a column, or has a position that is not a number.
    """

    def __init__(self, path: Path) -> None:
        import polars as pl

        self.path, self.frame = path, read_frame(path)
        found = {name: _column(self.frame.columns, name, path) for name in TABLE_COLUMNS}
        self._columns = {name: own for name, own in found.items() if own is not None}
        if missing := [name for name in TABLE_COLUMNS if name not in self._columns]:
            raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(self.frame.columns)}")
        column = self.frame[self._columns["pos"]]
        position = column.cast(pl.Int64, strict=False) if column.dtype in (pl.String, pl.Null) else column
        if not (position.dtype.is_numeric() or position.dtype == pl.Null):
            raise UserError(f"{path}: the column pos holds {column.dtype} instead of whole numbers")
        if not position.dtype.is_integer():  # 1.5 is no position
            position = position.set(position != position.cast(pl.Int64, strict=False), None)
        position = position.cast(pl.Int64, strict=False)
        if position.null_count():
            row = int(position.is_null().arg_max() or 0)
            raise UserError(f"{path}, row {row + 1}: the position {column[row]!r} is not a whole number")
        self._position = position.to_numpy()

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
        write_frame(with_result(self.frame, Result(llr, status), column), out)


def _column(columns: Sequence[str], wanted: str, path: Path) -> str | None:
    """Return which column is meant: that name, or the only one that is it but for capitals and a leading #."""
    if wanted in columns:
        return wanted
    found = [name for name in columns if _plain(name) == wanted]
    if len(found) > 1:
        raise UserError(f"{path} has the columns {' and '.join(found)}; name the one to use {wanted}")
    return found[0] if found else None


def _plain(name: str) -> str:
    return name.removeprefix("#").strip().lower()


def with_result(frame: Any, result: Result, column: str) -> Any:
    """Return a polars frame with the columns of scores and statuses."""
    import polars as pl

    return frame.with_columns(
        pl.Series(column, result.llr).fill_nan(None),
        pl.Series(STATUS_COLUMN, [STATUS[code] for code in result.status.tolist()], dtype=pl.String),
    )


def read_frame(path: Path) -> Any:
    """Read a TSV, CSV or Parquet table as a polars frame; `chrom` stays text.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    import polars as pl

    kind = file_kind(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        if kind == "parquet":
            return pl.read_parquet(path)
        refuse_cut_bgzf(path)
        given = _header(path, _TABLES[kind])
        if twice := [name for name in given.names if given.names.count(name) > 1]:
            raise UserError(f"{path} has two columns named {twice[0]!r}; rename one of them")
        frame = pl.read_csv(
            path,
            separator=_TABLES[kind],
            has_header=given.there,
            new_columns=None if given.there else given.names,
            schema_overrides={name: pl.String for name in given.names if _plain(name) in ("chrom", "ref", "alt")},
            infer_schema_length=None,
            null_values=["", "NA", "nan", "NaN"],
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if kind != "parquet" and path.stat().st_size:
            _refuse_ragged(path, _TABLES[kind])
        raise UserError(f"{path} is not a {kind.lstrip('.')} table: {str(error).splitlines()[0]}") from None
    if frame.width and frame[frame.columns[-1]].null_count():  # where a line that is too short would show
        _refuse_ragged(path, _TABLES[kind])
    return frame


@dataclass(frozen=True)
class _Header:
    names: list[str]
    there: bool
    """Whether the file has it; else its columns are recognised."""


_ALLELE = re.compile(r"[ACGTNacgtn]+(,[ACGTNacgtn*]+)*|[.*]|<.*>")


def _header(path: Path, separator: str) -> _Header:
    """Return the names of a text table's columns; those of a table without a header line by what they hold.

    Raises:
        UserError: it is a VCF, or a table without a header whose columns could be several things.
    """
    first = next((line for _, line in read_lines(path)), b"").decode(errors="replace").rstrip("\r\n")
    if first.startswith("##"):
        raise UserError(f"{path} begins like a VCF ({first[:30]}); name it .vcf or .vcf.gz")
    fields = [field.strip('"') for field in first.split(separator)]
    if len(fields) < 4 or not re.fullmatch(r"[0-9]+", fields[1]):
        return _Header(fields, True)
    alleles = [_ALLELE.fullmatch(field) is not None for field in fields]
    plain, with_id = alleles[2] and alleles[3], len(fields) > 4 and alleles[3] and alleles[4]
    if plain == with_id:
        raise UserError(
            f"{path} has no header line, and its columns could be several things; add a first line with chrom, pos, "
            "ref and alt"
        )
    known = ["chrom", "pos", *(["id"] if with_id else []), "ref", "alt"]
    return _Header([*known, *(f"column_{i + 1}" for i in range(len(known), len(fields)))], False)


def _refuse_ragged(path: Path, separator: str) -> None:
    """Name the first line that is no UTF-8, or has another number of fields than the first line.

    Raises:
        UserError: there is one.
    """
    expected = 0
    for number, line in read_lines(path):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number} is not UTF-8 text") from None
        n = text.count(separator) + 1
        expected = expected or n
        if text and '"' not in text and n != expected:
            raise UserError(f"{path}, line {number}: {n} fields instead of {expected}; is the file cut off?")


def write_frame(frame: Any, out: Path) -> None:
    """Write a polars frame atomically, in the format of the suffix."""
    kind = file_kind(out)
    with atomic_path(out) as temporary:
        if kind == "parquet":
            frame.write_parquet(temporary)
        else:
            with open_to_write(temporary) as target:
                target.write(frame.write_csv(separator=_TABLES[kind]).encode())
