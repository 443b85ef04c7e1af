"""Scores that were computed before, looked up: those of `scan`, or any table of the same columns with an index.

Statuses are those of a network, but that a site or an allele without a score has one of its own; the reference base of
a site is the table's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, fingerprint, read_json
from r2mae_dna.data.aliases import Names
from r2mae_dna.data.file_genome import UNKNOWN
from r2mae_dna.data.index import IndexedLines, find_index
from r2mae_dna.data.new_folders import digest_of
from r2mae_dna.data.sites import classify
from r2mae_dna.data.tables import TABLE_COLUMNS, file_kind, header_of, table_columns
from r2mae_dna.data.variants import (
    NO_ALLELE,
    NO_SITE,
    NOT_FINITE,
    OUTSIDE,
    PREFIX,
    REF_MISMATCH,
    SCORED,
    STATUS_COLUMN,
    Alleles,
    Result,
)
from r2mae_dna.data.vcf import VcfFile, info_values
from r2mae_dna.scan_output import SUMMARY

MAX_GAP = 1000
"""Positions between two sites that are read together: going on is then quicker than looking into the index again."""
_NOTHING = ("", ".", "NA", "nan", "NaN")
_Rows = dict[int, dict[str, dict[str, float]]]
"""Position, from 1 → reference base → another base → score."""


class ScanTable:
    """A bgzipped, indexed TSV (chrom, pos, ref, alt and scores, with or without a header line) or VCF of scores.

    Args:
        path: the file.
        column: which score, if there are several: a column, or an INFO field.

    Raises:
        UserError: the file is missing, has no index that can be believed, or no such score, or several.
    """

    def __init__(self, path: Path, column: str = "") -> None:
        if not path.is_file():
            raise UserError(f"no file {path}")
        kind = file_kind(path)
        if kind not in ("vcf", ".tsv", ".txt") or path.suffix.lower() == ".bcf":
            raise UserError(f"{path}: scores are looked up in a bgzipped TSV or VCF (.tsv.gz, .vcf.gz)")
        self.path, self._vcf = path, kind == "vcf"
        if self._vcf:
            self.column, places, self._at = _info_field(path, column), (0, 1), dict[str, int]()
        else:
            self.column, self._at = _score_column(path, column)
            places = (self._at["chrom"], self._at["pos"])
        index, why = find_index(path, places)
        if index is None:
            how = "-p vcf" if self._vcf else f"-s {places[0] + 1} -b {places[1] + 1} -e {places[1] + 1}"
            raise UserError(
                f"{why}; scores are looked up by one: sort the file by chromosome and position, and run "
                f"`bgzip` and `tabix {how} {path.name}`"
            )
        self._lines = IndexedLines(path, index)
        self.chromosomes: Sequence[str] = self._lines.chromosomes

    @property
    def lengths(self) -> Mapping[str, int]:
        """Name → a length beyond all: the table does not say it."""
        return dict.fromkeys(self.chromosomes, UNKNOWN)

    def chromosome(self, name: str) -> str | None:
        """Return the table's name of a chromosome; None if it has none."""
        return self._names.chromosome(name)

    @cached_property
    def _names(self) -> Names:
        return Names(self)

    @cached_property
    def source(self) -> dict[str, Any]:
        """Origin of the scores, for headers: with what `scan` noted beside the file."""
        beside, noted = self.path.with_name(SUMMARY), dict[str, Any]()
        if beside.is_file():
            scan = read_json(beside)
            if isinstance(scan, dict) and self.path.name in scan.get("files", ()):
                names = ("Model", "ModelDigest", "Alignment", "AlignmentDigest", "Window")
                noted = {name: scan["settings"][name] for name in names if name in scan.get("settings", {})}
        digest = digest_of({"file": fingerprint(self.path), "column": self.column})
        return {**noted, "Scan": self.path.name, "ScanColumn": self.column, "ScanDigest": digest}

    def look_up(self, alleles: Alleles, names: Names) -> Result:
        """Return the scores of a stretch of a variant file, those of several changed bases summed.

        Args:
            alleles: of the file.
            names: their chromosomes in the table.

        Raises:
            UserError: the table is damaged, a score is not a number, or one change has two.
        """
        known = {pair: classify(*pair)[0] for pair in set(zip(alleles.reference, alleles.alternative, strict=True))}
        pairs = zip(alleles.reference, alleles.alternative, strict=True)
        status = np.array([known[pair] for pair in pairs], np.uint8)
        wanted: dict[str, set[int]] = {}
        for i in np.flatnonzero(status == SCORED).tolist():
            own, first = names.find(alleles.chromosome[i]), int(alleles.position[i])
            if own is None or first < 1:
                status[i] = OUTSIDE
            else:
                wanted.setdefault(own, set()).update(range(first, first + len(alleles.reference[i])))
        rows = {own: self._rows(own, sorted(positions)) for own, positions in wanted.items()}
        llr = np.full(len(status), np.nan, np.float32)
        for i in np.flatnonzero(status == SCORED).tolist():
            of = rows[names.find(alleles.chromosome[i]) or ""]
            texts = alleles.reference[i].upper(), alleles.alternative[i].upper()
            status[i], llr[i] = _sum(of, int(alleles.position[i]), *texts)
        return Result(llr, status)

    def _rows(self, chromosome: str, positions: Sequence[int]) -> _Rows:
        """Return the table's scores at ascending positions."""
        found: _Rows = {position: {} for position in positions}
        first = 0
        for i in range(1, len(positions) + 1):
            if i < len(positions) and positions[i] - positions[i - 1] <= MAX_GAP:
                continue
            for line in self._lines.fetch(chromosome, positions[first] - 1, positions[i - 1]):
                self._add(line, found)
            first = i
        return found

    def _add(self, line: bytes, found: _Rows) -> None:
        """Add the scores of a line, if it is of a single base at a wanted position."""
        fields = line.decode(errors="surrogateescape").split("\t")
        try:
            site = found.get(position := int(fields[1 if self._vcf else self._at["pos"]]))
            if site is None:
                return
            single = [each for each in self._changes(fields) if len(each[0]) == len(each[1]) == 1]
            scores = [math.nan if text in _NOTHING else float(text) for *_, text in single]
        except (IndexError, ValueError):
            shown = line[:80].decode(errors="replace")
            raise UserError(f"{self.path}: {shown!r} is no line of scores ({self.column})") from None
        for (reference, alternative, text), score in zip(single, scores, strict=True):
            of = site.setdefault(reference.upper(), {})
            if text not in _NOTHING and of.setdefault(alternative.upper(), score) != score:
                raise UserError(
                    f"{self.path} has two scores ({self.column}) of {fields[0]}:{position} {reference}>{alternative}, "
                    f"{of[alternative.upper()]:g} and {score:g}; one is needed"
                )

    def _changes(self, fields: list[str]) -> Iterator[tuple[str, str, str]]:
        """Yield reference, alternative and the score's text of a line."""
        if not self._vcf:
            yield fields[self._at["ref"]], fields[self._at["alt"]], fields[self._at["score"]].strip()
            return
        alternatives = fields[4].split(",")
        values = info_values(fields).get(self.column, "").split(",")
        if len(values) not in (1, len(alternatives)):
            raise ValueError("another number of scores")
        for i, alternative in enumerate(alternatives):
            yield fields[3], alternative, values[i] if len(values) > 1 else values[0]


def _sum(rows: _Rows, first: int, reference: str, alternative: str) -> tuple[int, float]:
    """Return the status of an allele and the sum over its changed bases."""
    total, lacks, absent = 0.0, False, False
    for k, (own, other) in enumerate(zip(reference, alternative, strict=True)):
        site = rows[first + k]
        if site and own not in site:
            return REF_MISMATCH, math.nan
        absent |= not site
        if site and own != other:
            lacks |= other not in site[own]
            total += site[own].get(other, 0.0)
    if absent or lacks:
        return NO_SITE if absent else NO_ALLELE, math.nan
    return (SCORED, total) if math.isfinite(total) else (NOT_FINITE, math.nan)


def _score_column(path: Path, wanted: str) -> tuple[str, dict[str, int]]:
    """Return the name of a TSV's score, and where the columns are.

    Raises:
        UserError: there is none, or one must be named.
    """
    header, first = header_of(path, "\t", comments=True)
    own = table_columns(header.names, TABLE_COLUMNS, path)
    at = {name: header.names.index(column) for name, column in own.items()}
    scores = [
        name for name, text in zip(header.names, first, strict=False) if name not in own.values() and _is_number(text)
    ]
    return (name := _chosen(path, scores, header.names, wanted)), {**at, "score": header.names.index(name)}


def _info_field(path: Path, wanted: str) -> str:
    fields = [line.split("ID=", 1)[1].split(",")[0] for line in VcfFile(path).meta if line.startswith("##INFO=<ID=")]
    ours = [name for name in fields if name.startswith(PREFIX.upper()) and name != STATUS_COLUMN.upper()]
    return _chosen(path, ours, fields, wanted)


def _chosen(path: Path, scores: Sequence[str], names: Sequence[str], wanted: str) -> str:
    if wanted:
        if wanted not in names:
            raise UserError(f"{path} has no score {wanted!r}; it has {', '.join(names)}")
        return wanted
    ours = [name for name in scores if name.lower().startswith(PREFIX)]
    chosen = ours if len(ours) == 1 else scores
    if len(chosen) != 1:
        has = f"the scores {', '.join(chosen)}" if chosen else f"{', '.join(names)}, and no score that can be told"
        raise UserError(f"{path} has {has}; name one with --scan_column")
    return chosen[0]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
