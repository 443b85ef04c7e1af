"""What the tables of this package rank by, and the stamps that every record gets."""

from collections.abc import Sequence
from dataclasses import replace

from r2mae_core import Record
from r2mae_core.comparison import Direction
from r2mae_core.devices import device_name
from r2mae_core.run_folder import git_commit

METRICS = ("balanced_accuracy", "macro_f1", "auroc_cell", "auroc_donor", "spearman_cell", "spearman_donor")
PEARSONS = tuple(f"pearson@{ratio:g}" for ratio in (0.1, 0.2, 0.3, 0.5, 0.7))
RANK_BY: dict[str, Direction] = dict.fromkeys((*METRICS, *PEARSONS), "max")


def stamped(records: Sequence[Record], device: str) -> list[Record]:
    """Return the records with device and commit."""
    name, commit = device_name(device), git_commit()
    return [replace(record, device=name, git=commit) for record in records]
