"""Pretraining from a prepared file into a run folder."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scvi
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor
from typing_extensions import override

from r2mae_core import (
    SUMS,
    Curriculum,
    HeldOutLoss,
    InOrder,
    MaskedModule,
    Modality,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    StepOrder,
    UserError,
    check_output,
    file_digest,
    pasteable,
    quiet_lightning,
    resolve_device,
    run_pretraining,
    unfinished,
    without_prefix,
)
from r2mae_singlecell.checks import check_genes
from r2mae_singlecell.data.block_shuffle import CHUNK, chosen_shuffle
from r2mae_singlecell.data.counts import CountMatrix
from r2mae_singlecell.data.prepared import data_source, read_prepared
from r2mae_singlecell.data.splitter import (
    batch_maker,
    check_training_cells,
    covariate_tensors,
    lacking_genes,
    pretraining_split,
    training_loader,
)
from r2mae_singlecell.gene_sets import find_gene_sets, read_gene_sets
from r2mae_singlecell.options import Pretrain
from r2mae_singlecell.plan import MaskedPlan
from r2mae_singlecell.r2mae import R2MAE
from r2mae_singlecell.reconstruction import held_out_loss
from r2mae_singlecell.weights import read_description

PAPER_STEPS = 243_000
"""Steps of the paper's HLCA run (2,161,082 cells, 90 %, batches of 400, 50 epochs), to which its marks belong."""


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain a model on a prepared file.

    Returns:
        The run folder: `model/`, and `results.json` with the loss of hidden genes in cells held out.

    Raises:
        UserError: what `run_pretraining` and `read_prepared` refuse.
    """
    return run_pretraining(SingleCells, config)


def pretrain_command(config: Pretrain) -> None:
    """Run `r2mae-singlecell pretrain`."""
    run_pretraining(SingleCells, config, talk=True)


class SingleCells(Modality[Pretrain, R2MAE]):
    """What is special to the pretraining of single cells."""

    program, name, unit = "r2mae-singlecell", "singlecell", "cells"
    has_curriculum, marker = True, "model.json"
    free = ("data", "gene_sets")  # their content counts, not their place

    def __init__(self, config: Pretrain) -> None:
        super().__init__(config)
        scvi.settings.verbosity = 30  # warnings
        self.adata = self.opened()
        sets = config.gene_sets
        self.gene_sets = None if sets is None else find_gene_sets(read_gene_sets(sets), self.adata.var, where=str(sets))
        R2MAE.setup_anndata(self.adata, batch_key="batch" if "batch" in self.adata.obs else None)
        self.cells, self.validation = pretraining_split(self.adata.n_obs)
        self.n_samples = check_training_cells(len(self.cells))

    def opened(self) -> Any:
        """Return the counts as AnnData.

        Raises:
            UserError: what `read_prepared` refuses; the data would be written over.
        """
        if self.config.out is not None:
            check_output(self.config.out, [self.config.data, self.config.gene_sets])
        return read_prepared(self.config.data)

    @override
    def sources(self) -> dict[str, str]:
        found, sets = data_source(self.adata), self.gene_sets
        if sets is not None:  # as they are found in the data: it depends on names that are not in the data's digest
            found["GENE_SETS"] = f"{len(sets.positions):,} sets with {sets.n_covered:,} genes, {sets.digest()}"
        return found

    @override
    def facts(self) -> dict[str, Any]:
        return {} if self.gene_sets is None else {"gene_sets_left_out": list(self.gene_sets.left_out)}

    @property
    @override
    def batch_size(self) -> int:
        return min(self.config.batch_size, self.n_samples)

    @property
    def steps(self) -> int:
        """Optimizer steps of the training."""
        return self.config.epochs * (self.n_samples // self.batch_size)

    @override
    def micro_batch_size(self, device: str) -> int:
        size = super().micro_batch_size(device)
        if size < 2:
            raise UserError("micro-batches of one cell are too small: batch norm needs two or more")
        return size

    @override
    def build(self, sampler: RatioSampler) -> MaskedModule:
        config = self.config
        if config.scale_curriculum:
            sampler = scaled_curriculum(sampler, self.steps)
        elif isinstance(sampler, Curriculum) and sampler.freeze_steps >= self.steps:
            raise UserError(
                f"this training has {self.steps:,} steps and the curriculum's weights are frozen for "
                f"{sampler.freeze_steps:,}, so they would never act; --scale_curriculum true scales that"
            )
        self.model = self.untrained(sampler)
        if config.compile:
            network = self.model.module
            network.hidden_nll, network.masked_nll = (
                torch.compile(network.hidden_nll),
                torch.compile(network.masked_nll),
            )
        return MaskedPlan(
            self.model.module,
            mask_ratio=sampler,
            lr=config.lr,
            weight_decay=config.weight_decay,
            eps=config.eps,
            seed=config.seed,
            ratio_per=config.ratio_per,
            loss_weight=config.loss_weight,
            groups=None if self.gene_sets is None else self.gene_sets.groups(),
            lacking=lacking_genes(self.adata),
        )

    def untrained(self, sampler: RatioSampler) -> R2MAE:
        """Return the model with the weights that it starts from."""
        with quiet_lightning():
            scvi.settings.seed = self.config.seed
        return R2MAE(self.adata, n_hidden=self.config.n_hidden, n_latent=self.config.n_latent, mask_ratio=sampler)

    @override
    def title(self, module: Any) -> str:
        config, adata = self.config, self.adata
        size = f"{adata.n_obs:,} cells × {adata.n_vars:,} genes"
        sets = "" if self.gene_sets is None else f", {self.gene_sets.describe()}"
        blocks = f", cells shuffled in blocks of {config.chunk}" if self.shuffle == "blocks" else ""
        return f"a masked autoencoder ({config.n_hidden}/{config.n_latent}) on {config.data} ({size}){sets}{blocks}"

    @override
    def held_out(self, micro_batch_size: int) -> InOrder | None:
        if not len(self.validation):
            return None
        return InOrder(self.validation, micro_batch_size, lambda cells: self.fetch(cells))

    @override
    def loader(self, order: StepOrder, device: str) -> ResumableLoader:
        if self.shuffle == "blocks":
            counts, covariates = CountMatrix(self.adata.X), covariate_tensors(self.model.adata_manager)
            return training_loader(order, self.cells, counts, covariates, "blocks", chunk=self.config.chunk)
        return ResumableLoader(order, lambda positions: self.fetch(self.cells[positions]))

    @cached_property
    def shuffle(self) -> str:
        """How the cells are shuffled: as asked, as in the run that is resumed, or as the memory allows."""
        asked, out = self.config.shuffle, self.config.out
        if asked == "auto" and out is not None and (out / "config.yaml").exists():
            asked = str(RunFolder.open(out).config.get("shuffle", "exact"))
        return chosen_shuffle(asked, CountMatrix(self.adata.X))[0]

    @override
    def settings(self, micro_batch_size: int) -> dict[str, Any]:
        # Memory may be another when the run is resumed; and a chunk that nothing uses is none.
        return {"shuffle": self.shuffle, "chunk": self.config.chunk if self.shuffle == "blocks" else CHUNK}

    @cached_property
    def fetch(self) -> Callable[[np.ndarray], dict[str, Any]]:
        """Turns cells' indices into a batch. Made at the first batch, when each rank knows its GPU."""
        manager: Any = self.model.adata_manager
        counts = CountMatrix(manager.get_from_registry(REGISTRY_KEYS.X_KEY))
        if self.shuffle == "exact":
            counts.to(resolve_device(self.config.device))
        return batch_maker(counts, covariate_tensors(manager))

    @override
    def flops(self, module: Any, mask_ratio: float) -> float:
        network = module.module
        parts = (network.encoder, network.to_latent, network.decoder, network.to_genes)
        weights = sum(p.numel() for part in parts for p in part.parameters() if p.ndim == 2)
        return 6.0 * weights - 2.0 * network.n_input * self.config.n_hidden  # no gradient for the counts

    @override
    def trained(self, state: dict[str, Tensor], run: RunFolder) -> R2MAE:
        model = self.untrained(self.model.mask_ratio)  # another one: the first may be compiled, or in shards
        model.module.load_state_dict(without_prefix(state, "module."))
        model.module.eval()
        model.is_trained_ = True
        return model

    @override
    def evaluate(self, model: R2MAE, device: str) -> HeldOutLoss | None:
        if not len(self.validation):
            return None
        model.to_device(device)
        losses = held_out_loss(model, self.validation)
        return HeldOutLoss(self.config.data.stem, losses, len(self.validation))

    @override
    def save(self, model: R2MAE, folder: Path) -> None:
        model.export(folder)

    @override
    def next_command(self, run: RunFolder) -> str:
        return f"r2mae-singlecell probe {pasteable(run.path)} {pasteable(self.config.data)}"


def scaled_curriculum(sampler: RatioSampler, n_steps: int) -> RatioSampler:
    """Return the sampler with its curriculum's marks at the same fractions of a training of `n_steps`."""
    if not isinstance(sampler, Curriculum):
        return sampler
    share = n_steps / PAPER_STEPS
    ramp = None
    if sampler.ramp is not None:
        first = round(sampler.ramp[0] * share)
        ramp = (first, max(round(sampler.ramp[1] * share), first + 1))
    return replace(sampler, freeze_steps=round(sampler.freeze_steps * share), ramp=ramp)


def load_run(path: Path, adata: Any, device: str) -> R2MAE:
    """Return the model of a run folder, to be used with prepared data.

    Raises:
        UserError: the folder holds no finished model, a damaged one, or one of other genes or batches.
    """
    scvi.settings.verbosity = 30
    check_run(path, adata)
    return R2MAE.from_export(path / "model", adata, device=resolve_device(device))


def check_run(path: Path, adata: Any) -> None:
    """Refuse a run whose model cannot be used with prepared data, without loading it.

    Raises:
        UserError: the folder holds no finished model, or one of other genes or batches.
    """
    if not (path / "model" / SingleCells.marker).exists():
        raise unfinished(path)
    described = read_description(path / "model")
    remedy = f"name the file that {path} was trained on, or pretrain on this one"
    check_genes(adata, described.genes, remedy)
    if "batch" in adata.obs and (known := described.batches) is not None:
        unknown = sorted(set(adata.obs["batch"].astype(str)) - set(known))
        if unknown:
            raise UserError(
                f"{path} was not trained on the batch {unknown[0]!r}, one of {len(unknown):,} here; {remedy}"
            )


def model_digest(path: Path) -> str:
    """Return what names the model of a run folder, wherever the folder lies.

    Raises:
        UserError: the folder holds no finished model.
    """
    sums = path / "model" / SUMS
    if not sums.exists():
        sums = path / "model" / SingleCells.marker
    if not sums.exists():
        raise unfinished(path)
    return file_digest(sums)
