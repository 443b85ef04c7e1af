"""Labelled variants: which rows of a table or VCF are positive, and which columns are scores."""

from dataclasses import dataclass, replace
from typing import Any

from r2mae_core import UserError, refuse_options
from r2mae_dna.data.clinvar import read_clinvar
from r2mae_dna.data.file_genome import genome_of
from r2mae_dna.data.index import find_index
from r2mae_dna.data.tables import file_kind, frame_within, table_index
from r2mae_dna.data.variants import PREFIX, STATUS_COLUMN
from r2mae_dna.data.vcf import COMMON_FREQUENCY, RARE_COPIES, VcfFile, read_vcf_frame
from r2mae_dna.data.within import Within, within_of
from r2mae_dna.options import Evaluate

FREQUENCY = "_frequency"
"""Column of minor-allele frequencies, with --preset gnomad."""
_LABELS: dict[str, bool] = {
    "true": True, "1": True, "1.0": True, "pathogenic": True,
    "false": False, "0": False, "0.0": False, "benign": False, "common": False,
}  # fmt: skip
# Numeric columns that are not scores.
_ANNOTATIONS = {
    "pos", "start", "end", "qual", "maf", "af", "ac", "an", "label", "id", "tss_dist", "exon_dist", "pip", "ld_score",
    "match_group", "_frequency",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A file of variants, read."""

    frame: Any
    """polars; a row per allele."""
    label: str
    """Column of labels."""
    scores: list[str]
    """Columns of scores."""
    skipped: dict[str, int]
    """Reason → rows that the preset leaves out, which are not in the frame."""
    regions: str = ""
    """To which regions the file was restricted, and how they were read."""


def read_source(config: Evaluate) -> Source:
    """Read what is to be evaluated.

    Raises:
        UserError: the file is damaged, or has not what the preset needs.
    """
    given = bool(config.regions.strip()) or config.bed is not None
    within = within_of(config.regions, config.bed, genome_of(config.table)) if given else None
    source = _read(config, within)
    if within is None:
        return source
    index, why = (find_index if file_kind(config.table) == "vcf" else table_index)(config.table)
    return replace(source, regions=within.read_by(None if index is None else index.path, why))


def _read(config: Evaluate, within: Within | None) -> Source:
    kind = file_kind(config.table)
    if config.preset == "clinvar" and kind == "vcf":
        scores = list(config.scores) or _vcf_scores(config)
        frame, skipped = read_clinvar(
            config.table, scores, stars=config.stars, likely=config.likely, consequence=config.molecular_consequence,
            within=within,
        )  # fmt: skip
        return Source(frame, "label", scores, skipped)
    if config.preset == "rare-common":
        return _rare_common(config, kind, within)
    if config.preset == "gnomad":
        return _gnomad(config, kind, within)
    if kind == "vcf":
        raise UserError(
            "a VCF has labels only for --preset rare-common, gnomad and clinvar; score into .tsv or .parquet to keep a "
            "label column"
        )
    own: dict[str, str] = dict.fromkeys(("stars", "likely", "molecular_consequence"), "ClinVar's own VCF")
    refuse_options(config, own, f"the table {config.table}")
    frame, *_ = frame_within(config.table, within)
    if config.label not in frame.columns:
        raise UserError(f"{config.table} has no label column {config.label!r}; it has {', '.join(frame.columns)}")
    return Source(frame, config.label, _table_scores(frame, config), {})


def _rare_common(config: Evaluate, kind: str, within: Within | None) -> Source:
    import polars as pl

    if kind != "vcf":
        raise UserError("--preset rare-common reads a VCF with AC and AN in its INFO")
    scores = list(config.scores) or _vcf_scores(config)
    frame = read_vcf_frame(config.table, list(dict.fromkeys(["AC", "AN", *scores])), within)
    copies, share = pl.col("AC"), (pl.col("AC") / pl.col("AN")).fill_nan(None)
    rare = copies.is_between(1, RARE_COPIES)
    common = pl.min_horizontal(share, 1 - share) > COMMON_FREQUENCY
    label = pl.when(rare).then(True).when(common).then(False).alias("label")
    return Source(frame.with_columns(label), "label", scores, {})


def _gnomad(config: Evaluate, kind: str, within: Within | None) -> Source:
    """Read variants with allele frequencies: AF, or AC and AN, of a VCF's INFO or of a table's columns."""
    import polars as pl

    if kind == "vcf":
        scores = list(config.scores) or _vcf_scores(config)
        has = {line.split("ID=", 1)[1].split(",")[0] for line in VcfFile(config.table).meta if "INFO=<ID=" in line}
        fields = ["AF"] if "AF" in has else ["AC", "AN"]
        if missing := [name for name in fields if name not in has]:
            raise UserError(f"{config.table}: --preset gnomad needs AF, or AC and AN, in INFO; {missing[0]} is missing")
        frame = read_vcf_frame(config.table, list(dict.fromkeys([*fields, *scores])), within)
    else:
        frame, *_ = frame_within(config.table, within)
        scores = _table_scores(frame, config)
        known = {name.lower(): name for name in frame.columns}
        fields = [known[name] for name in (("af",) if "af" in known else ("ac", "an")) if name in known]
        if len(fields) != (1 if "af" in known else 2):
            raise UserError(f"{config.table}: --preset gnomad needs a column AF, or AC and AN")
    try:
        numbers = [frame[name].cast(pl.Float64) for name in fields]
    except pl.exceptions.InvalidOperationError as error:
        raise UserError(f"{config.table}: frequencies must be numbers: {str(error).splitlines()[0]}") from None
    share = (numbers[0] if len(numbers) == 1 else numbers[0] / numbers[1]).fill_nan(None)
    if (wrong := share.filter((share < 0) | (share > 1))).len():
        raise UserError(f"{config.table}: {wrong[0]:g} is no allele frequency; they lie between 0 and 1")
    frequency = pl.Series([None if f is None or f in (0.0, 1.0) else min(f, 1 - f) for f in share], dtype=pl.Float64)
    keep = frequency.is_not_null()
    skipped = {"without a frequency between 0 and 1": len(frame) - int(keep.sum())}
    frame = frame.with_columns(frequency.alias(FREQUENCY), (frequency <= COMMON_FREQUENCY).alias("label"))
    return Source(frame.filter(keep), "label", scores, skipped)


def parse_labels(values: Any, where: str) -> Any:
    """Return a polars series of true (damaging), false, and null for no label.

    Raises:
        UserError: a value is not true/false, 1/0, Pathogenic/Benign, Pathogenic/Common.
    """
    import polars as pl

    if values.dtype.is_nested():
        raise UserError(f"{where}: labels are needed, and it holds {values.dtype}")
    if values.dtype.is_float():
        values = values.fill_nan(None)
    text = values.cast(pl.String).str.to_lowercase().str.strip_chars()
    known = text.replace_strict(_LABELS, default=None, return_dtype=pl.Boolean)
    unknown = text.filter(known.is_null() & text.is_not_null()).unique().to_list()
    if unknown:
        raise UserError(
            f"{where}: labels must be true/false, 1/0, Pathogenic/Benign or Pathogenic/Common, got {unknown[0]!r}"
        )
    return known


def parse_numbers(values: Any, where: str) -> Any:
    """Return a polars series of floats, null where there is none.

    Raises:
        UserError: a value is not a number, or is infinite.
    """
    import polars as pl

    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise UserError(f"{where}: numbers are needed, and it holds {values.dtype}")
    if values.dtype == pl.String:
        values = values.str.strip_chars().replace([".", ""], None)
    numbers = values.cast(pl.Float64, strict=False)
    for wrong, what in (
        (numbers.is_null() & values.is_not_null(), "is not a number"),
        (numbers.is_infinite().fill_null(False), "is infinite"),
    ):
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise UserError(f"{where}, row {row + 1}: {values[row]!r} {what}")
    return numbers.fill_nan(None)


def _vcf_scores(config: Evaluate) -> list[str]:
    """Return the names of our own scores in a VCF's header; none where tracks alone are evaluated."""
    prefix = f"##INFO=<ID={PREFIX.upper()}"
    names = [line.split("ID=", 1)[1].split(",")[0] for line in VcfFile(config.table).meta if line.startswith(prefix)]
    if (names := [name for name in names if name != STATUS_COLUMN.upper()]) or config.tracks or config.scan:
        return names
    raise UserError(f"{config.table} contains no scores; run r2mae-dna score first, or name INFO fields with --scores")


def _table_scores(frame: Any, config: Evaluate) -> list[str]:
    """Return the named columns, or every numeric one that is not an annotation, ours first."""
    if missing := [name for name in config.scores if name not in frame.columns]:
        raise UserError(f"{config.table} has no score column {missing[0]!r}; it has {', '.join(frame.columns)}")
    skip = {*_ANNOTATIONS, config.label.lower(), config.group.lower(), config.match_group.lower(), STATUS_COLUMN}
    names = [
        name
        for name, kind in zip(frame.columns, frame.dtypes, strict=True)
        if kind.is_numeric() and name.lower() not in skip
    ]
    if not names and not config.scores and not config.tracks and not config.scan:
        raise UserError(f"{config.table} has no numeric column to evaluate; name one with --scores")
    return list(config.scores) or sorted(names, key=lambda name: not name.startswith(PREFIX))
