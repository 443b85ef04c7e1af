"""Rows of numbers, such as the points of a curve, as plain text, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from r2mae_core import write_text

Row = dict[str, float | int | str | None]


def number(value: float | int | str | None) -> float:
    """Return a cell that holds a number, or NaN if it is missing."""
    return math.nan if value is None else float(value)


def text_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned columns, one line each, under their keys."""
    if not rows:
        return "(nothing)"
    cells = _cells(rows)
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def markdown_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    header, *body = _cells(rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body]) + "\n"


def write_rows(target: Path, rows: Sequence[Row]) -> None:
    """Write CSV with full precision; a missing value is empty, an infinite one is inf."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(target, out.getvalue())


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    columns = _columns(rows)
    return [columns, *([_cell(row.get(key)) for key in columns] for row in rows)]


def _cell(value: float | int | str | None) -> str:
    if value is None or value != value:  # NaN
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
