"""`metrics.csv`: one line per (step, metric), appended to; Lightning's own CSV logger drops rows on resume."""

import csv
import hashlib
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.metrics_file import COLUMNS
from r2mae_core.lab.space import saying_disk_full


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
        with saying_disk_full(self.file), self.file.open("a", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerows([step, name, float(value)] for name, value in metrics.items() if name != "epoch")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder's config.yaml holds them."""

    def mark(self) -> dict[str, Any]:
        """Return the file's length and checksum, for a checkpoint."""
        content = self.file.read_bytes() if self.file.exists() else b""
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    @rank_zero_only
    def go_back_to(self, mark: Mapping[str, Any] | None) -> None:
        """Take back all lines after a mark; None: all.

        Raises:
            UserError: what the file held at the mark is not there any more.
        """
        length = mark["bytes"] if mark is not None else 0
        if length == 0:
            self.file.unlink(missing_ok=True)
            return
        content = self.file.read_bytes()[:length] if self.file.exists() else b""
        if mark is not None and hashlib.sha256(content).hexdigest() != mark["sha256"]:
            raise UserError(
                f"{self.file} is damaged or was edited: it is not the log of the checkpoint beside it; restore it, or "
                "start anew in another folder"
            )
        os.truncate(self.file, length)
