"""`metrics.csv`: one line per (step, metric), appended to; Lightning's own CSV logger drops rows on resume."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger


class MetricsCSV(Logger):
    """A Lightning logger that appends to one long CSV file with the columns step, metric, value."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = Path(file)

    @property
    def name(self) -> str:
        """The logger's name in Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """One run folder, one version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append one line per metric."""
        new = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            if new:
                writer.writerow(["step", "metric", "value"])
            writer.writerows([step, name, float(value)] for name, value in metrics.items() if name != "epoch")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder's config.yaml holds them."""


def read_metrics(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Return metric → [(step, value)] in order of steps.

    A run that was cut off and resumed has written some steps twice; the later line counts.
    """
    series: dict[str, dict[int, float]] = {}
    with Path(file).open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            series.setdefault(row["metric"], {})[int(row["step"])] = float(row["value"])
    return {name: sorted(points.items()) for name, points in series.items()}
