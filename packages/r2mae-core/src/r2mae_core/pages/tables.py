"""Tables of a page: text beside the number that a column is sorted by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r2mae_core.lab.comparison import ComparisonTable


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number that the column is sorted by; "" where there is none."""

    text: str
    value: str = ""


@dataclass(frozen=True)
class Row:
    """A row; the number is that of its scheme in the legend."""

    cells: tuple[Cell, ...]
    number: int | None = None


@dataclass(frozen=True)
class Table:
    """A table."""

    header: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    caption: str = ""


def number(text: str, value: float | None) -> Cell:
    """Return a cell that is sorted by a number; nothing, NaN and infinities come last."""
    return Cell(text, repr(float(value)) if value is not None and math.isfinite(value) else "")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of text; a column of numbers is sorted as such."""
    return Table(tuple(header), tuple(Row((Cell(row[0], row[0]), *map(_cell, row[1:]))) for row in rows))


def _cell(text: str) -> Cell:
    try:
        return number(text, float(text))
    except ValueError:
        return Cell(text)


def evaluation_table(title: str, table: ComparisonTable, numbers: Mapping[str, int]) -> Table:
    """Return the comparison of schemes as `compare` prints it: mean ± standard deviation over seeds.

    Args:
        title: above it.
        table: of the records.
        numbers: scheme → its number in the legend.
    """
    counts = {cell.n_seeds for cell in table.cells.values()}
    rows = []
    for name, texts in zip(table.schemes, table.rows(), strict=True):
        cells = [Cell(name, name)]
        for column, text in zip(table.columns, texts[1:], strict=False):
            cell = table.cells.get((name, *column))
            shown = text if cell is None or len(counts) == 1 else f"{text} ({cell.n_seeds})"
            cells.append(number(shown, None if cell is None else cell.mean))
        last = [values.get(name) for values in (table.average, table.mean_rank) if values]
        cells += [number(text, value) for text, value in zip(texts[1 + len(table.columns) :], last, strict=True)]
        rows.append(Row(tuple(cells), numbers.get(name)))
    said = "n: seeds." if len(counts) == 1 else "In brackets: seeds."
    caption = f"Mean ± standard deviation over seeds, where there are two or more. {said} A dash: not measured, or NaN."
    header = tuple(text.replace("_", " ") if i else text for i, text in enumerate(table.header()))
    return Table(header, tuple(rows), title, caption)
