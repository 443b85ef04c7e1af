"""Cells of any file as a trained model takes them: its genes in its order, its batches, block by block."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor
from tqdm import tqdm

from r2mae_core import UserError, resolve_device, run_identities, say, unfinished
from r2mae_singlecell import options
from r2mae_singlecell.data.counts import SparseRows
from r2mae_singlecell.data.prepared import read_prepared
from r2mae_singlecell.data.readers import CountsFile, open_counts
from r2mae_singlecell.data.stores import opened
from r2mae_singlecell.data.whole import Rounded
from r2mae_singlecell.genes import GeneMatch, kept_gene_columns, match_genes
from r2mae_singlecell.measured import Measured, measured_in_file
from r2mae_singlecell.new_batches import Covariates, covariates_of
from r2mae_singlecell.r2mae import R2MAE

BATCH_SIZE = 1024
"""Cells that the network computes at once."""


@dataclass
class NewCells:
    """The cells of an open file, and how they fit a model."""

    model: R2MAE
    file: CountsFile
    match: GeneMatch
    covariates: Covariates
    measured: Measured
    rounding: bool = False
    progress: bool = False
    rounded: Rounded = field(default_factory=Rounded)
    n_empty: int = 0
    """Cells without a count in the model's genes, so far."""

    def __len__(self) -> int:
        return self.file.shape[0]

    @property
    def genes(self) -> list[str]:
        """The model's."""
        return list(map(str, self.model.get_var_names()))

    def blocks(self) -> Iterator[tuple[int, Any]]:
        """Yield the first cell of a block, and its counts, (cells, the model's genes) int32.

        Raises:
            UserError: a value is no count, with its cell and gene; or the file is damaged.
        """
        self.n_empty, self.rounded = 0, Rounded()
        counts = self.file.blocks(
            columns=self.match.columns,
            n_columns=self.model.module.n_input,
            rounding=self.rounding,
            rounded=self.rounded,
        )
        with tqdm(total=len(self), unit="cell", disable=not self.progress) as bar:
            for start, rows in counts:
                block: Any = rows
                self.n_empty += int((np.diff(block.indptr) == 0).sum())
                yield start, block
                bar.update(block.shape[0])

    def batches(self) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Yield which cells, and their tensors on the model's device; the network is in evaluation mode."""
        self.model.module.eval()
        device, n_genes = self.model.module.device, self.model.module.n_input
        for start, block in self.blocks():
            for at in range(0, block.shape[0], BATCH_SIZE):
                part: Any = block[at : at + BATCH_SIZE]
                parts = (np.diff(part.indptr), part.indices, part.data)
                rows = SparseRows(*map(torch.from_numpy, parts)).to(device)
                cells = slice(start + at, start + at + part.shape[0])
                others = {key: value.to(device) for key, value in self.covariates.of(cells).items()}
                yield cells, {REGISTRY_KEYS.X_KEY: rows.dense(n_genes), **others}

    def notes(self) -> list[str]:
        """Return what a reader must know of the result, after the blocks were read."""
        found = [self.match.describe(), self.covariates.treatment]
        found += [f"{n:,} {reason} left out" for reason, n in self.file.left_out.items()]
        if self.rounded.close:
            found.append(f"{self.rounded.close:,} counts were whole up to rounding")
        if self.rounded.fractions:
            found.append(f"{self.rounded.fractions:,} fractional counts were rounded")
        if self.n_empty:
            found.append(
                f"{self.n_empty:,} cells have no count in the model's genes: what is said of them means nothing"
            )
        return found

    def about(self) -> dict[str, Any]:
        """Return the same for `uns`, with what names the model."""
        return {
            "model": weights_digest(self.model),
            "data": self.file.path.name,
            "counts": self.file.place,
            "genes_matched_by": self.match.data_column,
            "n_genes_found": self.match.n_found,
            "n_genes_missing": len(self.match.missing),
            "missing_genes": np.array([self.genes[i] for i in self.match.missing], dtype=str),
            "batches": self.covariates.treatment,
            "notes": np.array(self.notes(), dtype=str),
        }


@contextlib.contextmanager
def new_cells(config: options.NewData, scratch: Path, model: R2MAE | None = None) -> Iterator[NewCells]:
    """Open the data of a command and its model.

    Args:
        config: the options.
        scratch: folder for a temporary file, which counts stored by genes need.
        model: in place of that of `config.run`.

    Raises:
        UserError: the file or the run cannot be read, too few genes are found, or a batch is unknown.
    """
    prepared = if_prepared(config.data)
    with open_counts(config.data, config.counts, scratch) as file:
        if not file.shape[0]:
            raise UserError(f"{config.data} has no cells")
        model = model or load_model(config.run, config.device)
        genes, columns = list(map(str, model.get_var_names())), kept_gene_columns(model)
        match = match_genes(
            genes,
            columns,
            file.var,
            duplicates=config.duplicates,
            min_found=config.min_genes_found,
            where=str(config.data),
        )
        registry: Any = model.registry_
        covariates = covariates_of(registry, file.obs, config.batch, config.batch_column)
        measured = measured_in_file(prepared, file.var, match.columns, match.missing, len(genes))
        yield NewCells(model, file, match, covariates, measured, config.round, config.progress)


def in_order(config: Any) -> Any:
    """Return the options with the model first, whichever was named first: only a model's folder is a model."""
    if is_model(config.data) and not is_model(config.run):
        return replace(config, run=config.data, data=config.run)
    return config


def is_model(path: Path) -> bool:
    """Return whether a path is a run folder, or a folder that `export` wrote."""
    return path.is_dir() and any((path / name).exists() for name in ("model/model.json", "model.json", "config.yaml"))


def model_folder(run: Path) -> Path:
    """Return the folder of the model of a run, or of an exported one.

    Raises:
        UserError: there is no finished model in it.
    """
    if not (run / "model.json").exists():
        if not is_model(run):
            raise UserError(f"{run} is neither a run folder of pretrain nor a folder that export wrote")
        run_identities([run], "singlecell")
        run = run / "model"
    if not (run / "model.json").exists():
        raise unfinished(run.parent)
    return run


def load_model(run: Path, device: str) -> R2MAE:
    """Return the model of a run or of an export, without data.

    Raises:
        UserError: there is no finished model in it, or a damaged one.
    """
    return R2MAE.from_export(model_folder(run), device=resolve_device(device))


def weights_digest(model: R2MAE) -> str:
    """Return the SHA-256 of a model's genes and weights, wherever it is kept."""
    found = hashlib.sha256("\0".join(map(str, model.get_var_names())).encode())
    for name, value in model.module.state_dict().items():
        found.update(f"{name} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def say_notes(cells: NewCells) -> None:
    """Print what a reader must know."""
    for note in cells.notes():
        say(f"{note[:1].upper()}{note[1:]}.")


def if_prepared(data: Path) -> Any:
    """Return a prepared file, closed, or None if it is none; one that is damaged or was edited is refused.

    Raises:
        UserError: what `read_prepared` refuses.
    """
    if data.is_file() and data.suffix == ".h5ad":
        with opened(data) as file:
            prepared = "uns/r2mae" in file
        if prepared:
            adata = read_prepared(data)
            adata.file.close()
            return adata
    return None
