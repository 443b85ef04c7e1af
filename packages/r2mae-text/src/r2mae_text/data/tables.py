"""Tables of labelled examples: .parquet, .jsonl, .tsv and .csv, as rows."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from r2mae_core import UserError, reading
from r2mae_text.data.sources import open_parquet


def read_table(file: Path, damaged: Counter[str], header: bool = True) -> list[dict[str, Any]]:
    """Read a .parquet, .jsonl, .tsv or .csv file as rows.

    Tab-separated files have no quoting, as GLUE's: a lone quote is a character like any other.

    Args:
        file: which.
        damaged: counts the rows that are left out because they have more or fewer cells than the header. GLUE's own
            files have a few.
        header: whether a .tsv's first line names the columns; else they are called "0", "1" …

    Raises:
        UserError: the file is empty, not UTF-8, has bad JSON or quotes, or more than one row in a hundred is damaged.
    """
    if file.suffix == ".parquet":
        with reading(file, "a parquet file"):
            return open_parquet(file).read().to_pylist()
    text = _decoded(file)
    if file.suffix == ".jsonl":
        return [_json_row(line, file, number) for number, line in enumerate(_lines(text), 1) if line.strip()]
    rows = _csv_rows(text, file) if file.suffix == ".csv" else [line.split("\t") for line in _lines(text)]
    if not rows:
        raise UserError(f"{file} is empty")
    names = rows.pop(0) if header else [str(i) for i in range(len(rows[0]))]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{file}: the first line names the column {min(twice)!r} twice")
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


def _lines(text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def _csv_rows(text: str, file: Path) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # else an open quote takes in the rest of the file
    try:
        return [row for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num:,} is not CSV ({error}); or use .jsonl or .parquet") from None


def _json_row(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}, line {number} is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{file}, line {number} is not an object with columns, but {str(row)[:40]}")
    return row
