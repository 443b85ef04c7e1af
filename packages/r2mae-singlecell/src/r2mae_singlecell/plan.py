"""The training plan: core's `MaskedModule`, for the command line and for scvi-tools' trainer."""

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import lightning.pytorch as pl
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    Curriculum,
    Grid,
    Groups,
    LossWeight,
    MaskDraw,
    MaskedModule,
    MaskRatioSampler,
    RatioPer,
    RatioSampler,
    Uniform,
    UserError,
    counted_ratio,
    inverse_ratio_loss,
    rank_and_world_size,
    sampler_from_config,
    scheme,
)
from r2mae_singlecell.data.counts import SparseRows
from r2mae_singlecell.data.foreign_batches import ForeignBatches
from r2mae_singlecell.data.splitter import FILE
from r2mae_singlecell.masking import hidden_columns, hidden_in_cells
from r2mae_singlecell.model import MaskedAutoencoder
from r2mae_singlecell.plateau import Plateau, PlateauSteps

VALIDATION_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7)  # tables 7 and 8


class MaskedPlan(MaskedModule):
    """One ratio and one set of hidden genes per mini-batch; the mean loss of the hidden genes (paper, C.8).

    With `ratio_per="sample"` each cell has a ratio and hidden genes of its own; the mean is over all hidden entries of
    the mini-batch.

    Args:
        module: the network.
        mask_ratio: the scheme.
        lr: Adam's learning rate.
        weight_decay: Adam's, added to the gradient; not on the curriculum head.
        eps: Adam's. scvi-tools' default of 0.01 would matter for the curriculum, whose multiplier acts through its
            sign.
        seed: seed for masks and dropout.
        ratio_per: see `MaskedModule`; "sample" is for each cell.
        loss_weight: see `MaskedModule`.
        validation_ratios: fixed ratios at which validation computes the loss; `validation_loss` is their mean.
        candidates: int64 indices of the genes that may be hidden; None: all.
        lacking: `lacking_genes` of the data: for the cells of a file that lacks genes these count as hidden, and are
            in no loss.
        groups: genes that are hidden together in training; None: each by itself, as always in validation.
        reduce_lr_on_plateau: lower the learning rate when a metric no longer falls.
        lr_factor: see `Plateau`.
        lr_patience: see `Plateau`.
        lr_threshold: see `Plateau`.
        lr_scheduler_metric: see `Plateau`.
        lr_min: see `Plateau`.
        foreign: what the batches must hold, if they are those of a data module that is not ours.
        callbacks: what the trainer shall call besides its own, such as `EpochCheckpoints`.

    Raises:
        UserError: `ratio_per` or `loss_weight` is unknown, or does not go with the scheme; what `Plateau` refuses.
    """

    takes_ratios = takes_loss_weight = True
    module: MaskedAutoencoder

    def __init__(
        self,
        module: MaskedAutoencoder,
        *,
        mask_ratio: MaskRatioSampler,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        eps: float = 1e-8,
        seed: int = 0,
        ratio_per: RatioPer = "step",
        loss_weight: LossWeight = "none",
        validation_ratios: Sequence[float] = VALIDATION_RATIOS,
        candidates: Tensor | None = None,
        lacking: Tensor | None = None,
        groups: Groups | None = None,
        reduce_lr_on_plateau: bool = False,
        lr_factor: float = 0.6,
        lr_patience: int = 30,
        lr_threshold: float = 0.0,
        lr_scheduler_metric: str = "validation_loss",
        lr_min: float = 0.0,
        foreign: ForeignBatches | None = None,
        callbacks: Sequence[pl.Callback] = (),
    ) -> None:
        for name, value, known in (
            ("ratio_per", ratio_per, get_args(RatioPer)), ("loss_weight", loss_weight, get_args(LossWeight))
        ):  # fmt: skip
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        super().__init__(
            mask_ratio,
            seed=seed,
            ratio_per=ratio_per,
            loss_weight=loss_weight,
            validation_ratios=validation_ratios,
        )
        self.module = module
        self.lr, self.weight_decay, self.eps = lr, weight_decay, eps
        self.candidates, self.groups, self.lacking = candidates, groups, lacking
        plateau = Plateau(lr_factor, lr_patience, lr_threshold, lr_scheduler_metric, lr_min)
        self._plateau = PlateauSteps(plateau) if reduce_lr_on_plateau else None
        self._callbacks, self.foreign = callbacks, foreign
        self._sum: Tensor | float = 0.0
        self._n_batches = 0
        self._epoch_loss: Tensor | None = None

    @override
    def sharded_blocks(self) -> Iterable[nn.Module]:
        network = self.module
        return network.encoder, network.to_latent, network.decoder, network.to_genes

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over the trained parameters; without decay on the curriculum head, which rests while frozen."""
        head = set(self.module.curriculum.parameters()) if self.module.curriculum is not None else set()
        wanted = [p for p in self.module.parameters() if p.requires_grad]
        groups = [{"params": [p for p in wanted if p not in head], "weight_decay": self.weight_decay}]
        if head:
            groups.append({"params": [p for p in wanted if p in head], "weight_decay": 0.0})
        optimizer = torch.optim.Adam(groups, lr=self.lr, eps=self.eps, fused=True)
        # Otherwise Lightning refuses to clip the gradients of a fused optimizer in mixed precision.
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
        if self._plateau is not None:
            self._plateau.begin(optimizer)
        return optimizer

    def n_samples(self, batch: dict[str, Any]) -> int:
        """Return the cells of a batch."""
        return len(batch[REGISTRY_KEYS.BATCH_KEY]) if REGISTRY_KEYS.BATCH_KEY in batch else 0  # then it is refused

    @override
    def masked_loss(self, batch: dict[str, Any], draw: MaskDraw) -> Tensor:
        tensors, candidates = self.with_dense_counts(batch), self._on_device()
        # Validation hides each gene by itself, whatever the training does: so all runs are compared by one loss.
        groups, n_genes = self.groups if self.training else None, self.module.n_input
        n_positions = n_genes if candidates is None else len(candidates)
        n_present, present = n_positions, self._present(batch)
        if present is not None:
            tensors[REGISTRY_KEYS.X_KEY] = tensors[REGISTRY_KEYS.X_KEY] * present
            n_present = (present if candidates is None else present[:, candidates]).sum() / len(present)
        if isinstance(draw.ratio, Tensor):
            mask, n_hidden = hidden_in_cells(n_genes, draw.ratio, draw.generator, candidates, groups, present)
            nll = self.module.masked_nll(tensors, mask)
        else:
            columns = hidden_columns(n_genes, draw.ratio, draw.generator, candidates, groups)
            nll = self.module.hidden_nll(tensors, columns)
            n_hidden = nll.numel()  # every one of these columns is hidden in every cell
            if present is not None:
                there = present.index_select(1, columns)
                nll, n_hidden = nll * there, there.sum().clamp_min(1)
            if (weights := self._weights(tensors[REGISTRY_KEYS.X_KEY], draw)) is not None:
                return (weights.index_select(1, columns) * nll).sum() / n_hidden
        if draw.loss_weight == "inverse_ratio":
            ratio = counted_ratio(draw.ratio, n_positions)
            return inverse_ratio_loss(nll, ratio, n_rows=len(nll), n_positions=n_present)
        return nll.sum() / n_hidden

    def _present(self, batch: dict[str, Any]) -> Tensor | None:
        """Return which genes the file of each cell has, (cells, genes) bool, or None where all have all."""
        if self.lacking is None or FILE not in batch:
            return None
        self.lacking = self.lacking.to(self.device)
        return ~self.lacking[batch[FILE].flatten()]

    def _on_device(self) -> Tensor | None:
        """Return the candidates; they and the groups are sent to the device once, not at every step."""
        if self.candidates is not None:
            self.candidates = self.candidates.to(self.device)
        if self.groups is not None:
            self.groups.position = self.groups.position.to(self.device)
            self.groups.unit = self.groups.unit.to(self.device)
        return self.candidates

    def _weights(self, x: Tensor, draw: MaskDraw) -> Tensor | None:
        """Return the curriculum weights, (cells, genes), or None where they are all exactly 1."""
        frozen = draw.multiplier == 0.0 and rank_and_world_size()[1] == 1  # DDP wants every parameter in the graph
        if self.module.curriculum is None or frozen or not self.training:
            return None
        weights = self.module.curriculum(x.log1p(), draw.column, draw.multiplier)
        if self.is_log_step():
            self.log_now({"curriculum/log_spread": self.module.curriculum.log_spread(weights)})
        return weights

    def with_dense_counts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with its counts as (cells, genes) float32, made here on the device.

        Raises:
            UserError: what `ForeignBatches` refuses.
        """
        if self.foreign is not None:
            self.foreign.check(batch)
        x = batch[REGISTRY_KEYS.X_KEY]
        if isinstance(x, SparseRows):
            return {**batch, REGISTRY_KEYS.X_KEY: x.dense(self.module.n_input)}
        return {**batch, REGISTRY_KEYS.X_KEY: x.to_dense() if x.layout != torch.strided else x}

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.n_samples(batch) == 1:
            raise UserError(
                "a batch has one cell, which batch norm cannot work with; choose another batch_size, or drop_last=True"
            )
        loss = super().training_step(batch, batch_idx)
        self._sum, self._n_batches = self._sum + loss.detach(), self._n_batches + 1
        if self.trainer.is_last_batch:
            self._end_epoch()  # here, and not at the epoch's end: before whatever checkpoint is written of this step
        return loss

    def _end_epoch(self) -> None:
        """Log the epoch's mean loss under scvi-tools' names, and stop if it is NaN or infinite."""
        self.check_finite()
        mean = torch.as_tensor(self._sum, device=self.device) / self._n_batches
        reduced: Any = self.trainer.strategy.reduce(mean, reduce_op="mean")
        self._epoch_loss, self._sum, self._n_batches = reduced, 0.0, 0
        values = dict.fromkeys(("train_loss", "reconstruction_loss_train"), float(reduced))
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, self.global_step)

    def on_train_epoch_end(self) -> None:
        """Tell callbacks and progress bar the epoch's mean loss."""
        if self._n_batches:  # stopped within the epoch
            self._end_epoch()
        if self._epoch_loss is not None:
            self._log_both("train_loss", "reconstruction_loss_train", self._epoch_loss, logger=False)
            self._epoch_loss = None
        if self._plateau is not None and self.trainer.is_last_batch:
            lr = self._plateau.end_epoch(self.trainer.callback_metrics)
            self.log("lr", lr, on_step=False, on_epoch=True, rank_zero_only=True)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        own = torch.as_tensor(self._sum, dtype=torch.float32, device=self.device)
        sums: Any = self.all_gather(own) if rank_and_world_size()[1] > 1 else own  # each rank has seen its own cells
        checkpoint["epoch_loss"] = {"sums": sums.reshape(-1).tolist(), "n_batches": self._n_batches}
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.state()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get("epoch_loss", {"sums": [0.0], "n_batches": 0})
        own = kept["sums"][rank_and_world_size()[0] % len(kept["sums"])]
        self._sum, self._n_batches = torch.tensor(own, device=self.device), int(kept["n_batches"])
        if self._plateau is not None and "plateau" in checkpoint:
            self._plateau.load(checkpoint["plateau"])

    @override
    def configure_callbacks(self) -> list[pl.Callback]:
        return list(self._callbacks)

    @override
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().validation_step(batch, batch_idx)
        self._log_both("validation_loss", "reconstruction_loss_validation", loss, self.n_samples(batch))
        return loss

    def _log_both(self, name: str, alias: str, value: Tensor, n: int = 1, *, logger: bool = True) -> None:
        sync = rank_and_world_size()[1] > 1
        for key in (name, alias):
            self.log(
                key, value, prog_bar=key == name, logger=logger, on_step=False, on_epoch=True, batch_size=n,
                sync_dist=sync,
            )  # fmt: skip


def as_sampler(mask_ratio: Any, curriculum: str | None = None, seed: int = 0) -> RatioSampler:
    """Return the sampler that was asked for, with learned loss weights if `curriculum` is given.

    Args:
        mask_ratio: what `r2mae_core.sampler_from_config` understands.
        curriculum: "easy-to-hard", "k0" or None.
        seed: seed for the draws, if `mask_ratio` gives none.

    Raises:
        UserError: the scheme is unknown, or has no form with a curriculum.
    """
    sampler = sampler_from_config(mask_ratio, "singlecell", seed)
    if curriculum is None or isinstance(sampler, Curriculum):
        return sampler
    if curriculum not in ("easy-to-hard", "k0"):
        raise UserError(f"curriculum must be 'easy-to-hard', 'k0' or None, got {curriculum!r}")
    if isinstance(sampler, Uniform):
        low, high = sampler.bounds(0)
        sampler = Grid.spaced(low, high, 10, sampler.seed)
    like = scheme("cl", "singlecell")
    n_columns = len(sampler.values) if isinstance(sampler, Grid) else like.n_columns  # pyright: ignore[reportAttributeAccessIssue]
    return Curriculum(sampler, n_columns, curriculum == "k0", like.freeze_steps, like.ramp)  # pyright: ignore[reportAttributeAccessIssue]
