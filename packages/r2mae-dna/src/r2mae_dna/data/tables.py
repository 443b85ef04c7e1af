"""Tables of variants: TSV, CSV and Parquet, with or without a header line, whole or by regions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, atomic_path
from r2mae_dna.data.index import Index, find_index, lines_of
from r2mae_dna.data.text_files import open_to_write, read_lines, refuse_cut_bgzf
from r2mae_dna.data.within import Within

TABLE_COLUMNS = ("chrom", "pos", "ref", "alt")
_TABLES = {".tsv": "\t", ".txt": "\t", ".csv": ","}


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


def read_frame(path: Path, *, as_written: bool = False) -> Any:
    """Read a TSV, CSV or Parquet table as a polars frame; `chrom` stays text.

    Args:
        path: the table.
        as_written: every column of a text table stays text, so that 001, 0.10 and NA are written again as they are.

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
        frame = _read_text(path, header_of(path, _TABLES[kind])[0], _TABLES[kind], as_written)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if kind != "parquet" and path.stat().st_size:
            _refuse_ragged(path, _TABLES[kind], read_lines(path))
        raise UserError(f"{path} is not a {kind.lstrip('.')} table: {str(error).splitlines()[0]}") from None
    if frame.width and frame[frame.columns[-1]].null_count():  # where a line that is too short would show
        _refuse_ragged(path, _TABLES[kind], read_lines(path))
    return frame


def table_index(path: Path, columns: Sequence[str] = ("chrom", "pos")) -> tuple[Index | None, str]:
    """Return the index of a table; or None, and why there is none that can be believed.

    Raises:
        UserError: the file is missing, or lacks one of the columns, among which chrom and pos must be.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    if _TABLES.get(file_kind(path)) != "\t":
        return None, f"{path} is not a bgzipped TSV"
    names = header_of(path, "\t")[0].names
    own = table_columns(names, columns, path)
    return find_index(path, (names.index(own["chrom"]), names.index(own["pos"])))


def frame_within(
    path: Path, within: Within | None, columns: Sequence[str] = ("chrom", "pos"), *, as_written: bool = False
) -> tuple[Any, Path | None, str]:
    """Read the rows of a table that are in regions.

    Args:
        path: the table.
        within: the regions; None: every row is read.
        columns: which it must have where there are regions; chrom and pos are among them.
        as_written: see `read_frame`.

    Returns:
        a polars frame; the index by which it was read; and why the whole file was, where there was none.

    Raises:
        UserError: the file is missing or damaged, or lacks a column.
    """
    import polars as pl

    if within is None:
        return read_frame(path, as_written=as_written), None, ""
    index, why = table_index(path, columns)
    if index is not None:
        return _read_indexed(path, header_of(path, "\t")[0], index, within, as_written), index.path, ""
    frame = read_frame(path, as_written=as_written)
    own = table_columns(frame.columns, columns, path)
    places = zip(frame[own["chrom"]].cast(pl.String), positions_of(frame[own["pos"]], path).tolist(), strict=True)
    inside = [name is not None and within.has(name, position) for name, position in places]
    return frame.filter(pl.Series(inside, dtype=pl.Boolean)), None, why


def _read_indexed(path: Path, given: "Header", index: Index, within: Within, as_written: bool) -> Any:
    """Read the rows of regions by an index."""
    import polars as pl

    lines = [line + b"\n" for line in lines_of(path, index, within)]
    _refuse_ragged(
        path, "\t", ((f"{n} of the regions", line) for n, line in enumerate(lines, start=1)), len(given.names)
    )
    first = ["\t".join(given.names).encode() + b"\n"] if given.there else []
    try:
        return _read_text(b"".join(first + lines), given, "\t", as_written)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{path} is not a tsv table: {str(error).splitlines()[0]}") from None


def _read_text(source: Path | bytes, given: "Header", separator: str, as_written: bool) -> Any:
    import polars as pl

    return pl.read_csv(
        source,
        separator=separator,
        has_header=given.there,
        new_columns=None if given.there else given.names,
        infer_schema=not as_written,
        **({} if as_written else _types(given.names)),
    )


def _types(names: Sequence[str]) -> dict[str, Any]:
    """Return how polars finds the types of a text table's columns."""
    import polars as pl

    text = {name: pl.String for name in names if _plain(name) in ("chrom", "ref", "alt")}
    return {"schema_overrides": text, "infer_schema_length": None, "null_values": ["", "NA", "nan", "NaN"]}


def with_types(frame: Any) -> Any:
    """Return a frame that was read as written with the types that its columns have; 007 is a name, not a number."""
    import polars as pl

    how = _types(frame.columns)
    names = [name for name in frame.columns if frame[name].str.contains(r"^[+-]?0[0-9]").any()]
    how["schema_overrides"] |= dict.fromkeys(names, pl.String)
    return pl.read_csv(frame.write_csv().encode(), **how)


def table_columns(columns: Sequence[str], wanted: Sequence[str], path: Path) -> dict[str, str]:
    """Return name → the table's own column.

    Raises:
        UserError: one is missing, or could be several.
    """
    found = {name: _column(columns, name, path) for name in wanted}
    if missing := [name for name, own in found.items() if own is None]:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)}")
    return {name: own for name, own in found.items() if own is not None}


def positions_of(column: Any, path: Path) -> np.ndarray:
    """Return the positions in a polars series, (n,) int64.

    Raises:
        UserError: one is not a whole number.
    """
    import polars as pl

    position = column.cast(pl.Float64, strict=False) if column.dtype in (pl.String, pl.Null) else column
    if not (position.dtype.is_numeric() or position.dtype == pl.Null):
        raise UserError(f"{path}: the column pos holds {column.dtype} instead of whole numbers")
    if not position.dtype.is_integer():  # 1.5 is no position
        position = position.set(position != position.cast(pl.Int64, strict=False), None)
    position = position.cast(pl.Int64, strict=False)
    if position.null_count():
        row = int(position.is_null().arg_max() or 0)
        raise UserError(f"{path}, row {row + 1}: the position {column[row]!r} is not a whole number")
    return position.to_numpy()


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


@dataclass(frozen=True)
class Header:
    """The columns of a text table."""

    names: list[str]
    there: bool
    """Whether the file has it; else its columns are recognised."""


_ALLELE = re.compile(r"[ACGTNacgtn]+(,[ACGTNacgtn*]+)*|[.*]|<.*>")


def header_of(path: Path, separator: str, *, comments: bool = False) -> tuple[Header, list[str]]:
    """Return the names of a text table's columns, and its first row.

    Names of a table without a header line are told by what its columns hold.

    Args:
        path: the table.
        separator: of its fields.
        comments: whether lines that begin with ## may stand before it.

    Raises:
        UserError: it is a VCF, or a table without a header whose columns could be several things.
    """
    lines = (line.decode(errors="replace").rstrip("\r\n") for _, line in read_lines(path))
    first = next(lines, "")
    while comments and first.startswith("##") and not first.startswith("##fileformat"):
        first = next(lines, "")
    if first.startswith("##"):
        remedy = "name it .vcf or .vcf.gz" if first.startswith("##fileformat") else "leave such lines out"
        raise UserError(f"{path} begins like a VCF ({first[:30]}); {remedy}")
    fields = [field.strip('"') for field in first.split(separator)]
    if len(fields) < 4 or not re.fullmatch(r"[0-9]+", fields[1]):
        if twice := [name for name in fields if fields.count(name) > 1]:
            raise UserError(f"{path} has two columns named {twice[0]!r}; rename one of them")
        return Header(fields, True), next(lines, "").split(separator)
    alleles = [_ALLELE.fullmatch(field) is not None for field in fields]
    plain, with_id = alleles[2] and alleles[3], len(fields) > 4 and alleles[3] and alleles[4]
    if plain == with_id:
        raise UserError(
            f"{path} has no header line, and its columns could be several things; add a first line with chrom, pos, "
            "ref and alt"
        )
    known = ["chrom", "pos", *(["id"] if with_id else []), "ref", "alt"]
    return Header([*known, *(f"column_{i + 1}" for i in range(len(known), len(fields)))], False), fields


def _refuse_ragged(path: Path, separator: str, lines: Iterable[tuple[int | str, bytes]], expected: int = 0) -> None:
    """Name the first line that is no UTF-8, or has another number of fields than the first line, or than `expected`.

    Raises:
        UserError: there is one.
    """
    for number, line in lines:
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise UserError(f"{path}, line {number} is not UTF-8 text") from None
        n = text.count(separator) + 1
        expected = expected or n
        if text and '"' not in text and n != expected:
            raise UserError(f"{path}, line {number}: {n} fields instead of {expected}; is the file cut off?")


def refuse_unwritable(frame: Any, out: Path) -> None:
    """Refuse columns that the format of an output cannot hold.

    Raises:
        UserError: there is one.
    """
    import polars as pl

    if file_kind(out) == "parquet":
        return
    for name, kind in zip(frame.columns, frame.dtypes, strict=True):
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            raise UserError(f"the column {name} holds {kind}, which {out} cannot; name an --out that ends in .parquet")


def write_frame(frame: Any, out: Path) -> None:
    """Write a polars frame atomically, in the format of the suffix."""
    kind = file_kind(out)
    with atomic_path(out) as temporary:
        if kind == "parquet":
            frame.write_parquet(temporary)
        else:
            with open_to_write(temporary) as target:
                target.write(frame.write_csv(separator=_TABLES[kind]).encode())
