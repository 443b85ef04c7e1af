"""The comparison table: schemes side by side, mean ± sd over seeds, and ranks as the paper averages them."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.records import Record, read_records

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

    def header(self) -> list[str]:
        """Return the column titles; the task is left out where there is only one."""
        one_task = len({task for task, _ in self.columns}) == 1
        titles = [metric if one_task else f"{task} {metric}" for task, metric in self.columns]
        seeds = {cell.n_seeds for cell in self.cells.values()}
        first = f"scheme (n = {seeds.pop()})" if len(seeds) == 1 else "scheme"
        return [first, *titles, *(["rank"] if self.mean_rank else [])]

    def rows(self) -> list[list[str]]:
        """Return the body as text."""
        body = []
        for name in self.schemes:
            cells = [self.cells.get((name, *column)) for column in self.columns]
            rank = []
            if self.mean_rank:
                rank = [f"{self.mean_rank[name]:.2f}" if name in self.mean_rank else "-"]
            body.append([name, *(cell.text() if cell else "-" for cell in cells), *rank])
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


def compare(records: Iterable[Record], rank_by: Mapping[str, Direction] | None = None) -> ComparisonTable:
    """Gather records into a table.

    Args:
        records: measured values; several seeds of a (scheme, task, metric) make one cell.
        rank_by: the metrics that decide which scheme is better, and in which direction. Each of their columns is ranked
            over the schemes that were measured on all of them. None: no ranks.

    Raises:
        ValueError: there is no record, or a (scheme, task, metric, split, seed) appears twice.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    seen: set[tuple[Any, ...]] = set()
    for record in records:
        key = (record.scheme, record.task, record.metric, record.split, record.seed)
        if key in seen:
            raise UserError(f"two records for {key}")
        seen.add(key)
        groups.setdefault(key[:3], []).append(record)
    if not groups:
        raise UserError("there are no records to compare: nothing was measured")
    cells = {key: _cell(group) for key, group in groups.items()}
    schemes = list(dict.fromkeys(key[0] for key in cells))
    columns = list(dict.fromkeys(key[1:] for key in cells))
    return ComparisonTable(schemes, columns, cells, _mean_ranks(schemes, columns, cells, rank_by or {}))


def compare_runs(runs: Iterable[Path], rank_by: Mapping[str, Direction] | None = None) -> ComparisonTable:
    """Gather the results of run folders (or `results.json` files) into a table: what every `compare` command does.

    Raises:
        UserError: a folder holds no results, or two of them measured the same thing.
    """
    records = [record for run in runs for record in read_records(run)]
    try:
        return compare(records, rank_by)
    except ValueError as error:
        raise UserError(f"these runs cannot be compared: {error}") from None


def _cell(group: list[Record]) -> Cell:
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
    ranked = [column for column in columns if column[1] in rank_by]

    def measured(name: str, column: tuple[str, str]) -> bool:
        return (name, *column) in cells and math.isfinite(cells[name, *column].mean)

    complete = [name for name in schemes if all(measured(name, column) for column in ranked)]
    if not ranked or len(complete) < 2:
        return None
    ranks = [
        competition_ranks([cells[name, *column].mean for name in complete], rank_by[column[1]]) for column in ranked
    ]
    return {name: sum(row[i] for row in ranks) / len(ranked) for i, name in enumerate(complete)}


def _digits(mean: float, sd: float | None) -> int:
    """Return how many decimals tell something: two figures of the spread, or four of the value; never above five."""
    scale, figures = (sd, 2) if sd else (abs(mean), 4)
    if not scale or not math.isfinite(scale):
        return 3
    return min(max(figures - 1 - math.floor(math.log10(scale)), 0), 5)
