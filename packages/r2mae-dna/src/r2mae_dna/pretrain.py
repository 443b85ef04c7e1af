"""Pretraining on windows: the module, its optimizer, and `pretrain` (paper, C.7; GPN-MSA's recipe)."""

import math
import os
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from r2mae_core import RatioSampler, RunFolder, UserError, sampler_from_config, sampler_to_config
from r2mae_core.commands import resolved, say
from r2mae_core.curriculum import CurriculumWeights, weighted_mean
from r2mae_core.data_order import BatchOrder, ResumableLoader
from r2mae_core.devices import device_name, precision, resolve_device
from r2mae_core.masked_module import MaskDraw, MaskedModule
from r2mae_core.randomness import derived_seed
from r2mae_core.run_folder import default_run_path
from r2mae_core.samplers import Curriculum
from r2mae_core.training import train
from r2mae_dna.masking import MaskedBatch, MaskingConfig, mask_windows
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Pretrain
from r2mae_dna.weights import save_model
from r2mae_dna.windows import WindowSet

CURRICULUM_HIDDEN, CURRICULUM_OFFSET = (128, 128), 0.5  # C.7
# Does not change the result, so a run may go on with another.
_FREE = ("log_every",)


class AlignmentPretraining(MaskedModule):
    """Masked prediction of the reference's bases from the rest of the window and the other species.

    Args:
        model: the network.
        mask_ratio: the scheme; a `Curriculum` adds the learned loss weights.
        masking: how hidden bases are shown and weighted.
        lr: AdamW's highest learning rate.
        warmup: steps of linear warm-up before the cosine to 0.
        weight_decay: of matrices; vectors and the curriculum head have none.
        seed: of masks, dropout, and the curriculum head's start.
        validation_ratios: fixed ratios of the validation loss.
    """

    def __init__(
        self,
        model: AlignmentModel,
        mask_ratio: RatioSampler,
        masking: MaskingConfig,
        *,
        lr: float,
        warmup: int,
        weight_decay: float,
        seed: int,
        validation_ratios: tuple[float, ...],
    ) -> None:
        super().__init__(mask_ratio, seed=seed, validation_ratios=validation_ratios)
        self.model, self.masking = model, masking
        self.lr, self.warmup, self.weight_decay = lr, warmup, weight_decay
        self.curriculum: CurriculumWeights | None = None
        if isinstance(mask_ratio, Curriculum):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(seed, "curriculum"))
                self.curriculum = CurriculumWeights(
                    model.config.hidden, mask_ratio.n_columns, hidden=CURRICULUM_HIDDEN, offset=CURRICULUM_OFFSET
                )

    def masked_loss(self, batch: dict[str, Tensor], draw: MaskDraw) -> Tensor:
        """Return sum(w · W · CE) / sum(w) over the hidden bases; W is 1 without a curriculum (A.3)."""
        masked = mask_windows(batch, draw.ratio, draw.generator, self.masking)
        hidden = self.model.encode(masked.codes, masked.positions)
        loss = token_losses(self.model, hidden, masked)
        weights = masked.weights.flatten()
        if self.curriculum is None or not self.training:
            return weighted_mean(loss, weights)
        learned = self.curriculum(hidden.flatten(0, 1), draw.column, draw.multiplier)
        if self.is_log_step():
            values = learned.detach()
            self.log_now(
                {
                    "curriculum/multiplier": draw.multiplier,
                    "curriculum/min": values.min(),
                    "curriculum/max": values.max(),
                    "curriculum/log_spread": CurriculumWeights.log_spread(values),
                }
            )
        return weighted_mean(loss, weights, learned)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the network and the curriculum head apart, so that the head never changes the network's step."""
        if gradient_clip_val is not None:
            for part in filter(None, (self.model, self.curriculum)):
                torch.nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine to 0."""
        parameters = list(self.model.parameters())
        head = [] if self.curriculum is None else list(self.curriculum.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1] + head, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True)
        total, warmup = self.total_steps(), self.warmup

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            position = (step - warmup) / max((total or step + 1) - warmup, 1)
            return 0.5 * (1.0 + math.cos(math.pi * min(position, 1.0)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def token_losses(model: AlignmentModel, hidden: Tensor, masked: MaskedBatch) -> Tensor:
    """Return the cross-entropy of every hidden base, (B · P,) float32."""
    logits = model.head(hidden).float()
    return F.cross_entropy(logits.flatten(0, 1), masked.labels.flatten(), reduction="none")


def training_loader(windows: WindowSet, batch_size: int, seed: int, pin: bool = False) -> ResumableLoader:
    """Return batches of both strands of all windows, in an order that depends on the seed alone."""
    return ResumableLoader(BatchOrder(2 * len(windows), batch_size, seed), partial(windows.batch, pin=pin))


def validation_loader(windows: WindowSet, batch_size: int, limit: int, world_size: int = 1) -> ResumableLoader:
    """Return equal batches of at most `limit` windows, evenly spread, the same in every run, forward strand.

    Raises:
        UserError: there are fewer windows than ranks.
    """
    limit = min(limit, len(windows))
    turns = -(-limit // (batch_size * world_size))
    order = _EvenOrder(len(windows), limit, max(limit // (turns * world_size), 1))
    order.n_batches(world_size)  # fails here rather than in the training
    return ResumableLoader(order, windows.batch)  # pyright: ignore[reportArgumentType]


class _EvenOrder:
    """Batches of evenly spread windows, in file order; ranks take turns."""

    def __init__(self, n: int, limit: int, batch_size: int) -> None:
        self.order = BatchOrder(limit, batch_size)
        self.rows = np.linspace(0, n - 1, limit).astype(np.int64)

    def n_batches(self, world_size: int = 1) -> int:
        return self.order.n_batches(world_size)

    def batch(self, position: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        turn = position % self.n_batches(world_size)
        start = (turn * world_size + rank) * self.order.batch_size
        return self.rows[start : start + self.order.batch_size]


def _callbacks(config: Pretrain, run: RunFolder, monitor: str) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = []
    if config.keep == "best":
        callbacks.append(
            ModelCheckpoint(
                dirpath=run.checkpoints,
                filename="best",
                monitor=monitor,
                save_weights_only=True,
                enable_version_counter=False,
            )
        )
    if config.patience is not None:
        callbacks.append(EarlyStopping(monitor, patience=config.patience, min_delta=0.0))
    return callbacks


def pretrain(config: Pretrain) -> RunFolder:
    """Pretrain as the config says and return the run folder, with the model in `model/`.

    Raises:
        UserError: the windows, the shape, the scheme or the device is wrong, or the run was interrupted.
    """
    device = resolve_device(config.device)
    sampler = with_freeze(sampler_from_config(config.mask_ratio, "dna", seed=config.seed), config.freeze_steps)
    windows = WindowSet(config.windows)
    shape = ModelConfig.sized(
        config.size, windows.info.n_species, hidden=config.hidden, layers=config.layers, heads=config.heads,
        dropout=config.dropout,
    )  # fmt: skip
    masking = _masking(config)
    if config.patience is not None and not windows.info.counts.get("validation"):
        raise UserError(f"--patience needs validation windows, and {config.windows} has none")
    plain = {key: value for key, value in resolved(config).items() if key not in _FREE}
    plain |= {"mask_ratio": sampler_to_config(sampler), "windows_digest": windows.info.digest}
    run = RunFolder(config.out or default_run_path("r2mae-dna", "pretrain"), plain)
    if (run.path / "model" / "config.json").exists():
        return run  # finished before
    module = AlignmentPretraining(
        AlignmentModel(shape, derived_seed(config.seed, "start")),
        sampler,
        masking,
        lr=config.lr,
        warmup=min(config.warmup, config.steps),
        weight_decay=config.weight_decay,
        seed=config.seed,
        validation_ratios=config.validation_ratios,
    )
    if config.compile if config.compile is not None else device == "cuda":
        module.model.compile_trunk()
    world_size = config.devices * config.nodes
    held_out, callbacks = None, []
    if windows.info.counts.get("validation"):
        held_out = validation_loader(
            WindowSet(config.windows, "validation"), config.batch_size, config.validation_windows, world_size
        )
        ratios = config.validation_ratios
        callbacks = _callbacks(config, run, f"val_loss/ratio_{ratios[len(ratios) // 2]:g}")
    trainer = train(
        module,
        training_loader(windows, config.batch_size, config.seed, pin=device == "cuda"),
        run,
        max_steps=config.steps,
        device=device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if world_size > 1 else "auto",
        precision=precision(config.precision, device),
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip,
        checkpoint_every=config.checkpoint_every,
        validation_loader=held_out,
        validate_every=(config.validate_every or max(config.steps // 10, 1)) if held_out is not None else None,
        log_every=config.log_every,
        callbacks=callbacks,
        samples_per_step=config.batch_size * config.accumulate * world_size,
        progress=config.progress,
    )
    if trainer.is_global_zero:
        _save(module, shape, run, windows.info.species)
    trainer.strategy.barrier()
    return run


def _masking(config: Pretrain) -> MaskingConfig:
    try:
        return MaskingConfig(
            config.masked, config.random, config.soft_mask_weight, config.conservation_weights, config.flip
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def with_freeze(sampler: RatioSampler, freeze_steps: int | None) -> RatioSampler:
    """Return a curriculum with another number of frozen steps; any other sampler as it is."""
    from dataclasses import replace

    if freeze_steps is None or not isinstance(sampler, Curriculum):
        return sampler
    return replace(sampler, freeze_steps=freeze_steps)


def _save(module: AlignmentPretraining, shape: ModelConfig, run: RunFolder, species: tuple[str, ...] | None) -> None:
    """Write the best model if there is one, else the last. A compiled model's names are those of its own modules."""
    best = run.checkpoints / "best.ckpt"
    model = AlignmentModel(shape)
    state = module.state_dict()
    if best.exists():
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "model."
    model.load_state_dict({name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)})
    save_model(model, run.path / "model", species)


def pretrain_command(config: Pretrain) -> None:
    """`r2mae-dna pretrain`. Lightning starts the other ranks with the same command: only the first one speaks."""
    if int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) > 0:
        pretrain(config)
        return
    device = resolve_device(config.device)
    sampler = with_freeze(sampler_from_config(config.mask_ratio, "dna", seed=config.seed), config.freeze_steps)
    info = WindowSet(config.windows).info
    say(
        f"{info.counts['train']:,} windows of {info.window} bases and {info.n_species} species beside the reference; "
        f"ratio {sampler.describe()}; {device_name(device)}"
    )
    run = pretrain(config)
    say(
        f"Done: {run.path} (model/, metrics.csv). Next: r2mae-dna probe {run.path} {config.windows}, or r2mae-dna score"
    )
