"""VCF: read as text, streamed, and written again with scores; everything else is kept unchanged."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, atomic_path, reading
from r2mae_dna.data.index import Index, find_index, lines_of
from r2mae_dna.data.tables import TABLE_COLUMNS, file_kind, write_frame
from r2mae_dna.data.text_files import open_to_write, read_lines, refuse_cut_bgzf, whole_number
from r2mae_dna.data.tracks import index_text
from r2mae_dna.data.variants import (
    RERUN,
    STATUS,
    STATUS_COLUMN,
    Alleles,
    Result,
    with_result,
)
from r2mae_dna.data.within import Within

RARE_COPIES, COMMON_FREQUENCY = 2, 0.05
"""A rare allele has at most so many copies, a common one a minor-allele frequency above this."""
_ENCODING = ("utf-8", "surrogateescape")  # bytes that are not UTF-8 are written back unchanged


class VcfFile:
    """A VCF file.

    Args:
        path: the file.
        within: only the records at these positions; by the index that lies beside the file, if it can be believed, else
            the others are read and left out.

    Raises:
        UserError: the file is missing, or has no header.
    """

    def __init__(self, path: Path, within: Within | None = None) -> None:
        self.path, self._within = path, within
        self.meta: list[str] = []
        self.columns: list[str] = []
        for number, item in self._every_item():
            line = _text(item)
            if line.startswith("##"):
                self.meta.append(line)
                continue
            if not line.startswith("#CHROM\t"):
                raise UserError(
                    f"{path}, line {number}: no #CHROM header; a headless list can be given as .tsv with a first line "
                    "of chrom, pos, ref, alt"
                )
            self.columns = line[1:].split("\t")
            break
        if len(self.columns) < 8:
            raise UserError(f"{path}: the #CHROM line needs the eight columns CHROM to INFO, separated by tabs")
        self._index, self.not_indexed = find_index(path) if within is not None else (None, "")
        """Why the whole file is read, where an index would do."""

    @property
    def index(self) -> Path | None:
        """The index by which regions are read."""
        return None if self._index is None else self._index.path

    def _every_item(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and the line of each header line and record, as `_text` takes it: not decoded yet."""
        return (
            read_lines(self.path) if self.path.suffix.lower() != ".bcf" else enumerate(_bcf_items(self.path), start=1)
        )

    def _items(self) -> Iterator[tuple[int | str, Any]]:
        """Yield the same; of the regions, if there are any, records alone."""
        if self._within is None:
            yield from self._every_item()
        elif self._index is None:
            yield from (each for each in self._every_item() if _is_record(each[1]) and _is_in(each[1], self._within))
        else:
            bcf = self.path.suffix.lower() == ".bcf"
            read = _bcf_of if bcf else lines_of
            for n, item in enumerate(read(self.path, self._index, self._within), start=1):
                yield f"{n} of the regions", item

    def records(self) -> Iterator[list[str]]:
        """Yield the fields of each record.

        Raises:
            UserError: a record is cut short, or its position is not a number.
        """
        return (fields for _, fields in self.numbered_records())

    def numbered_records(self) -> Iterator[tuple[int | str, list[str]]]:
        """Yield the line and the fields of each record; the errors are those of `records`."""
        return ((number, self._fields(number, item)) for number, item in self._items() if _is_record(item))

    def _fields(self, number: int | str, item: Any) -> list[str]:
        fields = _text(item).split("\t")
        if len(fields) < len(self.columns):
            raise UserError(
                f"{self.path}, line {number}: {len(fields)} fields instead of {len(self.columns)}; is the file cut "
                "off, or not separated by tabs?"
            )
        try:
            whole_number(fields[1])
        except ValueError:
            raise UserError(f"{self.path}, line {number}: the position {fields[1][:40]!r} is not a number") from None
        return fields

    def chunks(self, size: int) -> Iterator[Alleles]:
        """Yield stretches of `size` records."""
        return (alleles for alleles in self.chosen_chunks(size, lambda _: True) if alleles is not None)

    def chosen_chunks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Alleles | None]:
        """Yield stretches of `size` records; None for those, by their number from 0, that are not wanted.

        The lines of these are counted, and neither decoded nor split.
        """
        part, n, chosen = list[list[str]](), 0, False
        for number, item in self._items():
            if not _is_record(item):
                continue
            if n % size == 0:
                chosen = wanted(n // size)
            n += 1
            if chosen:
                part.append(self._fields(number, item))
            if n % size == 0:
                yield _alleles(part) if chosen else None
                part = []
        if n % size:
            yield _alleles(part) if chosen else None

    def write(self, out: Path, results: Iterable[Result], size: int, column: str, source: dict[str, Any]) -> None:
        """Write the file again with scores: as VCF, or as a table with a line per allele.

        A compressed VCF in the order of positions gets an index for tabix; an index of an older file is removed.

        Args:
            out: the output; its suffix sets the format.
            results: one per stretch, as `chunks` gave them.
            size: records of a stretch.
            column: name of the score, as `score_column` names it.
            source: the origin of the scores, for the header.
        """
        for suffix in (".tbi", ".csi"):  # of another file
            out.with_name(f"{out.name}{suffix}").unlink(missing_ok=True)
        if file_kind(out) == "vcf":
            order = _Order()
            with _vcf_writer(out) as target:
                for line in self._header(column.upper(), source):
                    target.write(f"{line}\n".encode(*_ENCODING))
                for part, result in self._with_results(results, size):
                    target.write("".join(_annotated(part, result, column.upper())).encode(*_ENCODING))
                    order.add(part)
            if order.ascending and order.last and out.suffix.lower() in (".gz", ".bgz"):
                index_text(out, order.last, vcf=True)
            return
        frames = []
        for part, result in self._with_results(results, size):
            frames.append(self._frame(part, result, column))
        write_frame(_joined(frames), out)

    def _with_results(self, results: Iterable[Result], size: int) -> Iterator[tuple[list[list[str]], Result]]:
        for part, result in zip(_groups(self.records(), size), results, strict=True):
            if (n := sum(fields[4].count(",") + 1 for fields in part)) != len(result.status):
                raise UserError(f"{len(result.status):,} scores for {n:,} alleles of {self.path}; {RERUN}")
            yield part, result

    def _header(self, name: str, source: dict[str, Any]) -> Iterator[str]:
        status = STATUS_COLUMN.upper()
        old = (f"##INFO=<ID={name},", f"##INFO=<ID={status},", f"##r2mae_dna=<ID={name},")
        yield from (line for line in self.meta if not line.startswith(old))
        yield (
            f'##INFO=<ID={name},Number=A,Type=Float,Description="Log-likelihood ratio of the alternative to the '
            'reference base, mean of both strands; lower is more deleterious">'
        )
        yield (
            f'##INFO=<ID={status},Number=A,Type=String,Description="Whether the allele was scored, or why not: '
            f'{", ".join(STATUS)}">'
        )
        values = ",".join(f'{key}="{value}"' for key, value in source.items())
        yield f"##r2mae_dna=<ID={name},{values}>"
        yield "#" + "\t".join(self.columns)

    def _frame(self, part: list[list[str]], result: Result, column: str) -> Any:
        import polars as pl

        rows = [(fields, alt) for fields in part for alt in fields[4].split(",")]
        names = [name.lower() if i < 8 else name for i, name in enumerate(self.columns)]
        data: dict[str, Any] = {name: [fields[i] for fields, _ in rows] for i, name in enumerate(names)}
        data["pos"] = [int(fields[1]) for fields, _ in rows]
        data["alt"] = [alt for _, alt in rows]
        return with_result(pl.DataFrame(data), result, column)


def _text(item: Any) -> str:
    """Return the line of an item: bytes, a text, or a record of pysam's."""
    return (item.decode(*_ENCODING) if isinstance(item, bytes) else str(item)).rstrip("\r\n")


def _is_record(item: Any) -> bool:
    return not isinstance(item, (bytes, str)) or item[:1] not in (b"", b"#", b"\r", b"\n", "", "#")


def _is_in(item: Any, within: Within) -> bool:
    """Return whether a record is in the regions; one without a position is, so that it is read and refused."""
    if not isinstance(item, bytes):
        return within.has(item.chrom, item.pos)
    fields = item.split(b"\t", 2)
    try:
        position = whole_number(fields[1])
    except (IndexError, ValueError):
        return True
    return within.has(fields[0].decode(*_ENCODING), position)


def _alleles(part: list[list[str]]) -> Alleles:
    alternatives = [fields[4].split(",") for fields in part]
    record = np.repeat(np.arange(len(part)), [len(alts) for alts in alternatives])
    rows = [part[i] for i in record]
    return Alleles(
        [row[0] for row in rows],
        np.array([int(row[1]) for row in rows], np.int64),
        [row[3] for row in rows],
        [alt for alts in alternatives for alt in alts],
        record,
    )


class _Order:
    """Whether records are in the order of positions, and each chromosome's are together."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        """Chromosome → its last position."""
        self.ascending = True
        self._current = ""

    def add(self, records: list[list[str]]) -> None:
        """Look at the next records."""
        for fields in records:
            name, position = fields[0], int(fields[1])
            fits = position >= self.last[name] if name == self._current else name not in self.last
            self.ascending &= fits and position > 0  # 0 is a telomere, which tabix cannot find
            self._current, self.last[name] = name, position


def _groups(items: Iterator[list[str]], size: int) -> Iterator[list[list[str]]]:
    group: list[list[str]] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def _vcf_writer(out: Path) -> Iterator[Any]:
    """Give a file to write the lines of a VCF to, atomically; of a BCF, they are converted at the end."""
    with atomic_path(out) as temporary:
        if out.suffix.lower() != ".bcf":
            with open_to_write(temporary) as target:
                yield target
            return
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".partial-") as scratch:
            text = Path(scratch) / "text.vcf.gz"
            with open_to_write(text) as target:
                yield target
            _to_bcf(text, temporary, out)


def _to_bcf(text: Path, target: Path, out: Path) -> None:
    import pysam

    try:
        with pysam.VariantFile(str(text)) as source, pysam.VariantFile(str(target), "wb", header=source.header) as bcf:
            for record in source:
                bcf.write(record)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot write {out}: {reason}; a BCF needs every chromosome, filter and field in its header: name .vcf.gz"
        ) from None


def _bcf_items(path: Path) -> Iterator[Any]:
    """Yield the header lines of a BCF, and its records as pysam gives them: their text is the line of a VCF.

    Raises:
        UserError: it is missing or damaged.
    """
    import pysam

    if not path.is_file():
        raise UserError(f"no file {path}")
    refuse_cut_bgzf(path)
    with reading(path, "a BCF file"):
        source = pysam.VariantFile(str(path))
    with source:
        yield from str(source.header).splitlines()
        records = iter(source)
        while True:
            with reading(path, "a BCF file"):
                record = next(records, None)
            if record is None:
                return
            yield record


def _bcf_of(path: Path, index: Index, within: Within) -> Iterator[Any]:
    """Yield the records of a BCF whose positions are in the regions.

    Raises:
        UserError: it is damaged.
    """
    import pysam

    with reading(path, "a BCF file"):
        source = pysam.VariantFile(str(path), index_filename=str(index.path))
    with source:
        for name in map(str, source.header.contigs):
            for start, end in within.intervals(name):
                with reading(path, "a BCF file"):
                    records = source.fetch(name, start, min(end, 2**31 - 2))
                while True:
                    with reading(path, "a BCF file"):
                        record = next(records, None)
                    if record is None:
                        break
                    if start < record.pos <= end:
                        yield record


def _annotated(part: list[list[str]], result: Result, name: str) -> Iterator[str]:
    i, status_name = 0, STATUS_COLUMN.upper()
    for fields in part:
        n = fields[4].count(",") + 1
        llr = ",".join("." if np.isnan(value) else f"{value:.6g}" for value in result.llr[i : i + n].tolist())
        status = ",".join(STATUS[code] for code in result.status[i : i + n])
        i += n
        old = (f"{name}=", f"{status_name}=")
        info = [item for item in fields[7].split(";") if item not in ("", ".") and not item.startswith(old)]
        info += [f"{name}={llr}", f"{status_name}={status}"]
        yield "\t".join([*fields[:7], ";".join(info), *fields[8:]]) + "\n"


def _joined(frames: Sequence[Any]) -> Any:
    import polars as pl

    return pl.concat(frames) if frames else pl.DataFrame()


def info_values(fields: Sequence[str]) -> dict[str, str]:
    """Return the INFO column of a record as key → value; a flag's value is empty."""
    values: dict[str, str] = {}
    for item in fields[7].split(";"):
        key, _, value = item.partition("=")
        values[key] = value
    return values


def read_vcf_frame(path: Path, info: Sequence[str], within: Within | None = None) -> Any:
    """Read a VCF as a table, a row per allele, with some INFO fields as numbers (null where absent).

    A field with one value per allele is split over the rows; a single value is repeated in all.

    Raises:
        UserError: a field's value is no number, or it has another number of values.
    """
    import polars as pl

    file = VcfFile(path, within)
    data: dict[str, list[Any]] = {name: [] for name in (*TABLE_COLUMNS, *info)}
    for number, fields in file.numbered_records():
        values = info_values(fields)
        alternatives = fields[4].split(",")
        for i, alternative in enumerate(alternatives):
            for name, value in zip(TABLE_COLUMNS, (fields[0], int(fields[1]), fields[3], alternative), strict=True):
                data[name].append(value)
            for name in info:
                parts = values.get(name, "").split(",")
                if len(parts) not in (1, len(alternatives)):
                    raise UserError(
                        f"{path}, line {number}: {name} has {len(parts)} values for {len(alternatives)} alleles"
                    )
                try:
                    data[name].append(_number(parts[i] if len(parts) == len(alternatives) else parts[0]))
                except ValueError:
                    raise UserError(f"{path}, line {number}: {name}={values[name][:40]} is not a number") from None
    schema = {"chrom": pl.String, "pos": pl.Int64, "ref": pl.String, "alt": pl.String}
    return pl.DataFrame(data, schema={**schema, **dict.fromkeys(info, pl.Float64)})


def _number(text: str) -> float | None:
    value = float("nan") if text in ("", ".") else float(text)
    return None if math.isnan(value) else value
