"""Pretraining on windows: the module, its optimizer, and `pretrain` (paper, C.7; GPN-MSA's recipe)."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from typing_extensions import override

from r2mae_core import (
    Curriculum,
    CurriculumWeights,
    HeldOutLoss,
    InOrder,
    KeepBest,
    LossWeight,
    MaskDraw,
    MaskedModule,
    Modality,
    RatioPer,
    RatioSampler,
    ResumableLoader,
    RunFolder,
    StepOrder,
    UserError,
    adamw,
    check_output,
    counted_ratio,
    derived_seed,
    inverse_ratio_loss,
    n_masked,
    pasteable,
    read_weights,
    run_pretraining,
    spread,
    weighted_mean,
    without_prefix,
)
from r2mae_dna.all_species import AllSpecies
from r2mae_dna.data.windows import WindowSet
from r2mae_dna.masking import MEAN_SPAN, MaskedBatch, MaskingConfig, mask_windows
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Pretrain
from r2mae_dna.probe import held_out_loss
from r2mae_dna.species_weights import species_weights
from r2mae_dna.weights import save_model

CURRICULUM_HIDDEN, CURRICULUM_OFFSET = (128, 128), 0.5  # C.7
LARGEST_MICRO_BATCH = 512
"""Windows that a device computes at once by default, as in the paper."""


class AlignmentPretraining(MaskedModule):
    """Masked prediction of the reference's bases from the rest of the window and the other species.

    Args:
        model: the network.
        mask_ratio: the scheme; a `Curriculum` adds the learned loss weights.
        masking: how hidden bases are shown and weighted.
        lr: peak learning rate of AdamW.
        warmup: share of the steps in which the rate rises, before the cosine to 0.
        weight_decay: of matrices; vectors and the curriculum head have none.
        seed: seed for masks, dropout, and the initialisation of the curriculum head.
        ratio_per: see `MaskedModule`.
        loss_weight: see `MaskedModule`.
        validation_ratios: fixed ratios of the validation loss.
        all_species: the objective of training, instead of the reference's bases alone.
    """

    takes_ratios = takes_loss_weight = True

    def __init__(
        self,
        model: AlignmentModel,
        mask_ratio: RatioSampler,
        masking: MaskingConfig,
        *,
        lr: float,
        warmup: float,
        weight_decay: float,
        seed: int,
        validation_ratios: tuple[float, ...],
        ratio_per: RatioPer = "step",
        loss_weight: LossWeight = "none",
        all_species: AllSpecies | None = None,
    ) -> None:
        super().__init__(
            mask_ratio, seed=seed, ratio_per=ratio_per, loss_weight=loss_weight, validation_ratios=validation_ratios
        )
        self.model, self.masking, self.all_species = model, masking, all_species
        self.lr, self.warmup, self.weight_decay = lr, warmup, weight_decay
        self.curriculum: CurriculumWeights | None = None
        if isinstance(mask_ratio, Curriculum):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(seed, "curriculum"))
                self.curriculum = CurriculumWeights(
                    model.config.n_hidden, mask_ratio.n_columns, hidden=CURRICULUM_HIDDEN, offset=CURRICULUM_OFFSET
                )

    @override
    def sharded_blocks(self) -> Iterable[nn.Module]:
        # The last layer's weights are read separately: it is computed at some positions only.
        return list(self.model.layers)[:-1]

    @override
    def masked_loss(self, batch: dict[str, Tensor], draw: MaskDraw) -> Tensor:
        """Return sum(w · W · CE) / sum(w) over the hidden bases; W is 1 without a curriculum (A.3).

        With the loss weight "inverse_ratio": sum(w · CE / ratio) over the hidden bases / sum(w) over all bases.
        """
        if self.all_species is not None and self.training:
            draws = (draw.ratio, draw.generator)
            return self.all_species(self.model, batch, *draws, self.masking, draw.loss_weight)
        # Validation hides single bases of the reference, so that all schemes are compared by one loss.
        masking = self.masking if self.training else replace(self.masking, mean_span=None)
        masked = mask_windows(batch, draw.ratio, draw.generator, masking)
        hidden = self.model.encode(masked.codes, masked.positions, masked.places)
        loss = token_losses(self.model, hidden, masked)
        weights = masked.hidden(masked.weights)
        if draw.loss_weight == "inverse_ratio":
            n_rows, n_places = masked.positions.shape
            row = None if masked.places is None else masked.places.div(n_places, rounding_mode="floor")
            per_window = masked.total_weight / n_rows
            ratio = counted_ratio(draw.ratio, masked.codes.shape[1])
            return inverse_ratio_loss(weights * loss, ratio, row, n_rows=n_rows, n_positions=per_window)
        if self.curriculum is None or not self.training:
            return weighted_mean(loss, weights)
        learned = self.curriculum(hidden.flatten(0, 1), draw.column, draw.multiplier)
        if self.is_log_step():
            values = learned.detach()
            logged = {
                "multiplier": draw.multiplier, "min": values.min(), "max": values.max(),
                "log_spread": CurriculumWeights.log_spread(values),
            }  # fmt: skip
            self.log_now({f"curriculum/{name}": value for name, value in logged.items()})
        return weighted_mean(loss, weights, learned)

    @override
    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the network and the curriculum head separately, so that the head never changes the network's step."""
        if gradient_clip_val is not None:
            network = [*self.model.parameters(), *(self.all_species.parameters() if self.all_species else ())]
            head = [] if self.curriculum is None else [*self.curriculum.parameters()]
            for parameters in filter(None, (network, head)):
                torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    @override
    def configure_optimizers(self) -> Any:
        return adamw(
            self.named_parameters(), lr=self.lr, weight_decay=self.weight_decay, total_steps=self.total_steps(),
            warmup=self.warmup, free=lambda name: name.startswith("curriculum."),
        )  # fmt: skip


def token_losses(model: AlignmentModel, hidden: Tensor, masked: MaskedBatch) -> Tensor:
    """Return the cross-entropy of every hidden base, (N,) float32, of `encode`'s output at them."""
    logits = model.head(hidden).float()
    return F.cross_entropy(logits.flatten(0, -2), masked.hidden(masked.labels), reduction="none")


class DnaModality(Modality[Pretrain, AlignmentModel]):
    """What is special to pretraining on windows of an alignment."""

    program, name, unit, has_curriculum = "r2mae-dna", "dna", "windows", True

    def __init__(self, config: Pretrain) -> None:
        super().__init__(config)
        if config.out is not None:
            check_output(config.out, [config.data])
        self.masking = MaskingConfig(
            config.mask_share, config.random_share, config.soft_mask_weight, config.conservation_weights,
            config.label_flip, mean_span(config),
        )  # fmt: skip
        self.windows = WindowSet(config.data)
        self.info = self.windows.info
        self.shape = model_shape(config, self.info.n_species)
        span, window = self.masking.mean_span, self.info.window
        if span is not None and span > window:
            raise UserError(f"--mean_span {span:g} is longer than the windows, which have {window} bases")
        self.validation = WindowSet(config.data, "validation") if self.info.counts.get("validation") else None
        if config.patience is not None and self.validation is None:
            raise UserError(
                f"--patience needs validation windows, and {config.data} has none: make it again with r2mae-dna "
                "prepare --validation_regions REGION, or add --patience null"
            )
        self.n_samples = 2 * len(self.windows)  # both strands of each
        self.species: np.ndarray | None = None
        if config.targets == "all":
            self.species = species_weights(config.species_weights, self.windows, config.tree, config.others_weight)

    @override
    def sampler(self) -> RatioSampler:
        sampler, falls_from = super().sampler(), self.config.falls_from
        if self.config.targets == "all" and isinstance(sampler, Curriculum):
            raise UserError("--targets all does not go together with the learned loss weights of a curriculum (cl)")
        if falls_from is not None:
            if not isinstance(sampler, Curriculum) or sampler.k0 or sampler.ramp is not None:
                raise UserError(f"--falls_from {falls_from} is for a curriculum whose multiplier falls (cl, r2mae+cl)")
            sampler = replace(sampler, falls_from=falls_from)
        return with_freeze(sampler, self.config.freeze_steps)

    @override
    def largest_micro_batch(self, device: str) -> int:
        return LARGEST_MICRO_BATCH

    @override
    def settings(self, micro_batch_size: int) -> dict[str, Any]:
        return {"mean_span": self.masking.mean_span}

    @override
    def facts(self) -> dict[str, Any]:
        weights = {} if self.species is None else {"species_weights": [round(w, 6) for w in self.species.tolist()]}
        return {"windows_digest": self.info.digest, **weights}

    @override
    def build(self, sampler: RatioSampler) -> AlignmentPretraining:
        config = self.config
        model = AlignmentModel(self.shape, derived_seed(config.seed, "start"))
        if config.compile:
            model.compile_trunk()
        all_species = None
        if self.species is not None:
            seed = derived_seed(config.seed, "all species")
            all_species = AllSpecies(self.shape.n_hidden, torch.from_numpy(self.species), config.mask_over, seed)
        return AlignmentPretraining(
            model, sampler, self.masking, lr=config.lr, warmup=config.warmup, weight_decay=config.weight_decay,
            seed=config.seed, validation_ratios=config.validation_ratios, ratio_per=config.ratio_per,
            loss_weight=config.loss_weight, all_species=all_species,
        )  # fmt: skip

    @override
    def title(self, module: Any) -> str:
        network = self.config.model if self.config.n_hidden is None else "a network"
        return (
            f"{network} on {len(self.windows):,} windows of {self.info.window} bases and {self.info.n_species} species "
            f"beside the reference{'' if self.species is None else ', whose letters are predicted as well'}"
        )

    @override
    def loader(self, order: StepOrder, device: str) -> ResumableLoader:
        return ResumableLoader(order, partial(self.windows.batch, pin=device == "cuda"))

    @override
    def held_out(self, micro_batch_size: int) -> InOrder | None:
        if self.validation is None:
            return None
        rows = spread(len(self.validation), self.config.max_windows)
        return InOrder(rows, micro_batch_size, self.validation.batch)

    @override
    def flops(self, module: Any, mask_ratio: float) -> float:
        length, objective = self.info.window, module.all_species
        n = n_masked(mask_ratio, length) if objective is None or objective.over == "columns" else length
        # Backward is twice forward.
        return 3 * (self.shape.flops(length, n) + (0 if objective is None else objective.flops(n)))

    @override
    def callbacks(self, run: RunFolder) -> list[pl.Callback]:
        if self.validation is None:
            return []
        ratios, found = self.config.validation_ratios, list[pl.Callback]()
        monitor = f"val_loss/ratio_{ratios[len(ratios) // 2]:g}"
        if self.config.keep == "best":
            found.append(KeepBest(best_checkpoint(run), monitor))
        if self.config.patience is not None:
            found.append(StopEarly(monitor, patience=self.config.patience, min_delta=0.0))
        return found

    @override
    def trained(self, state: dict[str, Tensor], run: RunFolder) -> AlignmentModel:
        model, keep_best = AlignmentModel(self.shape), self.config.keep == "best" and self.validation is not None
        weights = read_weights(best_checkpoint(run)) if keep_best else state
        model.load_state_dict(without_prefix(weights, "model."))
        return model.eval()

    @override
    def evaluate(self, model: AlignmentModel, device: str) -> HeldOutLoss | None:
        if self.validation is None:
            return None
        ratios, limit = self.config.validation_ratios, self.config.max_windows
        losses = held_out_loss(model, self.validation, ratios=ratios, max_windows=limit, device=device)
        return HeldOutLoss(self.config.data.resolve().name, losses, min(limit, len(self.validation)))

    @override
    def save(self, model: AlignmentModel, folder: Path) -> None:
        save_model(model, folder, self.info.species, self.config.targets, self.info.window)

    @override
    def next_command(self, run: RunFolder) -> str:
        run_path, data = pasteable(run.path), pasteable(self.config.data)
        probe = "" if self.validation is None else f"r2mae-dna probe {run_path} {data}, or "
        return f"{probe}r2mae-dna score {run_path} STORE VARIANTS"


class StopEarly(EarlyStopping):
    """Lightning's early stopping, which a run that was cut off between the decision and its end goes by as well."""

    stopped = False

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "stopped": self.stopped}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.stopped = state_dict["stopped"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.stopped = trainer.should_stop


def best_checkpoint(run: RunFolder) -> Path:
    """Return where the best weights on the validation windows are kept during training."""
    return run.checkpoints / "best.ckpt"


def with_freeze(sampler: RatioSampler, freeze_steps: int | None) -> RatioSampler:
    """Return a curriculum with another number of frozen steps; any other sampler as it is."""
    if freeze_steps is None or not isinstance(sampler, Curriculum):
        return sampler
    return replace(sampler, freeze_steps=freeze_steps)


def mean_span(config: Pretrain) -> float | None:
    """Return the mean length of hidden spans; None: bases are hidden each for itself."""
    if config.mask_shape == "independent":
        return None
    return MEAN_SPAN if config.mean_span is None else config.mean_span


def model_shape(config: Pretrain, n_species: int) -> ModelConfig:
    """Return the network's shape for so many species beside the reference."""
    return ModelConfig.sized(
        config.model, n_species, n_hidden=config.n_hidden, n_layers=config.n_layers, n_heads=config.n_heads,
        dropout=config.dropout,
    )  # fmt: skip


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain as the options say and return the run folder: `model/`, metrics, and the loss on validation windows.

    Raises:
        UserError: the windows, the shape, the scheme or the device is wrong, or the run was interrupted.
    """
    return run_pretraining(DnaModality, config)


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-dna pretrain`."""
    run_pretraining(DnaModality, config, talk=True)
