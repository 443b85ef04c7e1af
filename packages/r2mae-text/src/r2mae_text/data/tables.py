"""Tables of labelled examples: .parquet, .jsonl, .tsv and .csv, as rows."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from r2mae_core import UserError, reading
from r2mae_text.data.sources import open_parquet

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_LONGEST_CELL = (1 << 31) - 1


def read_table(file: Path, damaged: Counter[str], header: bool = True, quoted: bool = True) -> list[dict[str, Any]]:
    """Read a .parquet, .jsonl, .tsv or .csv file as rows.

    Args:
        file: which.
        damaged: counts the rows that are left out because they have more or fewer cells than the header. GLUE's own
            files have a few.
        header: whether a .tsv's first line names the columns; else they are called "0", "1" …
        quoted: whether a .tsv's cells may be quoted, and then hold tabs and line breaks; GLUE's may not: there a quote
            is a character like any other.

    Raises:
        UserError: the file is empty, not UTF-8, has bad JSON or quotes, or more than one row in a hundred is damaged.
    """
    if file.suffix == ".parquet":
        with reading(file, "a parquet file"):
            table = open_parquet(file).read()
        _refuse_twice(table.column_names, file)
        return table.to_pylist()
    text = _decoded(file)
    if file.suffix == ".jsonl":
        return [_json_row(line, file, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    tabs = file.suffix == ".tsv"
    rows = _rows(text, file, "\t" if tabs else ",", csv.QUOTE_NONE if tabs and not quoted else csv.QUOTE_MINIMAL)
    if not rows:
        raise UserError(f"{file} is empty")
    names = rows.pop(0) if header else [str(i) for i in range(len(rows[0]))]
    _refuse_twice(names, file)
    bad = [number for number, row in enumerate(rows, 1 + header) if len(row) != len(names)]
    if len(bad) > len(rows) / 100:
        raise UserError(
            f"{file}: {len(bad):,} of {len(rows):,} rows have more or fewer than the {len(names)} cells of the first "
            f"line (line {bad[0]} for one); tabs or line breaks inside texts? Fetch it again, or use .jsonl or .parquet"
        )
    damaged["damaged rows"] += len(bad)
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _decoded(file: Path) -> str:
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = 3 if raw.startswith(b"\xef\xbb\xbf") else 0  # positions count from behind it
        at = error.start + mark
        line = raw[:at].count(b"\n") + 1
        raise UserError(f"{file}, line {line:,} is not UTF-8 (byte {at:,}); convert it with iconv") from None


def _rows(text: str, file: Path, delimiter: str, quoting: Any) -> list[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    lines = io.StringIO(text, newline="")  # every kind of line end ends a row, and none is lost inside of quotes
    # strict: else an open quote takes in the rest of the file
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        return [row for row in reader if row]
    except csv.Error as error:
        kind = file.suffix.lstrip(".").upper()
        raise UserError(
            f"{file}, line {reader.line_num:,} is not {kind} ({error}); or use .jsonl or .parquet"
        ) from None


def _refuse_twice(names: list[str], file: Path) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{file} names the column {min(twice)!r} twice")


def _json_row(line: str, file: Path, number: int) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(row := dict(pairs)) < len(pairs):
            raise ValueError("it has the same name twice")
        return row

    try:
        row = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}, line {number} is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{file}, line {number} is not an object with columns, but {str(row)[:40]}")
    return row
