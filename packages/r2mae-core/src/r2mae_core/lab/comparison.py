"""The comparison table: schemes side by side, mean ± sd over seeds, and ranks as the paper averages them."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.records import Record, read_records
from r2mae_core.lab.setups import Setup, names_apart, setups

Direction = Literal["max", "min"]


def competition_ranks(values: Sequence[float], best: Direction = "max") -> list[int]:
    """Return the rank of each value, 1 for the best; ties share the best rank (1, 2, 2, 4).

    Args:
        values: one per scheme.
        best: whether large or small values are good.

    Raises:
        ValueError: a value is NaN, which has no rank.
    """
    if any(math.isnan(value) for value in values):
        raise ValueError(f"cannot rank NaN: {list(values)}")
    signed = [-value if best == "max" else value for value in values]
    return [1 + sum(other < value for other in signed) for value in signed]


@dataclass(frozen=True)
class Cell:
    """One scheme on one task and metric: mean and sample standard deviation over `n_seeds` seeds."""

    mean: float
    sd: float | None
    n_seeds: int
    paper: float | None

    def text(self) -> str:
        """Return the cell as shown: `0.912 ±0.004`, and the paper's value behind it if there is one.

        A dash where a seed's value is NaN or infinite: a mean of the others would hide it.
        """
        if not math.isfinite(self.mean):
            return "-"
        digits = _digits(self.mean, self.sd)
        spread = f" ±{self.sd:.{digits}f}" if self.sd is not None else ""
        paper = f" (paper {self.paper:g})" if self.paper is not None else ""
        return f"{self.mean:.{digits}f}{spread}{paper}"


@dataclass(frozen=True)
class ComparisonTable:
    """Rows are schemes, columns are (task, metric) pairs; `mean_rank` averages the ranks of the ranked columns."""

    schemes: list[str]
    columns: list[tuple[str, str]]
    cells: dict[tuple[str, str, str], Cell]
    """(scheme, task, metric) → cell; a scheme that was not measured somewhere has no cell there."""
    mean_rank: dict[str, float] | None
    average: dict[str, float] | None = None
    """Scheme → mean of the ranked columns ("Score" in the paper's tables 4 and 6); None where not asked for."""

    def header(self) -> list[str]:
        """Return the column titles; the task is left out where there is only one."""
        one_task = len({task for task, _ in self.columns}) == 1
        titles = [metric if one_task else f"{task} {metric}" for task, metric in self.columns]
        seeds = {cell.n_seeds for cell in self.cells.values()}
        first = f"scheme (n = {seeds.pop()})" if len(seeds) == 1 else "scheme"
        return [first, *titles, *(["average"] if self.average else []), *(["rank"] if self.mean_rank else [])]

    def rows(self) -> list[list[str]]:
        """Return the body as text."""
        body = []
        for name in self.schemes:
            cells = [self.cells.get((name, *column)) for column in self.columns]
            last = [
                format(values[name], spec) if name in values else "-"
                for values, spec in ((self.average, ".3f"), (self.mean_rank, ".2f"))
                if values
            ]
            body.append([name, *(cell.text() if cell else "-" for cell in cells), *last])
        return body

    def markdown(self) -> str:
        """Return a Markdown table."""
        lines = [self.header(), ["---"] * len(self.header()), *self.rows()]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def csv(self) -> str:
        """Return one line per cell, with full precision."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["scheme", "task", "metric", "mean", "sd", "n_seeds", "paper"])
        for (name, task, metric), cell in self.cells.items():
            mean = cell.mean if math.isfinite(cell.mean) else None
            writer.writerow([name, task, metric, mean, cell.sd, cell.n_seeds, cell.paper])
        return out.getvalue()

    def rich(self, title: str | None = None) -> Any:
        """Return what `rich` prints as a table, or as several below each other where the terminal is too narrow."""
        return _TerminalTable(title, [self.header(), *self.rows()])


@dataclass(frozen=True)
class _TerminalTable:
    """Text in rows, the first of them titles. No cell is broken, and no column left out: rich alone drops them."""

    title: str | None
    rows: list[list[str]]

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.measure import Measurement

        unlimited = options.update(width=100_000)

        def fits(table: Any) -> bool:
            return Measurement.get(console, unlimited, table).maximum <= options.max_width

        def shown(title: str | None, columns: list[Any]) -> Any:
            wide = _table(title, columns)
            return wide if fits(wide) else _table(title, columns, compact=True)

        names, *columns = zip(*([cell.replace("_", " ") for cell in row] for row in self.rows), strict=True)
        group, title = [names], self.title
        for column in columns:
            if len(group) > 1 and not fits(_table(None, [*group, column], compact=True)):
                yield shown(title, group)
                group, title = [names], None
            group.append(column)
        yield shown(title, group)


def _table(title: str | None, columns: Sequence[Sequence[str]], *, compact: bool = False) -> Any:
    """Return a table of columns, each with its title first; compact: titles are broken between words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, (name, *cells) in enumerate(columns):
        width = max(map(len, [*name.split(), *cells])) if compact and i else None
        table.add_column(name, justify="right" if i else "left", width=width, no_wrap=width is None)
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table


def compare(
    records: Iterable[Record], rank_by: Mapping[str, Direction] | None = None, *, average: bool = False
) -> ComparisonTable:
    """Gather records into a table.

    Args:
        records: measured values; several seeds of a (scheme, task, metric) make one cell.
        rank_by: the metrics that decide which scheme is better, and in which direction. Each of their columns is ranked
            over the schemes that were measured on all of them. None: no ranks.
        average: average the ranked columns too, all of which must be better when larger.

    Raises:
        ValueError: there is no record, or a (scheme, task, metric, split, seed) appears twice.
    """
    kept, seen = [], set()
    for record in records:
        key = (record.scheme, record.task, record.metric, record.split, record.seed)
        if key in seen:
            raise UserError(f"two records for {key}")
        seen.add(key)
        kept.append(record)
    return _table_of(kept, rank_by, average=average)


def _table_of(
    records: Iterable[Record], rank_by: Mapping[str, Direction] | None, *, average: bool = False
) -> ComparisonTable:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.scheme, record.task, record.metric), []).append(record)
    if not groups:
        raise UserError("there are no records to compare: nothing was measured")
    cells = {key: cell_of(group) for key, group in groups.items()}
    schemes = list(dict.fromkeys(key[0] for key in cells))
    columns = list(dict.fromkeys(key[1:] for key in cells))
    rank_by = rank_by or {}
    scores = _averages(schemes, columns, cells, rank_by) if average else None
    return ComparisonTable(schemes, columns, cells, _mean_ranks(schemes, columns, cells, rank_by), scores)


def compare_runs(runs: Iterable[Path], rank_by: Mapping[str, Direction] | None = None) -> ComparisonTable:
    """Gather the results of run folders (or `results.json` files) into a table: what every `compare` command does.

    A row is one configuration, with its seeds. Where runs of one scheme differ in more than the seed (in an option of
    pretraining or evaluation, or in the data), each configuration has a row of its own, named by what differs.

    Raises:
        UserError: a folder holds no results, or two of them measured the same thing and differ.
    """
    found: dict[str, list[_Measured]] = {}
    named: set[Path] = set()
    for run in map(Path, runs):
        folder = run if run.is_dir() else run.parent
        if folder.resolve() in named:
            raise UserError(f"{folder} is named twice; leave out the repeat")
        named.add(folder.resolve())
        known = setups(folder)
        for record in read_records(run):
            name, setup = known.of(record.scheme, record.seed)
            found.setdefault(name, []).append(_Measured(run, record, setup))
    apart: list[_Measured] = []
    for name, same in found.items():
        names = names_apart(name, [one.setup for one in same])
        apart += [replace(one, record=replace(one.record, scheme=text)) for text, one in zip(names, same, strict=True)]
    return _table_of(_without_repeats(apart), rank_by)


@dataclass(frozen=True)
class _Measured:
    run: Path
    record: Record
    setup: Setup


def _without_repeats(measured: Iterable[_Measured]) -> list[Record]:
    """Return the records, without what several runs measured alike, such as a baseline that needs no model.

    Raises:
        UserError: two runs measured the same thing and differ.
    """
    seen: dict[tuple[Any, ...], _Measured] = {}
    for one in measured:
        record = one.record
        key = (record.scheme, record.task, record.metric, record.split, record.seed, one.setup.seed)
        other = seen.setdefault(key, one)
        same = other.record.value == record.value or (math.isnan(other.record.value) and math.isnan(record.value))
        if not same:
            raise UserError(
                f"{other.run} and {one.run} cannot be compared: both measured {record.metric} of {record.task} for "
                f"{record.scheme} with seed {record.seed}, and got {other.record.value:g} and {record.value:g}; "
                "their configurations are the same, so name one of them"
            )
    return [one.record for one in seen.values()]


def cell_of(group: Sequence[Record]) -> Cell:
    """Return mean and spread of what was measured with several seeds; NaN where one of them is not finite."""
    values = [record.value for record in group]
    if not all(map(math.isfinite, values)):
        return Cell(math.nan, None, len(values), group[0].paper)
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
    return Cell(mean, sd, len(values), group[0].paper)


def _mean_ranks(
    schemes: list[str],
    columns: list[tuple[str, str]],
    cells: Mapping[tuple[str, str, str], Cell],
    rank_by: Mapping[str, Direction],
) -> dict[str, float] | None:
    ranked, complete = _ranked(schemes, columns, cells, rank_by)
    if not ranked or len(complete) < 2:
        return None
    ranks = [
        competition_ranks([cells[name, *column].mean for name in complete], rank_by[column[1]]) for column in ranked
    ]
    return {name: sum(row[i] for row in ranks) / len(ranked) for i, name in enumerate(complete)}


def _averages(
    schemes: list[str],
    columns: list[tuple[str, str]],
    cells: Mapping[tuple[str, str, str], Cell],
    rank_by: Mapping[str, Direction],
) -> dict[str, float] | None:
    ranked, complete = _ranked(schemes, columns, cells, rank_by)
    if lower := [metric for _, metric in ranked if rank_by[metric] == "min"]:
        raise ValueError(f"an average over {lower[0]}, where lower is better, says nothing")
    return {name: sum(cells[name, *column].mean for column in ranked) / len(ranked) for name in complete} or None


def _ranked(
    schemes: list[str],
    columns: list[tuple[str, str]],
    cells: Mapping[tuple[str, str, str], Cell],
    rank_by: Mapping[str, Direction],
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the ranked columns, and the schemes that were measured on all of them."""
    ranked = [column for column in columns if column[1] in rank_by]

    def measured(name: str, column: tuple[str, str]) -> bool:
        return (name, *column) in cells and math.isfinite(cells[name, *column].mean)

    return ranked, [name for name in schemes if ranked and all(measured(name, column) for column in ranked)]


def _digits(mean: float, sd: float | None) -> int:
    """Return how many decimals tell something: two figures of the spread, or four of the value; never above five."""
    scale, figures = (sd, 2) if sd else (abs(mean), 4)
    if not scale or not math.isfinite(scale):
        return 3
    return min(max(figures - 1 - math.floor(math.log10(scale)), 0), 5)
