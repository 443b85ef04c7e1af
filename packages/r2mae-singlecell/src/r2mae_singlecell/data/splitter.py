"""scvi-tools' split of the cells, with loaders that resume, know their rank, and yield sparse rows."""

import hashlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.dataloaders import DataSplitter
from torch import Tensor

from r2mae_core import BatchOrder, InOrder, ResumableLoader, StepOrder, UserError
from r2mae_singlecell.checks import refuse_unknown
from r2mae_singlecell.data.block_shuffle import CHUNK, POOL, BlockLoader, BlockOrder, chosen_shuffle, fits
from r2mae_singlecell.data.counts import CountMatrix
from r2mae_singlecell.data.prepared import missing_genes

logger = logging.getLogger(__name__)

COVARIATES = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
)

FILE = "r2mae_file"
"""Key of a batch: (cells, 1) int64, the row of `lacking_genes` of each cell's file."""
_OF_SPLIT = ("train_size", "validation_size", "shuffle_set_split", "external_indexing", "pin_memory")
_OWN = ("shuffle", "chunk", "pool", "drop_last")
_NOT_OF_SPLIT = {
    "load_sparse_tensor": "counts are always loaded sparse",
    "distributed_sampler": "the loaders know their rank",
    "drop_dataset_tail": "drop_last does it",
}


class CountSplitter(DataSplitter):
    """A `DataSplitter` whose batches are gathered from a `CountMatrix`, shuffled exactly or in blocks.

    Args:
        adata_manager: the manager of the registered AnnData.
        batch_size: cells of a step on each device; no more than there are training cells.
        seed: seed for the order of the cells.
        device: the device that trains: the counts are kept there if they fit.
        shuffle: "exact", "blocks" or "auto"; see `chosen_shuffle`.
        chunk: see `BlockOrder`.
        pool: see `BlockOrder`.
        drop_last: leave out the last, smaller batch of an epoch; other cells are left out in the next one. Several
            devices need it.
        **kwargs: arguments of `DataSplitter`: `train_size`, `validation_size`, `external_indexing`, …

    Raises:
        UserError: there are fewer than two training cells, which batch norm cannot work with, or the last batch would
            have one; an argument is unknown.
    """

    def __init__(
        self,
        adata_manager: Any,
        *,
        batch_size: int,
        seed: int = 0,
        device: Any = "cpu",
        shuffle: str = "auto",
        chunk: int = CHUNK,
        pool: int = POOL,
        drop_last: bool = True,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("datasplitter_kwargs", kwargs, (*_OF_SPLIT, *_OWN), _NOT_OF_SPLIT)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Last batch will have a small size")  # ours leaves it out
            super().__init__(adata_manager, batch_size=batch_size, drop_last=False, **kwargs)
        super().setup()
        n = check_training_cells(len(self.train_idx))
        size = min(batch_size, n)
        if not drop_last and n % size == 1:
            raise UserError(
                f"with drop_last=False the last batch of {n:,} cells in batches of {size} has one cell, which batch "
                "norm cannot work with; choose another batch_size"
            )
        order, self._drops_last = BatchOrder(n, size, seed, drop_last=drop_last), drop_last
        train_idx, val_idx = np.asarray(self.train_idx), np.asarray(self.val_idx)
        self.counts = CountMatrix(adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)).to(device)
        self.covariates = covariate_tensors(adata_manager)
        self.shuffle, why = chosen_shuffle(shuffle, self.counts)
        logger.info("Cells are shuffled %s (%s).", {"blocks": "in blocks"}.get(self.shuffle, "exactly"), why)
        if self.shuffle == "blocks":
            val_idx = np.sort(val_idx)  # read in the order of the file
        self.train_loader = training_loader(
            order, train_idx, self.counts, self.covariates, self.shuffle, chunk=chunk, pool=pool
        )
        self.val_loader = (
            InOrder(val_idx, batch_size, batch_maker(self.counts, self.covariates)) if len(val_idx) else None
        )

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: the constructor makes the split."""

    def order_options(self) -> dict[str, str]:
        """Return what the order of the cells depends on besides seed and batch size, for a training that resumes."""
        order = self.train_loader.order if isinstance(self.train_loader, BlockLoader) else None
        blocks = {} if order is None else {"chunk": str(order.chunk), "pool": str(order.pool)}
        return {"shuffle": self.shuffle, "drop_last": str(self._drops_last), **blocks}

    def digest(self) -> str:
        """Return what names the counts, the covariates and the split, for a training that resumes."""
        found: Any = hashlib.sha256()
        self.counts.digest(found)
        for part in (self.train_idx, self.val_idx, *(values.numpy() for values in self.covariates.values())):
            found.update(f"{part.shape} ".encode())
            found.update(np.ascontiguousarray(part))
        return found.hexdigest()

    def train_dataloader(self) -> Any:
        """Return the training loader (a `ResumableLoader`), always the same one."""
        return self.train_loader

    def val_dataloader(self) -> Any:
        """Return the validation loader, or an empty list."""
        return self.val_loader if self.val_loader is not None else []


def training_loader(
    order: BatchOrder | StepOrder,
    cells: np.ndarray,
    counts: CountMatrix,
    covariates: dict[str, Tensor],
    shuffle: str,
    *,
    chunk: int = CHUNK,
    pool: int = POOL,
) -> ResumableLoader:
    """Return the training batches.

    Args:
        order: how many cells a batch has, and the seed.
        cells: positions of the training cells in the counts.
        counts: of all cells; read into memory if an exact shuffle would be slow otherwise and they fit.
        covariates: of all cells.
        shuffle: "exact" or "blocks".
        chunk: see `BlockOrder`.
        pool: see `BlockOrder`.
    """
    if shuffle == "blocks":
        fetch = batch_maker(counts, covariates)
        return BlockLoader(BlockOrder(order, chunk, pool), np.sort(cells), counts, covariates, fetch)
    if fits(counts):
        counts.loaded()
    fetch = batch_maker(counts, covariates)
    return ResumableLoader(order, lambda positions: fetch(cells[positions]))


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
    """Return the registered covariates of all cells, each (cells, …), and their files if one of them lacks genes."""
    found = {}
    if missing_genes(adata_manager.adata):
        found[FILE] = file_rows(adata_manager.adata)[:, None]
    for key in COVARIATES:
        if key in adata_manager.data_registry:
            values = adata_manager.get_from_registry(key)
            array = values.to_numpy() if isinstance(values, pd.DataFrame) else np.asarray(values)
            whole = key in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.CAT_COVS_KEY)
            found[key] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64 if whole else np.float32))
    return found


def lacking_genes(adata: Any) -> Tensor | None:
    """Return which genes the files lack that data were prepared from, (1 + files, genes) bool; None: they lack none.

    The first row is that of files that have every gene; the others are in the order of `missing_genes`.
    """
    lacks = missing_genes(adata)
    if not lacks:
        return None
    table = torch.zeros(1 + len(lacks), adata.n_vars, dtype=torch.bool)
    for row, positions in enumerate(lacks.values(), 1):
        table[row, torch.from_numpy(positions)] = True
    return table


def file_rows(adata: Any) -> Tensor:
    """Return the row of `lacking_genes` of each cell's file, (cells,) int64."""
    rows = {name: row for row, name in enumerate(missing_genes(adata), 1)}
    return torch.tensor([rows.get(name, 0) for name in adata.obs["file"].astype(str)], dtype=torch.int64)


def batch_maker(counts: CountMatrix, covariates: dict[str, Tensor]) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return the function that turns cells' indices into a batch: sparse rows under `X`, and the covariates."""

    def fetch(cells: np.ndarray) -> dict[str, Any]:
        index = torch.from_numpy(cells)
        return {
            REGISTRY_KEYS.X_KEY: counts.rows(cells),
            **{key: values.index_select(0, index) for key, values in covariates.items()},
        }

    return fetch
