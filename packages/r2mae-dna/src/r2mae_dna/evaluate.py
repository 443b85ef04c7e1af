"""Evaluation of scores against labels: every score column on the same rows (paper, 4.2 and C.7)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from r2mae_core import (
    Compare,
    Direction,
    Record,
    UserError,
    check_output,
    device_name,
    fingerprint,
    left_out,
    open_run,
    print_comparison,
    report,
    resolved,
    say,
    stamped,
)
from r2mae_dna.data.variants import PREFIX, STATUS_COLUMN, TABLE_COLUMNS, file_kind, read_frame
from r2mae_dna.data.vcf import COMMON_FREQUENCY, RARE_COPIES, VcfFile, read_vcf_frame
from r2mae_dna.metrics import Interval, Metric, auprc, auroc, partial_auroc, with_interval
from r2mae_dna.options import Evaluate

RANK_BY: dict[str, Direction] = {"auroc": "max", "auprc": "max", "partial_auroc": "max"}
_LABELS: dict[str, bool] = {
    "true": True, "1": True, "1.0": True, "pathogenic": True,
    "false": False, "0": False, "0.0": False, "benign": False, "common": False,
}  # fmt: skip
# Numeric columns that are not scores.
_ANNOTATIONS = {"pos", "start", "end", "qual", "maf", "af", "ac", "an", "label", "id", "tss_dist"}


@dataclass(frozen=True)
class Labelled:
    """Rows with a value in every score column, and counts of what was left out."""

    labels: np.ndarray
    """(n,) bool: the damaging class."""
    damage: dict[str, np.ndarray]
    """Score column → (n,) float64, signed so that it grows with the damage."""
    groups: np.ndarray | None
    """(n,) names of classes, if the table has them."""
    n_read: int
    n_duplicates: int
    """Rows of variants that appear more than once."""
    n_unlabelled: int
    n_missing: int
    """Rows where some score is missing."""

    def text(self) -> str:
        """Return the counts as one line."""
        skipped = {
            "without a label": self.n_unlabelled,
            "duplicates": self.n_duplicates,
            "with a missing score": self.n_missing,
        }
        n_positive = int(self.labels.sum())
        n_negative = len(self.labels) - n_positive
        return f"{n_positive:,} positive and {n_negative:,} negative of {self.n_read:,} rows; {left_out(skipped)}"


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


def load_labelled(config: Evaluate) -> Labelled:
    """Read the table and keep the rows that can be evaluated.

    Raises:
        UserError: a column is missing, a label is unknown, or a class is empty.
    """
    import polars as pl

    frame, label, scores = _read(config)
    n_read = len(frame)
    truth = parse_labels(frame[label], f"{config.table}, column {label}")
    numbers = [_numbers(frame[name], f"{config.table}, column {name}") for name in scores]
    frame = frame.with_columns(truth.alias("_truth"), *numbers)
    labelled = frame.filter(pl.col("_truth").is_not_null())
    n_unlabelled = n_read - len(labelled)
    unique = labelled
    if not config.keep_duplicates and all(name in frame.columns for name in TABLE_COLUMNS):
        unique = labelled.unique(list(TABLE_COLUMNS), keep="none", maintain_order=True)
    complete = unique.drop_nulls(scores)
    labels = complete["_truth"].to_numpy()
    n_positive = int(labels.sum())
    if n_positive == 0 or n_positive == len(labels):
        raise UserError(
            f"{config.table}: {n_positive} positive and {len(labels) - n_positive} negative rows are left of {n_read} "
            f"({n_unlabelled} without a label, {len(labelled) - len(unique)} duplicates, "
            f"{len(unique) - len(complete)} with a missing score); both classes are needed"
        )
    sign = 1.0 if config.higher_is_worse else -1.0
    groups = None
    if config.group in complete.columns:
        if complete[config.group].dtype.is_nested():
            raise UserError(f"{config.table}, column {config.group}: names of classes are needed")
        groups = complete[config.group].cast(pl.String).to_numpy()
    return Labelled(
        labels,
        {name: sign * complete[name].to_numpy() for name in scores},
        groups,
        n_read,
        len(labelled) - len(unique),
        n_unlabelled,
        len(unique) - len(complete),
    )


def _numbers(values: Any, where: str) -> Any:
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


def _read(config: Evaluate) -> tuple[Any, str, list[str]]:
    """Return (frame, name of the label column, score columns)."""
    import polars as pl

    if config.preset == "rare-common":
        if file_kind(config.table) != "vcf":
            raise UserError("--preset rare-common reads a VCF with AC and AN in its INFO")
        scores = list(config.scores) or _vcf_scores(config)
        frame = read_vcf_frame(config.table, list(dict.fromkeys(["AC", "AN", *scores])))
        copies, share = pl.col("AC"), (pl.col("AC") / pl.col("AN")).fill_nan(None)
        rare = copies.is_between(1, RARE_COPIES)
        common = pl.min_horizontal(share, 1 - share) > COMMON_FREQUENCY
        label = pl.when(rare).then(True).when(common).then(False).alias("label")
        return frame.with_columns(label), "label", scores
    if file_kind(config.table) == "vcf":
        raise UserError(
            "a VCF has labels only for --preset rare-common; score into .tsv or .parquet to keep a label column"
        )
    frame = read_frame(config.table)
    if config.label not in frame.columns:
        raise UserError(f"{config.table} has no label column {config.label!r}; it has {', '.join(frame.columns)}")
    if missing := [name for name in config.scores if name not in frame.columns]:
        raise UserError(f"{config.table} has no score column {missing[0]!r}; it has {', '.join(frame.columns)}")
    return frame, config.label, list(config.scores) or _score_columns(frame, config)


def _vcf_scores(config: Evaluate) -> list[str]:
    """Return the names of our own scores in a VCF's header."""
    prefix = f"##INFO=<ID={PREFIX.upper()}"
    names = [line.split("ID=", 1)[1].split(",")[0] for line in VcfFile(config.table).meta if line.startswith(prefix)]
    if names := [name for name in names if name != STATUS_COLUMN.upper()]:
        return names
    raise UserError(f"{config.table} contains no scores; run r2mae-dna score first, or name INFO fields with --scores")


def _score_columns(frame: Any, config: Evaluate) -> list[str]:
    """Return every numeric column that is not an annotation, ours first."""
    skip = {*_ANNOTATIONS, config.label.lower(), config.group.lower(), STATUS_COLUMN}
    names = [
        name
        for name, kind in zip(frame.columns, frame.dtypes, strict=True)
        if kind.is_numeric() and name.lower() not in skip
    ]
    if not names:
        raise UserError(f"{config.table} has no numeric column to evaluate; name one with --scores")
    return sorted(names, key=lambda name: not name.startswith(PREFIX))


def evaluate_table(config: Evaluate) -> tuple[list[Record], dict[tuple[str, str], Interval], Labelled]:
    """Evaluate every score column; return records, intervals by (score, metric), and the rows.

    Raises:
        UserError: see `load_labelled`.
    """
    data = load_labelled(config)
    metrics: dict[str, Metric] = {"auroc": auroc, "auprc": auprc}
    if config.preset != "clinvar":
        metrics["partial_auroc"] = partial_auroc(config.max_fpr)
    task = config.preset or config.table.name.partition(".")[0]
    records: list[Record] = []
    intervals: dict[tuple[str, str], Interval] = {}
    for i, (name, damage) in enumerate(data.damage.items()):
        scheme = config.scheme if i == 0 and config.scheme else name
        for metric, function in metrics.items():
            found = with_interval(function, data.labels, damage, config.bootstrap, config.seed)
            intervals[scheme, metric] = found
            records.append(Record(task, metric, found.value, scheme, config.seed, len(damage)))
        if config.preset != "clinvar":
            for group, rows in _groups(data):
                value = auprc(data.labels[rows], damage[rows])
                records.append(Record(f"{task} {group}", "auprc", value, scheme, config.seed, len(rows)))
    return records, intervals, data


def _groups(data: Labelled) -> list[tuple[str, np.ndarray]]:
    """Return (name, rows) of every class that has both labels."""
    if data.groups is None:
        return []
    rows = [(str(name), np.flatnonzero(data.groups == name)) for name in np.unique(data.groups.astype(str))]
    return [(name, r) for name, r in rows if 0 < data.labels[r].sum() < len(r)]


def evaluate_command(config: Evaluate) -> None:
    """`r2mae-dna evaluate`."""
    from r2mae_dna.plots import plot_curves

    if config.out is not None:
        check_output(config.out, [config.table])
    before = fingerprint(config.table) if config.table.is_file() else {}
    records, intervals, data = evaluate_table(config)
    with open_run("r2mae-dna", "evaluate", config.out, resolved(config), sources=before) as run:
        names = list(dict.fromkeys(record.scheme for record in records))
        curves = plot_curves(data.labels, dict(zip(names, data.damage.values(), strict=True)))
        figure = run.save_figure("curves.png", curves)
        say(data.text())
        report(run, stamped(records, device_name("cpu")), RANK_BY, str(config.table))
        for (name, metric), found in intervals.items():
            if found.low is not None:
                say(f"{name} {metric}: {found.value:.4f} (95 % interval {found.low:.4f} to {found.high:.4f})")
        say(f"Figure: {figure}")
        say(f"Done: {run.path} (results.json, table.md)")


def compare_command(config: Compare) -> None:
    """`r2mae-dna compare`."""
    print_comparison(config, RANK_BY)
