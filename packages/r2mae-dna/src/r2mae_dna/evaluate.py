"""Evaluation of scores against labels: every score column on the same rows (paper, 4.2 and C.7)."""

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
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
    resolved,
    say,
    show_table,
    stamped,
    write_json,
)
from r2mae_dna.combination import combine
from r2mae_dna.data.aliases import Names
from r2mae_dna.data.conservation import Track
from r2mae_dna.data.sites import BuildGuard
from r2mae_dna.data.tables import TABLE_COLUMNS, positions_of
from r2mae_dna.data.variants import STATUS, Alleles, Result
from r2mae_dna.data.vcf import COMMON_FREQUENCY
from r2mae_dna.labels import FREQUENCY, parse_labels, parse_numbers, read_source
from r2mae_dna.metrics import (
    Interval,
    Metric,
    auprc,
    auprc_by_chromosome,
    auroc,
    pairwise_accuracy,
    partial_auroc,
    with_interval,
)
from r2mae_dna.options import Evaluate
from r2mae_dna.scan_table import ScanTable

RANK_BY: dict[str, Direction] = dict.fromkeys(
    ("auroc", "auprc", "partial_auroc", "auprc_by_chromosome", "pairwise_accuracy"), "max"
)
MAX_MISMATCH, STRETCH = 0.05, 20_000
"""Share of reference alleles that may disagree with a scan's; variants that are looked up at once."""
COMBINED = "logistic regression of all"
FREQUENCY_BINS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, COMMON_FREQUENCY)
"""Bounds of the minor-allele frequencies that are compared with common alleles."""


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
    """Of the regions, if there are any."""
    skipped: dict[str, int]
    """Reason → rows that were left out."""
    chromosomes: np.ndarray | None = None
    """(n,) names, if the file has them."""
    matched: np.ndarray | None = None
    """(n,) names of matched groups, if the table has them."""
    frequencies: np.ndarray | None = None
    """(n,) float64: minor-allele frequencies, with `--preset gnomad`."""
    regions: str = ""
    """To which regions the file was restricted, and how they were read."""
    looked_up: tuple[str, ...] = ()
    """Of each --scan: how many variants have each status."""

    @property
    def n_duplicates(self) -> int:
        """Rows of variants that appear more than once."""
        return self.skipped["duplicates"]

    @property
    def n_unlabelled(self) -> int:
        """Rows without a label."""
        return self.skipped["without a label"]

    @property
    def n_missing(self) -> int:
        """Rows where some score is missing."""
        return self.skipped["with a missing score"]

    def text(self) -> str:
        """Return the counts as one line."""
        n_positive = int(self.labels.sum())
        n_negative = len(self.labels) - n_positive
        return f"{n_positive:,} positive and {n_negative:,} negative of {self.n_read:,} rows; {left_out(self.skipped)}"


def load_labelled(config: Evaluate) -> Labelled:
    """Read the table and keep the rows that can be evaluated.

    Raises:
        UserError: a column is missing, a label is unknown, or a class is empty.
    """
    import polars as pl

    source = read_source(config)
    frame, scores = source.frame, [*source.scores, *config.tracks]
    n_read = len(frame) + sum(source.skipped.values())
    truth = parse_labels(frame[source.label], f"{config.table}, column {source.label}")
    numbers = [parse_numbers(frame[name], f"{config.table}, column {name}") for name in source.scores]
    frame = frame.with_columns(truth.alias("_truth"), *numbers)
    labelled = frame.filter(pl.col("_truth").is_not_null())
    unique = labelled
    if not config.keep_duplicates and all(name in frame.columns for name in TABLE_COLUMNS):
        unique = labelled.unique(list(TABLE_COLUMNS), keep="none", maintain_order=True)
    if config.tracks:
        unique = with_tracks(unique, config)
    looked_up = list[str]()
    for path in config.scan:
        unique, line = with_scan(unique, ScanTable(path, config.scan_column), config)
        scores.append(unique.columns[-1])
        looked_up.append(line)
    complete = unique.drop_nulls(scores)
    labels = complete["_truth"].to_numpy()
    n_positive = int(labels.sum())
    skipped = {
        **source.skipped,
        "without a label": len(frame) - len(labelled),
        "duplicates": len(labelled) - len(unique),
        "with a missing score": len(unique) - len(complete),
    }
    if n_positive == 0 or n_positive == len(labels):
        raise UserError(
            f"{config.table}: {n_positive} positive and {len(labels) - n_positive} negative rows are left of {n_read} "
            f"({', '.join(f'{count} {reason}' for reason, count in skipped.items())}); both classes are needed"
        )
    data = Labelled(
        labels,
        {name: _damage(complete[name].to_numpy(), name, config) for name in scores},
        _names(complete, config.group, config),
        n_read,
        skipped,
        _names(complete, "chrom", config),
        _names(complete, config.match_group, config),
        complete[FREQUENCY].to_numpy() if FREQUENCY in complete.columns else None,
        source.regions,
        tuple(looked_up),
    )
    return with_combination(data) if config.combine else data


def _damage(values: np.ndarray, name: str, config: Evaluate) -> np.ndarray:
    """Return scores that grow with the damage; a track does already."""
    if name in config.tracks:
        return values
    return np.abs(values) if config.absolute else values if config.higher_is_worse else -values


def _names(frame: Any, column: str, config: Evaluate) -> np.ndarray | None:
    """Return a column of names, (n,) of str; None, if there is no such column.

    Raises:
        UserError: it holds lists.
    """
    import polars as pl

    if column not in frame.columns:
        return None
    if frame[column].dtype.is_nested():
        raise UserError(f"{config.table}, column {column}: names are needed")
    return frame[column].cast(pl.String).to_numpy()


def with_tracks(frame: Any, config: Evaluate) -> Any:
    """Return a polars frame with the tracks' values at the variants, null where a track has none.

    Raises:
        UserError: the frame has no positions, or a column of the track's name; or a track has no value at any variant.
    """
    import polars as pl

    if missing := [name for name in ("chrom", "pos") if name not in frame.columns]:
        raise UserError(f"{config.table} has no column {missing[0]}, which --phylop and --phastcons need")
    chromosomes = frame["chrom"].cast(pl.String).to_list()
    positions = parse_numbers(frame["pos"], f"{config.table}, column pos").cast(pl.Int64).to_list()
    for name, path in config.tracks.items():
        if name in frame.columns:
            raise UserError(f"{config.table} has a column {name} already; leave out --{name.lower()}, or rename it")
        track = Track(path, probability=name == "phastCons")
        values = [
            float("nan") if c is None or p is None or p < 1 else float(track.values(c, p - 1, p)[0])
            for c, p in zip(chromosomes, positions, strict=True)
        ]
        if len(values) and np.isnan(values).all():
            raise UserError(f"{path} has no value at any variant of {config.table}; is it of another genome?")
        frame = frame.with_columns(pl.Series(name, values, dtype=pl.Float64).fill_nan(None))
    return frame


def with_scan(frame: Any, table: ScanTable, config: Evaluate) -> tuple[Any, str]:
    """Return a polars frame with one more column, the table's scores of the variants, and their statuses in words.

    Raises:
        UserError: the frame lacks a column, most reference alleles disagree with the table's, or none has a score.
    """
    import polars as pl

    if missing := [name for name in TABLE_COLUMNS if name not in frame.columns]:
        raise UserError(f"{config.table} has no column {missing[0]}, which --scan needs")
    texts = [frame[name].cast(pl.String).fill_null(".").to_list() for name in ("chrom", "ref", "alt")]
    positions = positions_of(frame["pos"], config.table)
    names, guard, parts = Names(table), BuildGuard(MAX_MISMATCH, str(table.path)), list[Result]()
    for i in range(0, max(len(frame), 1), STRETCH):
        chromosome, reference, alternative = (text[i : i + STRETCH] for text in texts)
        part = positions[i : i + STRETCH]
        alleles = Alleles(chromosome, part, reference, alternative, np.arange(len(part)))
        parts.append(table.look_up(alleles, names))
        guard.check(parts[-1].status)
    result = Result(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("llr", "status")))
    counts = {name: int((result.status == i).sum()) for i, name in enumerate(STATUS)}
    line = f"{table.path}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    if not counts["scored"]:
        raise UserError(f"{line}; none of the variants has a score there")
    free = (table.column, f"{table.column} ({table.path.name})", f"{table.column} ({table.path})")
    name = next((name for name in free if name not in frame.columns), None)
    if name is None:
        raise UserError(f"--scan names {table.path} twice")
    return frame.with_columns(pl.Series(name, result.llr.astype(np.float64)).fill_nan(None)), line


def with_combination(data: Labelled) -> Labelled:
    """Return the rows with one more score: all others, by logistic regression with each chromosome held out.

    Raises:
        UserError: there is one score only, the file has no chromosomes, or too few.
    """
    if data.chromosomes is None:
        raise UserError("--combine holds chromosomes out, and the file has no column chrom")
    if len(data.damage) < 2:
        raise UserError(f"--combine needs two scores at least; the file has {', '.join(data.damage)}")
    combined = combine(np.stack([*data.damage.values()], 1), data.labels, data.chromosomes)
    return replace(data, damage={**data.damage, COMBINED: combined})


def evaluate_table(config: Evaluate) -> tuple[list[Record], dict[tuple[str, str], Interval], Labelled]:
    """Evaluate every score column; return records, intervals by (score, metric), and the rows.

    Raises:
        UserError: see `load_labelled`.
    """
    data = load_labelled(config)
    task = config.preset or config.table.name.partition(".")[0]
    records: list[Record] = []
    intervals: dict[tuple[str, str], Interval] = {}
    for i, (name, damage) in enumerate(data.damage.items()):
        scheme = config.scheme if i == 0 and config.scheme else name
        for metric, found in _metrics(data, damage, config).items():
            intervals[scheme, metric] = found
            records.append(Record(task, metric, found.value, scheme, config.seed, len(damage)))
        if config.preset != "clinvar":
            for group, rows in _groups(data):
                value = auprc(data.labels[rows], damage[rows])
                records.append(Record(f"{task} {group}", "auprc", value, scheme, config.seed, len(rows)))
        for bounds, rows in _frequency_bins(data):
            value = auroc(data.labels[rows], damage[rows])
            records.append(Record(f"{task} {bounds}", "auroc", value, scheme, config.seed, len(rows)))
    return records, intervals, data


def _metrics(data: Labelled, damage: np.ndarray, config: Evaluate) -> dict[str, Interval]:
    """Return the metrics of the preset, of all rows."""
    metrics: dict[str, Metric] = {"auroc": auroc, "auprc": auprc}
    if config.preset not in ("clinvar", "traitgym"):
        metrics["partial_auroc"] = partial_auroc(config.max_fpr)
    found = {
        metric: with_interval(function, data.labels, damage, config.bootstrap, config.seed)
        for metric, function in metrics.items()
    }
    if config.preset == "traitgym":
        if data.chromosomes is None:
            raise UserError(f"--preset traitgym weights chromosomes, and {config.table} has no column chrom")
        resamples = (config.bootstrap, config.seed)
        found["auprc_by_chromosome"] = auprc_by_chromosome(data.labels, damage, data.chromosomes, *resamples)
        if data.matched is not None:
            found["pairwise_accuracy"] = pairwise_accuracy(data.labels, damage, data.matched)
    return found


def _frequency_bins(data: Labelled) -> list[tuple[str, np.ndarray]]:
    """Return (bounds of the minor-allele frequency, rows of the bin and all common ones), where the bin has any."""
    if data.frequencies is None:
        return []
    common = data.frequencies > COMMON_FREQUENCY
    bins = [
        (f"{low:g} to {high:g}", (data.frequencies > low) & (data.frequencies <= high))
        for low, high in pairwise(FREQUENCY_BINS)
    ]
    return [(name, np.flatnonzero(rare | common)) for name, rare in bins if rare.any()]


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
        check_output(config.out, [config.table, config.bed, *config.tracks.values(), *config.scan])
    before = fingerprint([path for path in (config.table, *config.tracks.values(), *config.scan) if path.is_file()])
    records, intervals, data = evaluate_table(config)
    with open_run("r2mae-dna", "evaluate", config.out, resolved(config), sources=before) as run:
        names = list(dict.fromkeys(record.scheme for record in records))
        curves = plot_curves(data.labels, dict(zip(names, data.damage.values(), strict=True)))
        figure = run.save_figure("curves.png", curves)
        for line in (data.regions, *data.looked_up):
            if line:
                say(line)
        say(data.text())
        run.write_results(stamped(records, device_name("cpu")))
        show_table(run, run.results(), RANK_BY, str(config.table))
        for (name, metric), found in intervals.items():
            if found.low is not None:
                say(f"{name} {metric}: {found.value:.4f} (95 % interval {found.low:.4f} to {found.high:.4f})")
            elif found.n is not None:
                error = "" if found.error is None else f" ±{found.error:.4f} (standard error)"
                what = "chromosomes" if metric == "auprc_by_chromosome" else "matched groups"
                skipped = f", {found.left_out:,} without both labels left out" if found.left_out else ""
                say(f"{name} {metric}: {found.value:.4f}{error}; {found.n:,} {what}{skipped}")
        values = [{"scheme": name, "metric": metric, **asdict(found)} for (name, metric), found in intervals.items()]
        write_json(run.path / "intervals.json", {"intervals": values})
        say(f"Figure: {figure}")
        say(f"Done: {run.path} (results.json, table.md)")


def compare_command(config: Compare) -> None:
    """`r2mae-dna compare`."""
    print_comparison(config, RANK_BY)
