"""`metrics.csv` read back: one line per (step, metric), in the order in which they were logged."""

import csv
from pathlib import Path

from r2mae_core.lab.errors import UserError

COLUMNS = ["step", "metric", "value"]


def read_metrics(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Return metric → [(step, value)] in order of steps. Where a step stands twice, the later line counts.

    Raises:
        UserError: the file is missing, or a line is not (step, metric, value).
    """
    series: dict[str, dict[int, float]] = {}
    file, number = Path(file), 1
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.reader(lines, strict=True)
            if next(rows, None) != COLUMNS:
                raise UserError(f"{file} is damaged: its first line is not {','.join(COLUMNS)}")
            for row in rows:
                number = rows.line_num
                step, metric, value = row
                series.setdefault(metric, {})[int(step)] = float(value)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{file} is not there; it belongs to every run") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged at line {number}: {error}") from None
    return {name: sorted(points.items()) for name, points in series.items()}
