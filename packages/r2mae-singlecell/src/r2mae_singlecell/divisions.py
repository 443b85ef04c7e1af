"""Who is trained on and who is tested: tasks, divisions of the donors, and folds of the grid search (C.8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from r2mae_core import UserError, derived_seed
from r2mae_singlecell.data.presets import known_labels

N_FOLDS = 5
MAX_CELLS = 1000
"""Most cells of a donor; the paper does not state its number."""
MAX_CELLS_IN_ALL = 100_000
"""Most cells where cells are divided, not donors."""


@dataclass(frozen=True)
class Task:
    """One thing to predict from an embedding."""

    name: str
    """Also the column of `obs`."""
    kind: Literal["class", "auroc", "regression"]
    """What is measured: balanced accuracy and macro F1; macro AUROC of cells and donors; Spearman of both."""
    cap_first: bool = False
    """Take at most so many cells of a donor before those without a label are left out, not after."""


TASKS = {
    "hlca": (Task("cell_type", "class", cap_first=True), Task("disease", "class"), Task("age", "regression")),
    "seaad": (Task("cell_type", "class"), Task("disease", "auroc"), Task("age", "regression")),
}
TASKS["seaad-allen"] = TASKS["seaad"]
TASKS["none"] = (Task("cell_type", "class"), *TASKS["hlca"][1:])


@dataclass(frozen=True)
class Protocol:
    """The probing protocol. The paper gives grids, folds and metrics; the rest are our choices."""

    n_splits: int = 5
    """Random divisions of the donors; the paper shows one."""
    train_share: float = 0.5
    """Share of the donors to train on; the paper does not state its share."""
    max_cells: int | Mapping[str, int] | None = None
    """Most cells of a donor, in training and in test, for all tasks or by task; None: 1,000 (where cells are divided,
    100,000 in all). The paper has another number for the cell types of SEA-AD; it does not state its numbers."""
    standardize: bool = True
    """Scale features by the training cells' mean and deviation, so that the grids mean the same for every method; the
    paper does not say."""
    n_folds: int = N_FOLDS
    """Folds of the grid search; fewer where there are fewer training donors."""
    held_out: Literal["donors", "cells"] = "donors"
    """What the probe has not seen: whole donors (the paper's), or cells, of donors that it may have seen."""
    shuffle_labels: bool = False
    """Shuffle the labels among the training donors: the result is chance level."""
    seed: int = 0
    """Seed for divisions and samples; every method gets the same."""

    def cap(self, task: str) -> int:
        """Return the most cells of a donor in a task, or of all where cells are divided."""
        default = MAX_CELLS if self.held_out == "donors" else MAX_CELLS_IN_ALL
        if isinstance(self.max_cells, Mapping):
            return self.max_cells.get(task, default)
        return default if self.max_cells is None else self.max_cells


def named_donors(obs: pd.DataFrame) -> np.ndarray:
    """Return the donor of every cell as text; None where it has none ("nan", "unknown" and the like among them).

    Raises:
        UserError: there is no such column.
    """
    if "donor" not in obs:
        raise UserError(
            "obs has no column 'donor'; name it when the data are prepared (`r2mae-singlecell prepare … --donor_column "
            "COLUMN`), or divide the cells instead (`probe … --held_out cells`, `Protocol(held_out='cells')`)"
        )
    donors: Any = known_labels(pd.Series(obs["donor"]))
    return donors.where(donors.isna(), donors.astype(str)).astype(object).where(~donors.isna(), None).to_numpy()


def _usable(obs: pd.DataFrame, protocol: Protocol) -> np.ndarray:
    """Return whether each cell may be in a division, whatever its label."""
    usable = ~obs["is_reference"].to_numpy(bool) if "is_reference" in obs else np.ones(len(obs), bool)
    if protocol.held_out == "donors":
        usable &= np.array([donor is not None for donor in named_donors(obs)], bool)
    return usable


def left_out(obs: pd.DataFrame, task: Task, protocol: Protocol) -> list[str]:
    """Return a line for each kind of cells that no division of a task has, with their number."""
    lines = []
    if protocol.held_out == "donors" and (n := sum(donor is None for donor in named_donors(obs))):
        lines.append(f"{n:,} of {len(obs):,} cells have no donor and are left out")
    if "is_reference" in obs and (n := int(obs["is_reference"].sum())):
        lines.append(f"{n:,} of {len(obs):,} cells are of reference donors and are left out")
    if n := int((_usable(obs, protocol) & obs[task.name].isna().to_numpy()).sum()):
        lines.append(f"{task.name}: {n:,} of {len(obs):,} cells have no value and are left out")
    return lines


def donor_split(obs: pd.DataFrame, task: Task, protocol: Protocol, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells to train and to test on; no donor is in both, unless the protocol divides cells.

    Raises:
        UserError: there are fewer than two donors, or cells with a value are on one side only.
    """
    usable = _usable(obs, protocol)
    labelled = usable & obs[task.name].notna().to_numpy()
    if not labelled.any():
        raise UserError(f"no cell has a value in {task.name!r}")
    if protocol.held_out == "cells":
        return _cell_split(np.flatnonzero(labelled), task, protocol, split)
    donors = named_donors(obs)
    names = np.unique(donors[usable].astype(str))
    rng = np.random.default_rng(derived_seed(protocol.seed, "donors", split))
    training = training_donors(names, protocol, rng)
    eligible = usable if task.cap_first else labelled
    chosen = np.zeros(len(obs), bool)
    by_donor = pd.Series(np.flatnonzero(eligible)).groupby(donors[eligible]).indices
    cells, cap = np.flatnonzero(eligible), protocol.cap(task.name)
    for donor in sorted(map(str, by_donor)):
        own = cells[by_donor[donor]]
        chosen[rng.permutation(own)[:cap]] = True
    chosen &= labelled
    in_training = np.fromiter((donor in training for donor in donors), bool, len(donors))
    train, test = np.flatnonzero(chosen & in_training), np.flatnonzero(chosen & ~in_training)
    if not len(train) or not len(test):
        raise UserError(
            f"all cells with a value in {task.name!r} are on one side of the division of the donors; give more donors"
        )
    return train, test


def training_donors(names: np.ndarray, protocol: Protocol, rng: np.random.Generator) -> set[str]:
    """Return the donors to train on.

    Raises:
        UserError: there are too few donors for both sides.
    """
    n_train = round(protocol.train_share * len(names))
    if not 0 < n_train < len(names):
        raise UserError(
            f"{len(names)} donors cannot be divided into training and test donors with a training share of "
            f"{protocol.train_share:g}; give more donors, another share, or divide the cells: --held_out cells"
        )
    return set(rng.permutation(names)[:n_train])


def _cell_split(cells: np.ndarray, task: Task, protocol: Protocol, split: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(derived_seed(protocol.seed, "cells", split))
    chosen = rng.permutation(cells)[: protocol.cap(task.name)]
    n_train = round(protocol.train_share * len(chosen))
    if not 0 < n_train < len(chosen):
        raise UserError(f"{len(chosen)} cells with a value in {task.name!r} cannot be divided into training and test")
    return np.sort(chosen[:n_train]), np.sort(chosen[n_train:])


def different_divisions(obs: pd.DataFrame, protocol: Protocol) -> int:
    """Return how many of the divisions of the donors are different: with few donors, some repeat."""
    if protocol.held_out == "cells":
        return protocol.n_splits
    names = np.unique(named_donors(obs)[_usable(obs, protocol)].astype(str))
    seeds = (derived_seed(protocol.seed, "donors", split) for split in range(protocol.n_splits))
    return len({frozenset(training_donors(names, protocol, np.random.default_rng(seed))) for seed in seeds})


def fold_groups(obs: pd.DataFrame, protocol: Protocol, cells: np.ndarray) -> np.ndarray:
    """Return what the folds of the grid search hold apart: the donors of these cells, or the cells themselves."""
    if protocol.held_out == "cells":
        return np.arange(len(cells))
    return named_donors(obs)[cells].astype(str)


def donor_folds(n_cells: int, groups: np.ndarray, n_folds: int = N_FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, validation) indices of the folds of a grid search, which share no donor.

    There are as many folds as training donors if these are fewer. The cells of one donor alone are divided at random.

    Args:
        n_cells: training cells.
        groups: (cells,) their donors.
        n_folds: most folds.

    Raises:
        UserError: there is one cell only.
    """
    from sklearn.model_selection import GroupKFold, KFold

    n_donors = len(np.unique(groups))
    if n_donors > 1:
        return list(GroupKFold(min(n_folds, n_donors)).split(np.zeros(n_cells), groups=groups))
    if n_cells < 2:
        raise UserError("one training cell makes no folds; give more cells")
    return list(KFold(min(n_folds, n_cells), shuffle=True, random_state=0).split(np.zeros(n_cells)))


def fold_note(groups: np.ndarray, n_folds: int) -> str:
    """Return what is special about the folds of a grid search, or nothing."""
    n_donors = len(np.unique(groups))
    if n_donors == 1:
        return "one training donor: the grid search's folds are of its cells, not of donors"
    return f"{n_donors} training donors: {n_donors} folds in the grid search" if n_donors < n_folds else ""
