"""A run folder, and tables in plain text. Files appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from r2mae_theory.experiment import Record


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, content: Any) -> None:
    """Write JSON; numbers that are not finite become null, as JSON has none."""
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def save_figure(folder: Path, name: str, figure: Figure) -> None:
    """Write a figure as PNG and PDF."""
    for ending in ("png", "pdf"):
        write_atomically(folder / f"{name}.{ending}", lambda p: figure.savefig(p, dpi=150))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item") or hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def text_table(records: Sequence[Record]) -> str:
    """Align records, one a line, under their keys."""
    if not records:
        return "(nothing)"
    columns = list(dict.fromkeys(key for record in records for key in record))
    cells = [columns, *([_cell(record.get(key)) for key in columns] for record in records)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
