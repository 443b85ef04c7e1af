"""Read a CSV table strictly: what could be meant in two ways is refused, with the line."""

import csv
import io

import numpy as np

from r2mae_theory.arrays import Floats
from r2mae_theory.data import RawTable, because, some
from r2mae_theory.errors import DataError

_MISSING = ("", "na", "nan", "null", "none")
_Line = tuple[int, list[str]]  # number of the line in the file, cells


def read_csv(content: bytes) -> RawTable:
    """Return the numeric columns of a comma-separated file in UTF-8; the first line may hold names.

    Raises:
        DataError: for other text encodings, rows of different lengths, a first line that is neither names nor data, and
            a column that holds both numbers and text.
    """
    lines = _lines(content)
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            raise DataError(f"line {number} has {len(cells)} cells, the first has {width}")
    names, body = _names(lines)
    columns: list[Floats] = []
    places, text = [], []
    for k, name in enumerate(names):
        values, foreign = _column([cells[k] for _, cells in body])
        if not foreign:
            columns.append(values)
            places.append(k)
        elif np.isfinite(values).any():
            line, cells = body[foreign[0]]
            raise DataError(
                f"line {line}, column {name}: {cells[k][:40]!r} is no number, unlike other cells of the column; "
                "correct it, leave it empty, or remove the column"
            )
        else:
            text.append(name)
    notes = [f"dropped {len(text)} columns that are not numeric: {some(text)}"] if text else []
    if not places:
        raise DataError("it has no numeric column" + because(notes))
    return RawTable(np.column_stack(columns), [names[k] for k in places], places, width, notes)


def _lines(content: bytes) -> list[_Line]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not UTF-8 text (byte {content[error.start]:#04x}); save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[_Line] = []
    try:
        lines.extend((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}") from None
    if not lines:
        raise DataError("it has no lines")
    return lines


def _names(lines: list[_Line]) -> tuple[list[str], list[_Line]]:
    """Return the columns' names and the lines of data; without a header the names are the columns' numbers."""
    number, first = lines[0]
    if any(separator in cell for cell in first for separator in ";\t"):
        raise DataError(f"line {number} has semicolons or tabs inside its cells; the cells must be separated by commas")
    filled = [cell.strip() for cell in first if not _is_missing(cell)]
    text = [cell for cell in filled if _number(cell) is None]
    if len(text) == len(filled):
        return first, lines[1:]
    if text:
        raise DataError(
            f"line {number} could be names or data: {text[0][:40]!r} is text and other cells are numbers; "
            "add a first line with a name for each column that is not a number"
        )
    if filled == [str(k) for k in range(len(filled))] and _is_missing(first[0]):  # pandas, with its index
        raise DataError(f"line {number} holds the numbers of the columns, not data; save the table without its index")
    return [str(k) for k in range(len(first))], lines


def _column(cells: list[str]) -> tuple[Floats, list[int]]:
    """Return the cells as numbers (NaN where there is none), and which cells are text."""
    found = [np.nan if _is_missing(cell) else _number(cell) for cell in cells]
    text = [k for k, value in enumerate(found) if value is None]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64), text


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # Python also reads 1_000
    except ValueError:
        return None
