"""scvi-tools' split of the cells, with loaders that resume, know their rank, and yield sparse rows."""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter
from torch import Tensor

from r2mae_core import BatchOrder, InOrder, ResumableLoader, UserError
from r2mae_singlecell.data.counts import CountMatrix

COVARIATES = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
)


class CountSplitter(DataSplitter):
    """A `DataSplitter` whose batches are gathered from a `CountMatrix` in the order of a `BatchOrder`.

    Args:
        adata_manager: the manager of the registered AnnData.
        batch_size: cells of a step on each device; no more than there are training cells.
        seed: seed for the order of the cells.
        device: the device that trains: the counts are kept there if they fit.
        **kwargs: arguments of `DataSplitter`: `train_size`, `validation_size`, `external_indexing`, …

    Raises:
        UserError: there are fewer than two training cells, which batch norm cannot work with.
    """

    def __init__(
        self, adata_manager: Any, *, batch_size: int, seed: int = 0, device: Any = "cpu", **kwargs: Any
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Last batch will have a small size")  # ours leaves it out
            super().__init__(adata_manager, batch_size=batch_size, drop_last=False, **kwargs)
        super().setup()
        check_training_cells(len(self.train_idx))
        counts = CountMatrix(adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)).to(device)
        covariates = covariate_tensors(adata_manager)
        self._content = counts, covariates
        fetch = batch_maker(counts, covariates)
        train_idx, val_idx = np.asarray(self.train_idx), np.asarray(self.val_idx)
        # The last, smaller batch is left out: one cell alone would break batch norm, and ranks stay together.
        order = BatchOrder(len(train_idx), min(batch_size, len(train_idx)), seed)
        self.train_loader = ResumableLoader(order, lambda positions: fetch(train_idx[positions]))
        self.val_loader = InOrder(val_idx, batch_size, fetch) if len(val_idx) else None

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: the constructor makes the split."""

    def digest(self) -> str:
        """Return what names the counts, the covariates and the split, for a training that resumes."""
        counts, covariates = self._content
        found: Any = hashlib.sha256()
        parts = (counts.csr.indptr, counts.csr.indices, counts.csr.data, self.train_idx, self.val_idx)
        for part in (*parts, *(values.numpy() for values in covariates.values())):
            found.update(f"{part.shape} ".encode())
            found.update(np.ascontiguousarray(part))
        return found.hexdigest()

    def train_dataloader(self) -> Any:
        """Return the training loader (a `ResumableLoader`), always the same one."""
        return self.train_loader

    def val_dataloader(self) -> Any:
        """Return the validation loader, or an empty list."""
        return self.val_loader if self.val_loader is not None else []


def check_training_cells(n: int) -> int:
    """Return a number of training cells that batch norm can work with.

    Raises:
        UserError: there are fewer than two.
    """
    if n < 2:
        raise UserError(f"{n} training cells are too few: batch norm needs two or more")
    return n


def pretraining_split(n_cells: int, seed: int = 0, train_size: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells to train and to validate on (paper, C.8: 90 % and 10 %)."""
    order = np.random.default_rng([seed, 9]).permutation(n_cells)
    n_train = max(round(train_size * n_cells), 1)
    return np.sort(order[:n_train]), np.sort(order[n_train:])


def covariate_tensors(adata_manager: Any) -> dict[str, Tensor]:
    """Return the registered covariates of all cells, each (cells, …)."""
    found = {}
    for key in COVARIATES:
        if key in adata_manager.data_registry:
            values = adata_manager.get_from_registry(key)
            array = values.to_numpy() if isinstance(values, pd.DataFrame) else np.asarray(values)
            whole = key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.CAT_COVS_KEY)
            found[key] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64 if whole else np.float32))
    return found


def batch_maker(counts: CountMatrix, covariates: dict[str, Tensor]) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return the function that turns cells' indices into a batch: sparse rows under `X`, and the covariates."""

    def fetch(cells: np.ndarray) -> dict[str, Any]:
        index = torch.from_numpy(cells)
        return {
            REGISTRY_KEYS.X_KEY: counts.rows(cells),
            **{key: values.index_select(0, index) for key, values in covariates.items()},
        }

    return fetch
